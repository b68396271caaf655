"""SmoothGrad (Smilkov et al. 2017): the mean magnitude of the gradient over noisy copies of the image."""

from pipeline.families import noisy, path


@path
def smooth_grad(x, normal, *, samples: int = 50, spread: float = 0.25):
    """`spread` is the noise's std as a share of the image's own range of normalised values. The magnitude is that of `gradient`."""
    return noisy(x, normal, samples, spread, lambda moments: moments[:, 0])
