"""SmoothGrad (Smilkov et al. 2017): the mean magnitude of the gradient over noisy copies of the image."""

from pipeline.families import Amount, Count, noisy, path


@path
def smooth_grad(x, normal, *, samples: Count = 50, spread: Amount = 0.25):
    """`spread` is the noise's std as a share of the image's own range of normalised values. The magnitude is that of `gradient`."""
    return noisy(x, normal, samples, spread, lambda moments: moments[:, 0])
