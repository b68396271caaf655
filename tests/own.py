"""Methods and a metric as a user writes them; imported by nobody but `--plugins`."""

from captum.attr import DeepLift, IntegratedGradients

from pipeline.families import cam, captum_method, metric


@cam
def mean_cam(A, noise, *, share: float = 0.5):
    return A.mean(1) + share * noise


@metric
def peak(S):
    return S.argmax() / S.size


captum_method("deep_lift", DeepLift)
captum_method("ig", IntegratedGradients, n_steps=8)
