"""The CAM family on real networks and real images, against references in double precision and against the grad-cam package.

The references hook the network (ours does not) and follow each formula term by term. In double precision ours are these formulas; how far
single precision may be is what their conditioning makes of rounding (conditioning.py).
"""

from functools import cache

import pytest
import torch

from pipeline import backbones, engine
from pipeline.engine.batch import Batch
from pipeline.engine.forward import run_forward
from pipeline.methods import METHODS
from pipeline.spec.grammar import parse
from pipeline.targets import TARGETS
from pipeline.targets.registry import Predictions
from tests.conditioning import EXACT, FACTOR, UNIT, Double, agree, agree_exactly, off, widened
from tests.entries import facts, missing
from tests.real import NETWORKS, real_pictures

IMAGES = 4
CAMS = [name for name, method in METHODS.items() if method.family == "cam"]
REFERENCES = facts("methods", CAMS, "reference")
LIBRARY = facts("methods", CAMS, "PACKAGE")
MOVES = 2  # runs with moved operands


@pytest.fixture(scope="module")
def pictures(realdata):
    return real_pictures(realdata, IMAGES)


class Real:
    """A real network with the pictures, in single and in double precision, and the same network in double precision with a hook."""

    def __init__(self, name, realdata, pictures):
        arch, file, args = NETWORKS[name]
        weights = str(realdata / "weights" / f"{file}.safetensors")
        half = {"mean": "0.5,0.5,0.5", "std": "0.5,0.5,0.5"}
        self.backbone = backbones.load(arch, weights=weights, args={**args, **half})
        self.wide = widened(self.backbone)
        self.pixels, self.labels = pictures
        self.network = self._double(arch, weights, args)

    def _double(self, arch, weights, args):
        import timm
        from safetensors.torch import load_file

        network = timm.create_model(arch.removeprefix("timm/"), **args).eval()
        network.load_state_dict(load_file(weights))
        return network.double()

    @property
    def layer(self):
        return self.network.blocks[-1].norm1 if hasattr(self.network, "cls_token") else self.network.bn2

    @cache  # noqa: B019 (lives as long as the module that tests it)
    def forward(self, draw=...):
        """One pass of the pictures: in single precision, or in double with the operands moved by `draw`, if by any."""
        if draw is ...:
            return run_forward(self.backbone, self.backbone.prepare(self.pixels))
        with Double(draw):
            return run_forward(self.wide, self.wide.prepare(self.pixels))

    def scene(self, target, draw=..., classes=None):
        """The pictures with one target explained, of their labels or of other `classes`."""
        request, forward = parse(target, TARGETS, "target"), self.forward(draw)
        predictions = Predictions(forward.logits, self.labels if classes is None else classes, forward.backbone.class_weights())
        explained = TARGETS[request.name].explain(predictions, **request.args)
        return Batch(forward, (explained,), self.pixels, lambda name: list(range(IMAGES)))

    def maps(self, method, target, draw=..., **how):
        """Our maps [B h w]."""
        if draw is ...:
            return engine.maps(parse(method, METHODS, "method"), self.scene(target, **how), 0)
        with Double(draw):
            return engine.maps(parse(method, METHODS, "method"), self.scene(target, draw, **how), 0)

    def slack(self, method, target):
        """How far single precision may be from our maps in double precision [B]."""
        exact = self.maps(method, target, None)
        moved = [off(self.maps(method, target, draw), exact) for draw in range(MOVES)]
        return FACTOR * torch.stack([*moved, UNIT * exact.flatten(1).abs().amax(1)]).amax(0)

    @cache  # noqa: B019
    def hooked(self):
        """Activations, and the gradients of the label's logit and of what tells it from its three nearest, all [B K h w] float64."""
        kept = []
        handle = self.layer.register_forward_hook(lambda module, inputs, output: kept.append(output.requires_grad_()))
        try:
            with torch.enable_grad():
                y = self.network(self.wide.prepare.normalise(self.pixels.double() / 255))
                own = y[torch.arange(IMAGES), self.labels]
                others = y.detach().clone()
                others[torch.arange(IMAGES), self.labels] = -torch.inf
                finer = own - 0.6 * y.gather(1, others.topk(3).indices).mean(1)
                gradients = [torch.autograd.grad(scalar.sum(), kept[0], retain_graph=True)[0] for scalar in (own, finer)]
        finally:
            handle.remove()
        A, label, finer = (self._grid(value.detach()) for value in (kept[0], *gradients))
        return A, {"label": label, "finer": finer}

    def _grid(self, value):
        return (value if value.dim() == 4 else _reshape(value)).numpy()


@pytest.fixture(scope="module", params=sorted(NETWORKS))
def real(request, realdata, pictures):
    return Real(request.param, realdata, pictures)


def _reshape(tokens):
    side = int((tokens.shape[1] - 1) ** 0.5)
    return tokens[:, 1:].transpose(1, 2).reshape(len(tokens), -1, side, side)


def test_every_method_of_the_family_has_a_formula_or_a_reason_why_not():
    assert not [*missing("methods", {*CAMS} - {*facts("methods", CAMS, "NO_FORMULA")}, ["reference"])]
    assert not REFERENCES.keys() & facts("methods", CAMS, "NO_FORMULA").keys()


@pytest.mark.parametrize("target", ["label", "finer"])
@pytest.mark.parametrize("method", sorted(REFERENCES))
def test_maps_are_the_formula_in_double_precision(real, method, target):
    """And in single precision on every image whose map it determines at all.

    Grad-CAM++'s alpha has a pole where 2 + g sum(A) is zero, which norm1 of a ViT comes close to: there the map moves by more than itself
    when A and g move in their last place, whoever computes it.
    """
    if method == "cam" and real.backbone.pooled_linear is None:
        pytest.skip("CAM exists only where the head is pooling + linear")
    (A, gradients), exact = real.hooked(), real.maps(method, target, None)
    agree_exactly(exact, REFERENCES[method](A, gradients[target]))
    slack, size = real.slack(method, target), exact.flatten(1).abs().amax(1)
    steady = slack <= size / 2
    assert (off(real.maps(method, target), exact) <= slack)[steady].all()
    assert steady.all() or (method == "grad_cam_pp" and steady.any())


def test_a_pooled_linear_head_makes_four_methods_one(real):
    if real.backbone.pooled_linear is None:
        pytest.skip("norm1 of a ViT is not followed by pooling + linear")
    four = "cam", "grad_cam", "xgrad_cam(eps=1e-30)", "hires_cam"
    for target in ("label", "finer"):
        plain, *others = (maps / maps.amax((1, 2), keepdim=True) for maps in (real.maps(method, target, None) for method in four))
        for maps in others:
            agree_exactly(maps, plain)


def test_gamma_zero_is_the_plain_map(real):
    for method in ("grad_cam", "layer_cam", "grad_cam_pp"):
        assert torch.equal(real.maps(method, "finer(gamma=0)"), real.maps(method, "label"))


def test_grad_cam_is_linear_in_the_target_before_the_rectifier(real):
    """Finer-CAM eq. 6-7: the map of y_c - gamma mean y_d is the same combination of the plain maps."""
    written = "grad_cam(norm=minmax)"
    references = real.scene("finer", None).targets[0].reference_ids
    others = [real.maps(written, "label", None, classes=references[:, t]) for t in range(3)]
    agree_exactly(real.maps(written, "finer", None), real.maps(written, "label", None) - 0.6 * sum(others) / 3)


def test_closed_form_gradients_are_those_of_autograd(real):
    if real.backbone.pooled_linear is None:
        pytest.skip("no closed form here")
    direction = torch.randn(IMAGES, 1000, generator=torch.Generator().manual_seed(0))

    def by_closed_form(backbone, direction, A, *rest):
        return ((direction @ backbone.pooled_linear) / A[0, 0].numel())[:, :, None, None].expand_as(A)

    def by_autograd(backbone, direction, A, *rest):
        A = A.detach().requires_grad_()
        return torch.autograd.grad((backbone.head(A, rest) * direction).sum(), A)[0]

    A, rest = real.backbone.trunk(real.backbone.prepare(real.pixels))
    given = (direction, A, *rest)
    agree(by_closed_form, (real.backbone, *given), by_autograd, draws=1, wide=(real.wide, *widened(given)))


def scaled(maps):
    """As the package scales and enlarges each layer's map, and scales what it makes of all layers; both end in single precision."""
    from pytorch_grad_cam.utils.image import scale_cam_image

    return scale_cam_image(scale_cam_image(maps.numpy(), (224, 224)))


@pytest.mark.parametrize("method", sorted(LIBRARY))
def test_maps_are_those_of_the_grad_cam_package(real, method):
    """In double precision, up to where the package rounds to single."""
    import pytorch_grad_cam
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    name, ours = LIBRARY[method]
    shape = _reshape if hasattr(real.network, "cls_token") else None
    with Double(), getattr(pytorch_grad_cam, name)(real.network, [real.layer], reshape_transform=shape) as cam:
        theirs = cam(real.wide.prepare(real.pixels[:2]), [ClassifierOutputTarget(int(label)) for label in real.labels[:2]])
    maps = real.maps(ours, "label", None)[:2]
    options = [maps.relu(), (-maps).relu()] if method == "eigen_cam" else [maps]
    far = torch.stack([off(scaled(option), theirs) for option in options]).amin(0)
    assert (far <= FACTOR * UNIT + EXACT).all()


def test_finer_is_that_of_the_grad_cam_package(real):
    """Its references are ranked by distance of logits and weighted by their probability, gradients flowing through the weights."""
    import pytorch_grad_cam

    right = real.forward(None).logits.argmax(1) == real.labels
    assert right.any()
    shape = _reshape if hasattr(real.network, "cls_token") else None
    with Double(), pytorch_grad_cam.FinerCAM(real.network, [real.layer], reshape_transform=shape) as cam:
        theirs = cam(real.wide.prepare(real.pixels)[right], alpha=0.6)
    maps = real.maps("grad_cam", "finer(reference=logit_distance,weighting=prob)", None)[right]
    far = off(scaled(maps), theirs)
    assert (far <= FACTOR * UNIT + EXACT).all()
