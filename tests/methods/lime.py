"""Facts about LIME."""

import numpy as np
import torch

# the lime package: quickshift's settings, samples, sqrt(exp(-d^2 / 0.25^2)), ridge
DEFAULTS = {"samples": 1000, "kernel": 4, "max_dist": 200.0, "ratio": 0.2, "width": 0.25, "alpha": 1.0}
SHORT = "lime(samples=30)"
TINY = "lime(samples=5)"
NOISY = "lime(samples=20,kernel=2)"
COST = "1F + 30F"


def reference(slow):
    from skimage.segmentation import quickshift
    from sklearn.linear_model import Ridge
    from sklearn.metrics import pairwise_distances

    seed = slow.scene.seeds("lime")[slow.image]
    picture = slow.scene.pixels[slow.image].permute(1, 2, 0).numpy()
    labels = torch.from_numpy(quickshift(picture, kernel_size=2, max_dist=200, ratio=0.2, rng=seed % 2**31))
    number = int(labels.max()) + 1
    z = (torch.rand(60, number, generator=torch.Generator().manual_seed(seed)) < 0.5).double()
    z[0] = 1
    blurred = slow.x.clone()
    for s in range(number):
        blurred[:, labels == s] = slow.x[:, labels == s].mean(1, keepdim=True)
    scores = [slow.p(torch.where((bits[labels] > 0), slow.x, blurred)) for bits in z]
    distance = pairwise_distances(z.numpy(), z[:1].numpy(), metric="cosine").ravel()
    model = Ridge(alpha=1).fit(z.numpy(), scores, sample_weight=np.sqrt(np.exp(-(distance**2) / 0.25**2)))
    assert number > 3
    return torch.from_numpy(model.coef_)[labels].relu()


REFERENCES = {"lime(samples=60,kernel=2)": reference}
PASSES = {"lime": (1000, 0)}
