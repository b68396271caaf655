"""The optimised family in double precision, one image at a time, written from the papers' formulas."""

import math

import numpy as np
import torch
import torch.nn.functional as F

from pipeline.targets import TARGETS
from pipeline.targets.registry import Predictions


class Slow:
    """One image, its network in double precision, and the explained scalar."""

    def __init__(self, backbone, network, pixels, i, target="label"):
        self.x, self.network, self.prepare = pixels[i : i + 1].double() / 255, network, backbone.prepare
        with torch.no_grad():
            y = self.logits(self.x)
            self.A = network[:6](self.prepare.normalise(self.x))
        self.explained = TARGETS[target].explain(Predictions(y, torch.tensor([i % 5])))
        self.d = self.explained.directions[:, 0].double()

    def logits(self, x):
        return self.network(self.prepare.normalise(x))

    def g(self, x):
        return (self.d * self.logits(x)).sum()

    def p(self, x):
        return (self.d * self.logits(x).softmax(1)).sum()

    def margin(self, x):
        y, c = self.logits(x)[0], self.explained.class_id.item()
        return (self.d[0] * y).sum() - max(y[j] for j in range(len(y)) if j != c)


def reference_opti_cam(slow, steps, objective, normalisation, g):
    """Opti-CAM eq. 8-10 and 16-19, A1, A2; Adam with torch's own code; also every objective met."""
    u = torch.full((slow.A.shape[1],), 0.5, dtype=torch.float64, requires_grad=True)
    adam, best, found, met = torch.optim.Adam([u], lr=0.1), math.inf, None, []
    for _ in range(steps):
        S = sum(w * a for w, a in zip(u.softmax(0), slow.A[0], strict=True))
        a = F.interpolate(S[None, None], slow.x.shape[2:], mode="bilinear", align_corners=False)[0, 0]
        s = {
            "range": lambda a: (a - a.min()) / (a.max() - a.min()),
            "max": lambda a: a / a.max(),
            "sigmoid": lambda a: 1 / (1 + torch.exp(-a)),
        }[normalisation](a)
        clean, inside, outside = g(slow.x).detach(), g(slow.x * s), g(slow.x * (1 - s))
        gain = {
            "mask": inside,
            "diff": -(clean - inside).abs(),
            "io_mask": inside - outside,
            "io_diff": -(clean - inside).abs() + (clean - outside).abs(),
        }[objective]
        met.append(gain.item())
        if -gain.item() < best:
            best, found = -gain.item(), S.detach()
        adam.zero_grad()
        (-gain).backward()
        adam.step()
    return found, met


def slow_blur(images, sigma):
    from scipy.ndimage import correlate1d

    radius = math.ceil(4 * sigma)
    kernel = np.exp(-(np.arange(-radius, radius + 1) ** 2) / (2 * sigma**2))
    kernel /= kernel.sum()
    return torch.from_numpy(correlate1d(correlate1d(images.numpy(), kernel, -1, mode="nearest"), kernel, -2, mode="nearest"))


def reference_mask(slow, i, steps, jitter, start, cells=8, soft=2.0, area=1e-3, smooth=1e-2, beta=3):
    """Fong and Vedaldi eq. 3 by torch's Adam; gradient by autograd, one image."""
    generator = torch.Generator().manual_seed(31 * i + len("mask"))
    shifts = [[math.floor(v * (jitter + 1)) - jitter // 2 for v in pair] for pair in torch.rand(steps, 2, generator=generator).tolist()]
    side = slow.x.shape[3]
    blurred, soften = slow_blur(slow.x, 4.0), torch.from_numpy(impulses(soft, side))
    m = start.double().clone().requires_grad_()
    adam = torch.optim.Adam([m], lr=0.1)
    for down, right in shifts:
        up = F.interpolate(m[None, None], (side, side), mode="bilinear", align_corners=False)[0, 0]
        up = soften @ up @ soften.T
        image = up * slow.x + (1 - up) * blurred
        rows = [min(max(r - down, 0), side - 1) for r in range(side)]
        columns = [min(max(c - right, 0), side - 1) for c in range(side)]
        loss = slow.p(image[:, :, rows][:, :, :, columns]) + area * (1 - m).abs().sum()
        for r in range(cells):
            for c in range(cells):
                below, beside = m[min(r + 1, cells - 1), c] - m[r, c], m[r, min(c + 1, cells - 1)] - m[r, c]
                loss = loss + smooth * ((below**2 + beside**2) + 1e-20) ** (beta / 2)
        adam.zero_grad()
        loss.backward()
        adam.step()
        m.data.clamp_(0, 1)
    return 1 - m.detach()


def impulses(sigma, side):
    """The blur along one axis as a matrix, read off unit impulses."""
    from scipy.ndimage import correlate1d

    radius = math.ceil(4 * sigma)
    kernel = np.exp(-(np.arange(-radius, radius + 1) ** 2) / (2 * sigma**2))
    return correlate1d(np.eye(side), kernel / kernel.sum(), 0, mode="nearest")


def in_turn(whole):
    """The order of a mask's values [N] in which what lies within 1/4096 counts as a tie, and ties go by place."""
    return whole.mul(4096).round().sort(stable=True)[1]


def blur_on_zeros(images, sigma):
    """The same Gaussian with zeros beyond the border, by a convolution each way."""
    radius = math.ceil(4 * sigma)
    kernel = torch.exp(-(torch.arange(-radius, radius + 1).double() ** 2) / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    flat = images.flatten(0, -3)[:, None]
    across = F.conv2d(flat, kernel[None, None, None], padding=(0, radius))
    return F.conv2d(across, kernel[None, None, :, None], padding=(radius, 0)).view_as(images)


def reference_extremal(slow, steps, area, cell=7, sigma=6.0, away=5.0, levels=8, order_of=in_turn, blur=slow_blur, smooth=0.0):
    """Fong, Patrick and Vedaldi eq. 5 and 7 by torch's SGD; the mask cell by cell."""
    size = slow.x.shape[3]
    cells = [math.ceil(size / cell)] * 2
    radius, padding, edge = 1 + math.ceil(sigma / cell), 1 + math.ceil(2 * sigma / cell), round(sigma)
    side = cell * (cells[0] + 2 * (padding - radius) - 1) + 1
    pyramid = [blur(slow.x, away * (1 - k / (levels - 1))) if k < levels - 1 else slow.x for k in range(levels)]
    u = torch.ones(cells, dtype=torch.float64, requires_grad=True)
    canvas_y, canvas_x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")

    def canvas():
        taps = []
        for ky in range(2 * radius + 1):
            for kx in range(2 * radius + 1):
                i, j = canvas_y // cell + ky - padding, canvas_x // cell + kx - padding
                inside = (i >= 0) & (i < cells[0]) & (j >= 0) & (j < cells[1])
                z = ((canvas_y - sigma - cell * i) ** 2 + (canvas_x - sigma - cell * j) ** 2).double().sqrt() / sigma
                taps.append(torch.exp(-2 * (z - 0.5).clamp(min=0) ** 2) * inside * u[i.clamp(0, cells[0] - 1), j.clamp(0, cells[1] - 1)])
        taps = torch.stack(taps)
        return (taps * torch.softmax(20 * taps, 0)).sum(0).clamp(0, 1)

    sgd = torch.optim.SGD([u], lr=0.01, momentum=0.9, dampening=0.9)
    total = side * side
    wanted = torch.ones(total, dtype=torch.float64)
    wanted[: int(total * (1 - area))] = 0
    weight = 300.0
    for t in range(steps):
        whole = canvas()
        place = whole[edge : edge + size, edge : edge + size] * (levels - 1)
        image = 0
        for k in range(levels):  # a hat function about each level
            image = image + (1 - (place - k).abs()).clamp(min=0) * pyramid[k]
        if t % 2 == 0:
            image = image.flip(3)
        order = order_of(whole.detach().flatten())
        energy = slow.g(image) - weight * (whole.flatten()[order] - wanted).square().mean()
        sgd.zero_grad()
        (-energy).backward()
        sgd.step()
        u.data.clamp_(0, 1)
        weight *= 1.0035
    mask = canvas()[edge : edge + size, edge : edge + size].detach()
    return blur_on_zeros(mask[None], smooth * size)[0] if smooth else mask
