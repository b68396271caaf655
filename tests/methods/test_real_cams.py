"""The CAM family on real networks and real images, against references in double precision and against the grad-cam package.

The references hook the network (ours does not) and follow each formula term by term.
"""

from functools import cache

import numpy as np
import pytest
import torch

from pipeline import backbones, engine
from pipeline.engine.batch import Batch
from pipeline.engine.forward import run_forward
from pipeline.methods import METHODS
from pipeline.spec.grammar import parse
from pipeline.targets import TARGETS
from pipeline.targets.registry import Predictions
from tests.entries import facts, missing
from tests.real import IMAGES, NETWORKS, real_pictures


class Seen:
    """A real network with its look at the pictures, and the same network in double precision with a hook."""

    def __init__(self, name, realdata, pictures):
        arch, file, args = NETWORKS[name]
        self.weights = str(realdata / "weights" / f"{file}.safetensors")
        self.half = {"mean": "0.5,0.5,0.5", "std": "0.5,0.5,0.5"}
        self.backbone = backbones.load(arch, weights=self.weights, args={**args, **self.half})
        self.pixels, self.labels = pictures
        self.x = self.backbone.prepare(self.pixels)
        self.look = run_forward(self.backbone, self.x)
        self.answers = Predictions(self.look.logits, self.labels, self.backbone.class_weights)
        self.network = self._double(arch, args)

    def _double(self, arch, args):
        import timm
        from safetensors.torch import load_file

        network = timm.create_model(arch.removeprefix("timm/"), **args).eval()
        network.load_state_dict(load_file(self.weights))
        return network.double()

    @property
    def layer(self):
        return self.network.blocks[-1].norm1 if hasattr(self.network, "cls_token") else self.network.bn2

    def maps(self, method, target):
        """Our maps [B h w] as numpy."""
        request = parse(target, TARGETS, "target")
        explained = TARGETS[request.name].explain(self.answers, **request.args)
        method = parse(method, METHODS, "method")
        return engine.maps(method, self.scene(explained), 0).numpy(), explained

    def scene(self, explained):
        return Batch(self.look, (explained,), self.pixels, lambda name: list(range(IMAGES)))

    def gradient(self, target):
        """Our gradient [B K h w]."""
        explained = TARGETS[target].explain(self.answers)
        return self.look.gradients([explained.directions[:, 0]])[0]

    @cache  # noqa: B019 (lives as long as the module that tests it)
    def hooked(self, target):
        """Activations and gradients [B K h w] in double precision, of the label's logit or of what tells it from its three nearest."""
        parts = [self._hooked(target, slice(start, start + 10)) for start in range(0, IMAGES, 10)]
        return tuple(np.concatenate(values) for values in zip(*parts, strict=True))

    def _hooked(self, target, part):
        kept = {}

        def keep(module, inputs, output):
            output.requires_grad_()
            output.retain_grad()
            kept["A"] = output

        handle = self.layer.register_forward_hook(keep)
        try:
            with torch.enable_grad():
                y, labels = self.network(self.x[part].double()), self.labels[part]
                own = y[torch.arange(len(y)), labels]
                others = y.detach().clone()
                others[torch.arange(len(y)), labels] = -torch.inf
                finer = own - 0.6 * y.gather(1, others.topk(3).indices).mean(1)
                (own if target == "label" else finer).sum().backward()
        finally:
            handle.remove()
        return tuple(self._grid(value) for value in (kept["A"].detach(), kept["A"].grad))

    def _grid(self, value):
        if value.dim() == 4:
            return value.numpy()
        side = int((value.shape[1] - 1) ** 0.5)
        return value[:, 1:].transpose(1, 2).reshape(len(value), -1, side, side).numpy()


@pytest.fixture(scope="module")
def pictures(realdata):
    return real_pictures(realdata)


@pytest.fixture(scope="module", params=sorted(NETWORKS))
def seen(request, realdata, pictures):
    return Seen(request.param, realdata, pictures)


def relu(values):
    return np.maximum(values, 0)


CAMS = [name for name, method in METHODS.items() if method.family == "cam"]
REFERENCES = facts("methods", CAMS, "reference")


def correlations(ours, theirs):
    """Pearson's r of each pair of maps; 1 where both are zero everywhere."""
    ours, theirs = (m.reshape(len(m), -1).astype(np.float64) for m in (ours, theirs))
    result = []
    for a, b in zip(ours, theirs, strict=True):
        flat = np.ptp(a) == 0 and np.ptp(b) == 0
        result.append(1.0 if flat else np.corrcoef(a, b)[0, 1])
    return np.array(result)


def test_every_method_of_the_family_has_a_formula_or_a_reason_why_not():
    assert not [*missing("methods", {*CAMS} - {*facts("methods", CAMS, "NO_FORMULA")}, ["reference"])]
    assert not REFERENCES.keys() & facts("methods", CAMS, "NO_FORMULA").keys()


@pytest.mark.parametrize("target", ["label", "finer"])
@pytest.mark.parametrize("method", sorted(REFERENCES))
def test_maps_agree_with_the_formula_in_double_precision(seen, method, target):
    """On every image whose map single precision determines at all.

    Grad-CAM++'s alpha has a pole where 2 + g sum(A) is zero, which norm1 of a ViT comes close to: there the map moves when A and g
    move by one part in a million, whoever computes it. Given the same A and g, all images agree.
    """
    if method == "cam" and seen.backbone.pooled_linear is None:
        pytest.skip("CAM exists only where the head is pooling + linear")
    ours, (A, G) = seen.maps(method, target)[0], seen.hooked(target)
    theirs, jitter = REFERENCES[method](A, G), np.random.default_rng(0).normal(1, 1e-6, (2, *A.shape))
    steady = correlations(REFERENCES[method](A * jitter[0], G * jitter[1]), theirs) >= 0.9999
    assert correlations(ours, theirs)[steady].min() >= 0.9999
    assert steady.sum() >= (IMAGES - 2 if method == "grad_cam_pp" else IMAGES)
    own_A, own_G = seen.look.A.detach().double().numpy(), seen.gradient(target).double().numpy()
    assert correlations(ours, REFERENCES[method](own_A, own_G)).min() >= 0.9999


def test_a_pooled_linear_head_makes_four_methods_one(seen):
    if seen.backbone.pooled_linear is None:
        pytest.skip("norm1 of a ViT is not followed by pooling + linear")
    for target in ("label", "finer"):
        plain = seen.maps("grad_cam", target)[0]
        for method in ("cam", "xgrad_cam", "hires_cam"):
            assert correlations(seen.maps(method, target)[0], plain).min() >= 0.9999


def test_gamma_zero_is_the_plain_map(seen):
    for method in ("grad_cam", "layer_cam", "grad_cam_pp"):
        assert np.array_equal(seen.maps(method, "finer(gamma=0)")[0], seen.maps(method, "label")[0])


def test_grad_cam_is_linear_in_the_target_before_the_rectifier(seen):
    """Finer-CAM eq. 6-7: the map of y_c - gamma mean y_d is the same combination of the plain maps."""
    finer, explained = seen.maps("grad_cam(norm=minmax)", "finer")

    def plain(classes):
        answers = Predictions(seen.look.logits, classes)
        only = TARGETS["label"].explain(answers)
        return engine.maps(parse("grad_cam(norm=minmax)", METHODS, "method"), seen.scene(only), 0).numpy()

    combined = plain(seen.labels) - 0.6 * np.mean([plain(explained.reference_ids[:, t]) for t in range(3)], axis=0)
    np.testing.assert_allclose(finer, combined, atol=1e-5 * np.abs(combined).max())


def test_closed_form_gradients_are_those_of_autograd(seen):
    if seen.backbone.pooled_linear is None:
        pytest.skip("no closed form here")
    direction = torch.randn(len(seen.labels), 1000, generator=torch.Generator().manual_seed(0))
    closed = seen.look.gradients([direction])[0]
    with torch.no_grad():
        A, rest = seen.backbone.trunk(seen.x)
    A.requires_grad_()
    auto = torch.autograd.grad((seen.backbone.head(A, rest) * direction).sum(), A)[0]
    torch.testing.assert_close(closed, auto, atol=1e-6, rtol=1e-4)


LIBRARY = facts("methods", CAMS, "PACKAGE")


@pytest.mark.parametrize("method", sorted(LIBRARY))
def test_maps_agree_with_the_grad_cam_package(seen, method):
    import pytorch_grad_cam
    from pytorch_grad_cam.utils.image import scale_cam_image
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    name, ours = LIBRARY[method]
    few = slice(0, 12)
    network = seen.network.float()
    try:
        layer = seen.layer
        with getattr(pytorch_grad_cam, name)(
            network, [layer], reshape_transform=_reshape if hasattr(network, "cls_token") else None
        ) as cam:
            theirs = cam(seen.x[few], [ClassifierOutputTarget(int(label)) for label in seen.labels[few]])
    finally:
        network.double()
    maps = seen.maps(ours, "label")[0][few]
    options = [relu(maps), relu(-maps)] if method == "eigen_cam" else [maps]
    scaled = [scale_cam_image(scale_cam_image(option), (224, 224)) for option in options]
    agreement = np.max([correlations(option, theirs) for option in scaled], axis=0)
    assert agreement.min() >= 0.999


def test_finer_agrees_with_the_grad_cam_package(seen):
    """Its references are ranked by distance of logits and weighted by their probability, gradients flowing through the weights."""
    import pytorch_grad_cam
    from pytorch_grad_cam.utils.image import scale_cam_image

    predicted = seen.look.logits.argmax(1)
    right = [i for i in range(IMAGES) if predicted[i] == seen.labels[i]][:8]
    network = seen.network.float()
    try:
        reshape = _reshape if hasattr(network, "cls_token") else None
        with pytorch_grad_cam.FinerCAM(network, [seen.layer], reshape_transform=reshape) as cam:
            theirs = cam(seen.x[right], alpha=0.6)
    finally:
        network.double()
    maps = seen.maps("grad_cam", "finer(reference=logit_distance,weighting=prob)")[0][right]
    assert correlations(scale_cam_image(scale_cam_image(maps), (224, 224)), theirs).min() >= 0.999


def _reshape(tokens):
    side = int((tokens.shape[1] - 1) ** 0.5)
    return tokens[:, 1:].transpose(1, 2).reshape(len(tokens), -1, side, side)
