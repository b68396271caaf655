"""A network cut in two is still that network, wherever it is cut, whoever made it."""

import copy
import io
import subprocess
import sys
import tarfile
import textwrap
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from pipeline.backbones import Backbone, load
from pipeline.backbones.preprocess import Preprocessing
from pipeline.refusal import Refusal
from tests.conditioning import agree, off, slack
from tests.cuts import at_once, by_halves


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Small networks gain nothing from threads, and lose much where other tests run beside these."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@dataclass(frozen=True)
class Family:
    """One network of a family, small: `args` shrink the large ones, `size` is the side of its images."""

    model: str
    layer: str
    size: int
    pooled: bool = False
    args: dict = field(default_factory=dict, hash=False)


# a narrow and shallow member of a family that timm has only in large
NARROW = {"depth": 2, "embed_dim": 48, "num_heads": 3}
STAGES = {"depths": (1, 1, 2, 1), "embed_dim": 24, "num_heads": (1, 2, 2, 4)}

FAMILIES = [
    Family("resnet18", "layer4.1", 96, True),
    Family("resnext50_32x4d", "layer4.2", 64, True),
    Family("seresnet18", "layer4.1", 64, True),
    Family("skresnet18", "layer4.1", 64, True),
    Family("res2net50_14w_8s", "layer4.2", 64, True),
    Family("resnest14d", "layer4.0", 64, True),
    Family("resnetv2_18", "norm", 64, True),
    Family("densenet121", "features.norm5", 64, True),
    Family("vgg11_bn", "features.27", 96, False, {"mlp_ratio": 0.02}),
    Family("inception_v3", "Mixed_7c", 107, True),
    Family("xception41", "blocks.12", 64, True),
    Family("dla46_c", "level5", 64, True),
    Family("hrnet_w18_small", "final_layer.2", 64, True),
    Family("regnetx_002", "s4", 64, True),
    Family("repvgg_a0", "stages.3.0", 64, True),
    Family("mobileone_s0", "stages.3.1", 64, True),
    Family("efficientnet_b0", "bn2", 64, True),
    Family("tinynet_e", "bn2", 64, True),
    Family("mobilenetv2_050", "bn2", 64, True, {"pad_type": "same"}),
    Family("mobilenetv3_small_050", "blocks.5.0", 64),
    Family("mobilenetv4_conv_small", "blocks.4.0", 64),
    Family("lcnet_035", "blocks.5.1", 64),
    Family("ghostnet_050", "blocks.9.0", 64),
    Family("rexnet_100", "features.16", 64, True),
    Family("test_nfnet", "final_act", 96, True),
    Family("test_byobnet", "stages.3.0", 96, True),
    Family("fastvit_t8", "final_conv", 64, True),
    Family("convnext_atto", "stages.3", 64),
    Family("convnextv2_atto", "stages.3", 64),
    Family("edgenext_xx_small", "stages.3", 64),
    Family("poolformer_s12", "stages.3", 64),
    Family("test_mambaout", "stages.3", 96),
    Family("halonet26t", "stages.3.1", 256, True),
    Family("resnet50_clip", "stages.3.2", 64, False, {"img_size": 64}),
    Family("mobilevit_xxs", "final_conv", 64, True),
    Family("efficientvit_b0", "head.in_conv", 64),
    Family("efficientformerv2_s0", "norm", 224, True),
    Family("pvt_v2_b0", "stages.3", 64, True),
    Family("davit_tiny", "stages.3", 64, False, {"depths": (1, 1, 1, 1), "embed_dims": (24, 48, 48, 96), "num_heads": (1, 2, 2, 4)}),
    Family("swin_tiny_patch4_window7_224", "norm", 224, True, STAGES),
    Family("swinv2_tiny_window8_256", "norm", 128, True, STAGES),
    Family("nest_tiny", "norm", 224, True),
    Family("test_maxvit", "norm", 96, True),
    Family("test_coatnet", "norm", 96, True),
    Family("efficientformer_l1", "stages.3.blocks.4.norm1", 224),
    Family("levit_128s", "stages.2", 224, True),
    Family("vit_tiny_patch16_224", "blocks.11.norm1", 96),
    Family("test_vit_relpos", "blocks.8.norm1", 160),
    Family("deit_tiny_patch16_224", "blocks.11.norm1", 96),
    Family("deit_tiny_distilled_patch16_224", "blocks.11.norm1", 96),
    Family("deit3_small_patch16_224", "blocks.1.norm1", 96, False, NARROW),
    Family("vit_small_patch14_dinov2", "blocks.1.norm1", 70, False, NARROW | {"num_classes": 10}),
    Family("vit_small_patch14_reg4_dinov2", "blocks.1.norm1", 70, False, NARROW | {"num_classes": 10}),
    Family("vit_base_patch16_siglip_224", "blocks.1.norm1", 96, False, NARROW | {"num_classes": 10}),
    Family("beit_base_patch16_224", "blocks.1.norm1", 96, False, NARROW),
    Family("eva02_tiny_patch14_224", "blocks.1.norm1", 70, False, NARROW | {"num_classes": 10}),
    Family("xcit_nano_12_p16_224", "cls_attn_blocks.1.norm1", 96),
    Family("cait_xxs24_224", "blocks_token_only.1.norm1", 96, False, {"depth": 2}),
    Family("volo_d1_224", "post_network.1.norm1", 224),
    Family("convit_tiny", "blocks.11.norm1", 224),
    Family("pit_ti_224", "transformers.2.blocks.3.norm1", 224),
    Family("coat_lite_tiny", "serial_blocks4.1.norm1", 224),
    Family("coat_tiny", "serial_blocks4.1.norm1", 224),
    Family("crossvit_tiny_240", "blocks.2.fusion.1.norm1", 240),
    Family("twins_svt_small", "blocks.3.3.norm1", 224),
    Family("mixer_s32_224", "blocks.7.norm1", 224),
]


# CrossViT: one of two heads reads what A never enters; VOLO adds a maximum over patches; CLIP's ResNet ends in attention
ODD_READERS = {"crossvit_tiny_240", "volo_d1_224", "resnet50_clip"}


def images(backbone: Backbone, count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 3, *backbone.image_size, generator=torch.Generator().manual_seed(seed))


def stirred(network: torch.nn.Module) -> torch.nn.Module:
    """No parameter is left at zero throughout, as a fresh classifier or a block's last scale may be, so that every part counts."""
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in network.parameters():
            if not value.any():
                value += 0.1 * torch.randn(value.shape, generator=noise)
    return network.eval()


def is_network(backbone: Backbone, network: torch.nn.Module, x: torch.Tensor, programs=(by_halves, at_once)) -> None:
    """Cut or whole, the backbone says what the network does."""
    with torch.no_grad():
        expected = copy.deepcopy(network).eval().double()(x.double())
    assert expected.std() > 0
    for program in programs:
        agree(program, (backbone, x), expected, draws=1)  # of so many numbers the farthest


@dataclass(frozen=True)
class Pair:
    family: Family
    network: torch.nn.Module
    backbone: Backbone


@pytest.fixture(scope="module", params=FAMILIES, ids=lambda family: family.model)
def pair(request, tmp_path_factory) -> Pair:
    """The same weights twice: in the network as timm makes it, and, through a file, in the backbone."""
    family: Family = request.param
    torch.manual_seed(0)
    try:
        network = timm.create_model(family.model, **{"img_size": family.size} | family.args)
    except TypeError:
        network = timm.create_model(family.model, **family.args)
    file = tmp_path_factory.mktemp("weights") / "network.safetensors"
    save_file({name: value.contiguous().clone() for name, value in stirred(network).state_dict().items()}, file)
    yield Pair(family, network, load(f"timm/{family.model}", weights=str(file), args=family.args, image_size=family.size))
    file.unlink()


@pytest.mark.parametrize(("count", "program"), [(1, at_once), (3, by_halves)])
def test_head_of_trunk_is_the_network(pair: Pair, count: int, program):
    is_network(pair.backbone, pair.network, images(pair.backbone, count, seed=count), [program])


def test_cut_is_where_the_family_is_explained(pair: Pair):
    assert pair.backbone.layer == pair.family.layer


def test_trunk_gives_channels_first_and_rest_by_image(pair: Pair):
    backbone = pair.backbone
    A, rest = backbone.trunk(images(backbone, 3))
    assert A.shape == (3, backbone.channels, *backbone.grid)
    assert A.is_contiguous()
    assert not A.requires_grad
    assert all(len(other) == 3 and not other.requires_grad for other in rest)
    y, chosen = backbone.head(A, rest), torch.tensor([2, 0, 2, 1, 1])
    again = backbone.head(A[chosen], tuple(other[chosen] for other in rest))
    far = slack(lambda backbone, *cut: backbone.head(cut[0], cut[1:]), backbone, A, *rest, draws=1)
    assert (off(again, y[chosen]) <= 2 * far[chosen]).all()


def test_head_leaves_its_input_as_it_was(pair: Pair):
    A, rest = pair.backbone.trunk(images(pair.backbone, 2))
    before = [value.clone() for value in (A, *rest)]
    first = pair.backbone.head(A, rest)
    assert all(torch.equal(value, kept) for value, kept in zip((A, *rest), before, strict=True))
    assert torch.equal(pair.backbone.head(A, rest), first)


def test_logits_depend_on_every_cell(pair: Pair):
    A, rest = pair.backbone.trunk(images(pair.backbone, 1))
    y = pair.backbone.head(A.requires_grad_(), rest)
    (gradient,) = torch.autograd.grad((y * torch.randn(y.shape, generator=torch.Generator().manual_seed(0))).sum(), A)
    assert (gradient.abs().sum(1) > 0).all()


def test_closed_form_gradient_is_autograds_where_there_is_one(pair: Pair):
    backbone = pair.backbone
    assert (backbone.pooled_linear is not None) == pair.family.pooled
    if backbone.pooled_linear is None:
        return
    A, rest = backbone.trunk(images(backbone, 2))
    agree(by_closed_form, (backbone, directions(backbone, 2), A, *rest), by_autograd, draws=1)


def directions(backbone: Backbone, count: int) -> torch.Tensor:
    return torch.randn(count, backbone.num_classes, generator=torch.Generator().manual_seed(0))


def by_autograd(backbone: Backbone, d: torch.Tensor, A: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
    """d<d, y>/dA."""
    A = A.detach().requires_grad_()
    return torch.autograd.grad((d * backbone.head(A, rest)).sum(), A)[0]


def by_closed_form(backbone: Backbone, d: torch.Tensor, A: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
    """The same, of a head that is pooling and a linear layer, from that layer's weights."""
    return (d @ backbone.pooled_linear / A[0, 0].numel())[:, :, None, None].expand_as(A)


def test_logits_are_affine_in_the_feature_with_the_classifiers_rows(pair: Pair):
    backbone = pair.backbone
    A, rest = backbone.trunk(images(backbone, 3))
    logits, feature = backbone.readout(A, rest)
    assert torch.equal(logits, backbone.head(A, rest))
    assert feature.shape == (3, backbone.feature_width)
    if pair.family.model in ODD_READERS:
        return
    rows = backbone.class_weights()
    assert rows.shape == (logits.shape[1], feature.shape[1])

    def from_the_first(backbone, A, *rest):
        y, feature = backbone.readout(A, rest)
        return y[:1] + (feature - feature[:1]) @ backbone.class_weights().T

    agree(from_the_first, (backbone, A, *rest), lambda backbone, A, *rest: backbone.head(A, rest), draws=1)


def test_nothing_is_hooked_trained_or_left_with_a_gradient(pair: Pair):
    A, rest = pair.backbone.trunk(images(pair.backbone, 2))
    pair.backbone.head(A.requires_grad_(), rest).sum().backward()
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "_state_dict_hooks")
    for module in pair.backbone.cut.modules():
        assert not module.training
        assert not any(len(getattr(module, kind)) for kind in kinds)
    assert not any(value.requires_grad or value.grad is not None for value in pair.backbone.cut.parameters())


@pytest.mark.parametrize(
    "model",
    [
        "vit_tiny_patch16_224",
        "beit_base_patch16_224",
        "swin_tiny_patch4_window7_224",
        "edgenext_xx_small",
        "eva02_tiny_patch14_224",
        "xcit_nano_12_p16_224",
        "test_maxvit",
        "levit_128s",
    ],
)
def test_no_device_is_baked_in(model: str):
    """The meta device refuses to meet another, as a GPU does."""
    family = next(family for family in FAMILIES if family.model == model)
    backbone = load(f"timm/{model}", args={"pretrained": "false"} | family.args, image_size=family.size).to("meta")
    assert backbone.head(*backbone.trunk(images(backbone, 2).to("meta"))).is_meta


@lru_cache
def fresh(model: str, layer: str | None = None, **args: object) -> Backbone:
    return load(f"timm/{model}", args={"pretrained": "false"} | args, layer=layer)


@pytest.mark.parametrize(("model", "prefix"), [("vit_small_patch14_dinov2", 1), ("vit_small_patch14_reg4_dinov2", 5)])
@pytest.mark.parametrize("pool", ["token", "avg"])
def test_dinov2_gives_the_class_token_or_the_mean_patch_at_any_size(model: str, prefix: int, pool: str, tmp_path: Path):
    torch.manual_seed(0)
    network = stirred(timm.create_model(model, **NARROW, img_size=56))
    save_file({name: value.contiguous().clone() for name, value in network.state_dict().items()}, tmp_path / "dino.safetensors")
    backbone = load(f"timm/{model}", weights=str(tmp_path / "dino.safetensors"), args=NARROW | {"global_pool": pool}, image_size=84)
    assert (backbone.layer, backbone.grid, backbone.num_classes) == ("blocks.1.norm1", (6, 6), 0)
    x = images(backbone, 2)
    network.set_input_size((84, 84))
    with torch.no_grad():
        tokens = copy.deepcopy(network).double().forward_features(x.double())
    assert tokens.shape[1] == prefix + 36
    expected = tokens[:, 0] if pool == "token" else tokens[:, prefix:].mean(1)
    A, rest = backbone.trunk(x)
    assert torch.equal(*backbone.readout(A, rest)), "without a classifier the logits are the feature"
    agree(lambda backbone, x: backbone.readout(*backbone.trunk(x))[1], (backbone, x), expected)
    assert rest[0].shape == (2, prefix, 48)


@pytest.mark.parametrize(
    "model",
    [
        "vit_tiny_patch16_224",
        "deit_tiny_distilled_patch16_224",
        "vit_small_patch14_reg4_dinov2",
        "swin_tiny_patch4_window7_224",
        "convnext_atto",
        "hiera_tiny_224",
        "coat_lite_tiny",
    ],
)
def test_the_grid_lies_as_the_image_does(model: str):
    """What changes most in A is the cell over the part of the image that changed."""
    size = {"vit_small_patch14_reg4_dinov2": 98}.get(model)
    backbone = load(f"timm/{model}", args={"pretrained": "false"}, image_size=size)
    (H, W), (h, w) = backbone.image_size, backbone.grid
    x = images(backbone, 1)
    before, _ = backbone.trunk(x)
    for i, j in [(0, 0), (0, w - 1), (h - 1, 1), (h // 2, w // 2)]:
        changed = x.clone()
        changed[:, :, i * H // h : (i + 1) * H // h, j * W // w : (j + 1) * W // w] = 3
        moved = (backbone.trunk(changed)[0] - before).abs().sum(1)[0]
        assert divmod(int(moved.argmax()), w) == (i, j)


@pytest.mark.parametrize(
    ("model", "path"),
    [
        ("resnet18", "layer4"),
        ("vit_tiny_patch16_224", "blocks.11.norm1"),
        ("resnet18", "layer3"),
        ("vit_tiny_patch16_224", "blocks.8.norm1"),
        ("resnet18", "layer4.1.conv2"),
    ],
)
def test_gradient_is_that_of_the_named_module(model: str, path: str):
    """A hook on the untouched network, in this test alone, gives the gradient that the cut gives without one."""
    args = {"zero_init_last": False} if model == "resnet18" else {}  # else a fresh conv2 has no gradient
    torch.manual_seed(0)
    network = timm.create_model(model, **args).eval().requires_grad_(False)
    kept = []
    network.get_submodule(path).register_forward_hook(lambda module, args, output: kept.append(output.requires_grad_()) or output)
    backbone = load(f"timm/{model}", args={"pretrained": "false"} | args, layer=path)
    x, d = images(backbone, 2), directions(backbone, 2)
    (expected,) = torch.autograd.grad((d * network.double()(x.double())).sum(), kept[0])
    if expected.dim() == 3:
        expected = expected[:, 1:].transpose(1, 2).unflatten(2, backbone.grid)
    assert expected.abs().max() > 0

    def found(backbone, x):
        A, rest = backbone.trunk(x)
        return by_autograd(backbone, d, A, *rest)

    agree(found, (backbone, x), expected)


@pytest.mark.parametrize(
    ("model", "layer", "name", "shape"),
    [
        ("resnet18", None, "layer4.1", (512, 7, 7)),
        ("resnet18", "layer4", "layer4.1", (512, 7, 7)),
        ("resnet18", "layer3", "layer3.1", (256, 14, 14)),
        ("resnet18", "layer4.1.act2", "layer4.1", (512, 7, 7)),
        ("resnet18", "layer4.1.bn2", "layer4.1.bn2", (512, 7, 7)),
        ("resnet18", "layer4.1.conv2", "layer4.1.conv2", (512, 7, 7)),
        ("inception_v3", "Mixed_7b.branch1x1", "Mixed_7b.branch1x1", (320, 8, 8)),
        ("vit_tiny_patch16_224", "blocks.5", "blocks.5", (192, 14, 14)),
        ("vit_tiny_patch16_224", "blocks.8.norm1", "blocks.8.norm1", (192, 14, 14)),
        ("vit_tiny_patch16_224", "patch_embed", "patch_embed", (192, 14, 14)),
        ("deit_tiny_distilled_patch16_224", "blocks.8.norm1", "blocks.8.norm1", (192, 14, 14)),
        ("levit_128s", "stages.1", "stages.1", (256, 7, 7)),
    ],
)
def test_a_named_layer_is_cut_at_its_output(model: str, layer: str, name: str, shape: tuple[int, ...]):
    backbone = fresh(model, layer=layer)
    assert (backbone.layer, (backbone.channels, *backbone.grid)) == (name, shape)
    torch.manual_seed(0)
    is_network(backbone, timm.create_model(model), images(backbone, 3))


@pytest.mark.parametrize(
    ("model", "args", "layer", "grid"),
    [
        ("resnet50", {}, "layer4.2", (7, 7)),
        ("vgg16_bn", {"mlp_ratio": 0.02}, "features.42", (14, 14)),
        ("vgg16_bn", {"mlp_ratio": 0.02, "img_size": "288"}, "features.42", (18, 18)),
        ("mobilenetv2_100", {}, "bn2", (7, 7)),
        ("vit_small_patch14_reg4_dinov2", {"img_size": 224}, "blocks.11.norm1", (16, 16)),
        ("vit_relpos_medium_patch16_rpn_224", {"embed_dim": 48, "num_heads": 3}, "blocks.11.norm1", (14, 14)),
        ("resnet18", {"img_size": "64,96"}, "layer4.1", (2, 3)),
        ("vit_tiny_patch16_224", {"img_size": "64,96"}, "blocks.11.norm1", (4, 6)),
        ("swin_tiny_patch4_window7_224", {"img_size": "64,96"} | STAGES, "norm", (2, 3)),
    ],
)
def test_well_known_layers_and_grids(model: str, args: dict, layer: str, grid: tuple[int, int]):
    backbone = load(f"timm/{model}", args={"pretrained": "false"} | args)
    assert (backbone.layer, backbone.grid) == (layer, grid)


def test_the_distilled_feature_is_both_heads_inputs():
    backbone = load("timm/deit_tiny_distilled_patch16_224", args={"pretrained": "false"})

    def by_both(backbone, x):
        _, feature = backbone.readout(*backbone.trunk(x))
        suffix = backbone.cut.suffix.network
        return (suffix.head(feature[:, :192]) + suffix.head_dist(feature[:, 192:])) / 2

    agree(by_both, (backbone, images(backbone, 2)), lambda backbone, x: backbone.logits(x))


def test_without_a_classifier_the_logits_are_the_feature():
    backbone = load("timm/resnet18", args={"pretrained": "false", "num_classes": "0"}, image_size=64)
    logits, feature = backbone.readout(*backbone.trunk(images(backbone, 2)))
    assert backbone.num_classes == 0
    assert torch.equal(logits, feature)
    assert feature.shape == (2, 512)


def test_logits_carry_a_gradient_to_the_image():
    backbone = fresh("vit_tiny_patch16_224")
    x = images(backbone, 1).requires_grad_()
    (gradient,) = torch.autograd.grad(backbone.logits(x).sum(), x)
    assert (gradient != 0).any()
    assert not any(value.requires_grad for value in (backbone.trunk(x)[0], *backbone.trunk(x)[1]))


# what the network is called by

SMALL = {"pretrained": "false", "num_classes": "10"}


def small(seed: int = 0, layer: str | None = None, size: int | None = None, crop: str = "squash", **args: str) -> str:
    return load("timm/test_resnet", args=SMALL | args, seed=seed, layer=layer, image_size=size, crop=crop).identity


def test_identity_is_the_same_in_another_process():
    code = f"from pipeline.backbones import load; print(load('timm/test_resnet', args={SMALL}).identity)"
    out = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
    assert out.stdout.split()[-1] == small()


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"layer": "layer3"},
        {"size": 96},
        {"crop": "center"},
        {"num_classes": "11"},
        {"mean": "0.4"},
        {"std": "0.5,0.5,0.4"},
        {"interpolation": "lanczos"},
        {"act_layer": "gelu"},
    ],
)
def test_identity_changes_with_what_decides_the_values(change: dict):
    assert small(**change) != small()


@pytest.mark.parametrize("change", [{"layer": "layer4"}, {"size": 160}, {"img_size": "160,160"}, {"crop_pct": "0.5"}])
def test_identity_stays_with_what_does_not(change: dict):
    assert small(**change) == small()


def test_random_weights_leave_the_callers_chance_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    small(seed=3)
    assert torch.equal(torch.rand(3), expected)


# real weights


def shown(shard: Path, count: int, backbone: Backbone) -> tuple[torch.Tensor, torch.Tensor]:
    """The first images of a shard, squashed as the decoder does, with their labels."""
    (H, W), filters = backbone.image_size, {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
    with tarfile.open(shard) as tar:
        members = {name: tar.extractfile(name).read() for name in tar.getnames()}
    keys = sorted(name[:-4] for name in members if name.endswith(".jpg"))[:count]
    resample = filters[backbone.prepare.interpolation]
    opened = (Image.open(io.BytesIO(members[f"{key}.jpg"])).convert("RGB").resize((W, H), resample) for key in keys)
    pixels = np.stack([np.asarray(image) for image in opened])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2), torch.tensor([int(members[f"{key}.cls"]) for key in keys])


@pytest.mark.parametrize(("model", "args"), [("mobilenetv2_100", {"pad_type": "same"}), ("vit_tiny_patch16_224", {})])
def test_real_weights_know_real_images(realdata: Path, model: str, args: dict):
    weights = realdata / "weights" / f"{model}.imagenet.safetensors"
    backbone = load(f"timm/{model}", weights=str(weights), args=args | {"mean": "0.5,0.5,0.5", "std": "0.5,0.5,0.5"})
    pixels, labels = shown(realdata / "imagenet_val227" / "00000.tar", 50, backbone)
    A, rest = backbone.trunk(backbone.prepare(pixels))
    assert (backbone.head(A, rest).argmax(1) == labels).float().mean() >= 0.7
    assert (backbone.pooled_linear is not None) == (model == "mobilenetv2_100")


def test_weights_of_another_class_count_say_so(realdata: Path):
    weights = realdata / "weights" / "mobilenetv2_100.imagenet.safetensors"
    with pytest.raises(Refusal, match="weights have 1000 classes, the network was built with 965: --backbone-args num_classes=1000"):
        load("timm/mobilenetv2_100", weights=str(weights), args={"num_classes": "965"})


# preparation


def test_preparation_is_normalised_pixels():
    mean, std = (0.5, 0.4, 0.3), (0.5, 0.25, 0.2)
    prepare = Preprocessing((2, 2), mean, std, "bicubic")
    raw = torch.randint(0, 256, (2, 3, 2, 2), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    agree(prepare, raw, torch.stack([(raw[:, c].double() / 255 - mean[c]) / std[c] for c in range(3)], 1))
    assert torch.equal(prepare(raw), prepare.normalise(prepare.pixels(raw)))
    with pytest.raises(ValueError, match="uint8"):
        prepare(raw.float())


def test_preparation_is_the_models_own_and_overridable():
    own = load("timm/test_resnet", args=SMALL, crop="center").prepare
    cfg = timm.get_pretrained_cfg("test_resnet")
    assert (own.size, own.mean, own.std) == (cfg.input_size[1:], cfg.mean, cfg.std)
    assert (own.interpolation, own.crop_pct) == (cfg.interpolation, cfg.crop_pct)
    given = load("timm/test_resnet", args=SMALL | {"mean": "0.5", "std": "0.1,0.2,0.3", "interpolation": "bilinear"}).prepare
    assert (given.mean, given.std, given.interpolation, given.crop_pct) == ((0.5,) * 3, (0.1, 0.2, 0.3), "bilinear", 1.0)


# files of weights


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in stirred(timm.create_model("test_resnet", num_classes=10)).state_dict().items()}


def with_weights(file: Path | str) -> Backbone:
    return load("timm/test_resnet", weights=str(file), args={"num_classes": "10"})


def test_weights_in_any_wrapping_are_the_same(state: dict, tmp_path: Path):
    save_file(state, tmp_path / "a.safetensors")
    torch.save({"state_dict": {f"module.{name}": value for name, value in state.items()}, "epoch": 3}, tmp_path / "b.pth")
    torch.save({"model": state}, tmp_path / "c.pt")
    torch.save({"state_dict_ema": state, "state_dict": {name: value + 1 for name, value in state.items()}}, tmp_path / "d.bin")
    files = [tmp_path / "a.safetensors", f"file://{tmp_path}/a.safetensors", tmp_path / "b.pth", tmp_path / "c.pt", tmp_path / "d.bin"]
    assert len({with_weights(file).identity for file in files}) == 1


def test_counters_of_training_steps_are_no_part_of_the_weights(state: dict, tmp_path: Path):
    save_file(state, tmp_path / "a.safetensors")
    save_file({name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}, tmp_path / "b.safetensors")
    assert with_weights(tmp_path / "a.safetensors").identity == with_weights(tmp_path / "b.safetensors").identity


def test_positions_are_resampled_for_another_image_size(tmp_path: Path):
    network = stirred(timm.create_model("test_vit", num_classes=10))
    save_file(network.state_dict(), tmp_path / "vit.safetensors")
    backbone = load("timm/test_vit", weights=str(tmp_path / "vit.safetensors"), args={"num_classes": "10"}, image_size=96)
    network.set_input_size(img_size=96)
    is_network(backbone, network, images(backbone, 2))


class Code:
    """Unpickling this runs something."""

    def __reduce__(self):
        return (print, ("ran",))


@pytest.mark.parametrize(
    ("spoil", "name", "message"),
    [
        (lambda state: state | {"conv1.extra": torch.zeros(1)}, "a.safetensors", r"1 unexpected \(conv1.extra\)"),
        (lambda state: {name: value for name, value in state.items() if name != "fc.bias"}, "a.safetensors", r"1 missing \(fc.bias\)"),
        (lambda state: state | {"conv1.0.weight": torch.zeros(1, 2)}, "a.safetensors", r"1 mis-shaped \(conv1.0.weight \[1, 2\] for"),
        (lambda state: state | {"fc.bias": torch.full((10,), torch.nan)}, "a.safetensors", "NaN or infinity in fc.bias"),
        (lambda state: state | {"fc.weight": state["fc.weight"][:7], "fc.bias": torch.zeros(7)}, "a.pth", "num_classes=7"),
        (lambda state: {"state_dict": state, "hparams": Code()}, "a.pt", "could run code"),
        (lambda state: {"state_dict": [1, 2]}, "a.pt", "no state dict"),
        (lambda state: state, "a.npz", "neither .safetensors nor"),
    ],
)
def test_weights_that_do_not_fit_are_refused(state: dict, tmp_path: Path, capsys, spoil, name: str, message: str):
    spoiled = spoil(state)
    if name.endswith("safetensors"):
        save_file(spoiled, tmp_path / name)
    else:
        torch.save(spoiled, tmp_path / name)
    with pytest.raises(Refusal, match=message) as refused:
        with_weights(tmp_path / name)
    assert "\n" not in str(refused.value)
    assert "ran" not in capsys.readouterr().out


def test_weights_that_cannot_be_read_are_refused(tmp_path: Path):
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\x00\x00")
    (tmp_path / "cut.pth").write_bytes(b"PK\x03\x04")
    for file, message in (("absent.safetensors", "cannot be read"), ("cut.safetensors", "damaged"), ("cut.pth", "damaged")):
        with pytest.raises(Refusal, match=message):
            with_weights(tmp_path / file)


# what is refused


@pytest.mark.parametrize(
    ("name", "wanted", "message"),
    [
        ("timm/resnet19", {}, "did you mean resnet1"),
        ("timm/resnet18.a9_in1k", {}, "did you mean resnet18.a"),
        ("timm/zzzzzzzz", {}, "none of 1[0-9]+ is close"),
        ("resnet18", {}, "timm/resnet18"),
        ("torchvision/resnet18", {}, "timm/resnet18"),
        ("timm/test_resnet", {"args": {"num_class": "3"}}, "takes no argument 'num_class'"),
        ("timm/test_resnet", {"args": {"mean": "0.5,0.5"}}, "mean=0.5,0.5,0.5"),
        ("timm/test_resnet", {"args": {"std": "0"}}, "above 0"),
        ("timm/test_resnet", {"args": {"crop_pct": "2"}}, "crop_pct=2"),
        ("timm/test_resnet", {"args": {"interpolation": "cubic"}}, "did you mean bicubic"),
        ("timm/test_resnet", {"crop": "centre"}, "did you mean center"),
        ("timm/test_resnet", {"image_size": -3}, "image size -3"),
        ("timm/test_resnet", {"layer": "layr4"}, "did you mean layer4"),
        ("timm/test_resnet", {"layer": "zzzz"}, "known: .*layer4, maxpool"),
        ("timm/test_resnet", {"layer": "fc"}, r"\[B, 1000\], in which no grid"),
        ("timm/test_resnet", {"layer": "global_pool.flatten"}, "no grid"),
        ("timm/test_vit", {"layer": "blocks.5"}, "do not depend on the grid of layer 'blocks.5'"),
        ("timm/test_vit", {"layer": "blocks.5.attn.attn_drop"}, "never called on its own"),
        ("timm/test_vit", {"image_size": 100}, "100"),
        ("timm/test_resnet", {"weights": "/nowhere/x.safetensors"}, "cannot be read"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(name: str, wanted: dict, message: str):
    with pytest.raises(Refusal, match=message) as refused:
        load(name, **wanted | {"args": {"pretrained": "false"} | wanted.get("args", {})})
    assert "\n" not in str(refused.value)


def test_a_hub_out_of_reach_names_both_ways_out(monkeypatch):
    def unreachable(*args, **kwargs):
        raise OSError("cannot reach the hub\nRetrying")

    monkeypatch.setattr(timm.models._builder, "load_state_dict_from_hf", unreachable)
    monkeypatch.setattr(timm.models._builder, "load_state_dict_from_url", unreachable)
    with pytest.raises(Refusal, match="pass --weights FILE, or --backbone-args pretrained=false") as refused:
        load("timm/test_resnet.r160_in1k")
    assert "\n" not in str(refused.value)


def test_a_classifier_left_random_on_pretrained_weights_is_refused(monkeypatch):
    make = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda model, pretrained, **args: make(model, **args))
    with pytest.raises(Refusal, match="num_classes=10 on weights with 1000 classes leaves the classifier random"):
        load("timm/test_resnet", args={"num_classes": "10"})


def test_an_image_of_another_size_is_refused():
    backbone = load("timm/test_resnet", args=SMALL)
    with pytest.raises(Refusal, match=r"\(96, 96\)"):
        backbone.trunk(torch.zeros(1, 3, 96, 96))


# the user's own network

OWN = """
    import random

    import torch
    import torch.nn.functional as F
    from torch import nn


    class Plain(nn.Module):
        def __init__(self, classes=5):
            super().__init__()
            self.first, self.second, self.third = nn.Conv2d(3, 8, 3, 4, 1), nn.Conv2d(8, 8, 3, 2, 1), nn.Conv2d(8, 6, 3, 2, 1)
            self.relu, self.fc = nn.ReLU(inplace=True), nn.Linear(6, classes)
            self.shift = torch.tensor([0.5])  # neither parameter nor buffer

        def features(self, x):
            x = self.first(x)
            branch = self.second(self.relu(x))  # changes x, which is used again below
            branch += F.avg_pool2d(x, 2)
            branch.mul_(2)
            return F.relu(self.third(branch) + self.shift, inplace=True)

        def forward(self, x, scale=None):
            x = self.features(x)
            if scale is not None:
                x = x * scale
            return self.fc(x.mean((2, 3)))


    class Stated(Plain):
        default_cfg = {"input_size": (3, 64, 96), "mean": (0.1, 0.2, 0.3), "std": (1, 1, 1), "interpolation": "bilinear"}


    class Deciding(Plain):
        def forward(self, x):
            return super().forward(x) if x.sum() > 0 else super().forward(-x)


    class Chancy(Plain):
        def forward(self, x):
            return super().forward(F.dropout(x, 0.5, training=True))


    class Mapping(Plain):
        def forward(self, x):
            return self.features(x)


    class Halves:
        def __init__(self):
            self.network = Plain()

        def trunk(self, x):
            return self.network.features(x), (x.mean((1, 2, 3)),)

        def head(self, A, rest):
            return self.network.fc(A.mean((2, 3))) + rest[0][:, None]


    class WrongHalves(Halves):
        def trunk(self, x):
            return self.network.features(x).mean((2, 3)), ()


    def plain(classes=5): return Plain(classes)
    def stated(): return Stated()
    def deciding(): return Deciding()
    def chancy(): return Chancy()
    def mapping(): return Mapping()
    def halves(): return Halves()
    def wrong_halves(): return WrongHalves()
    def text(): return "resnet"
    def failing(): raise RuntimeError("no such file")
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch):
    """The user's module in the working directory."""
    (tmp_path / "my_own_network.py").write_text(textwrap.dedent(OWN))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield lambda: __import__("my_own_network")
    sys.modules.pop("my_own_network", None)


def test_ones_own_network_is_cut_like_any_other(own):
    backbone = load("my_own_network:plain", args={"classes": "7"})
    torch.manual_seed(0)
    network = own().Plain(7).eval()
    x = images(backbone, 3)
    is_network(backbone, network, x)
    agree(lambda backbone, x: backbone.trunk(x)[0], (backbone, x), copy.deepcopy(network).double().features(x.double()))
    assert (backbone.num_classes, backbone.channels, backbone.grid, backbone.image_size) == (7, 6, (14, 14), (224, 224))
    assert backbone.prepare.mean == (0.485, 0.456, 0.406)
    agree(lambda backbone: backbone.pooled_linear, backbone, network.fc.weight)


def test_what_ones_own_network_states_of_its_input_counts(own):
    prepare = load("my_own_network:stated").prepare
    assert (prepare.size, prepare.mean, prepare.interpolation) == ((64, 96), (0.1, 0.2, 0.3), "bilinear")


def test_weights_go_into_ones_own_network(own, tmp_path: Path):
    load("my_own_network:plain")
    network = stirred(own().Plain())
    save_file(network.state_dict(), tmp_path / "own.safetensors")
    backbone = load("my_own_network:plain", weights=str(tmp_path / "own.safetensors"))
    is_network(backbone, network, images(backbone, 2))


def test_an_object_with_trunk_and_head_is_used_as_it_is(own):
    backbone = load("my_own_network:halves", image_size=64)
    x = images(backbone, 3)
    A, rest = backbone.trunk(x)
    assert A.shape == (3, 6, 4, 4)
    assert rest[0].shape == (3,)
    agree(lambda backbone, A, *rest: backbone.readout(A, rest)[1], (backbone, A, *rest), A.double().mean((2, 3)))
    agree(lambda backbone, x: backbone.logits(x), (backbone, x), lambda backbone, x: backbone.head(*backbone.trunk(x)))
    third = torch.eye(5)[[2, 2, 2]]
    agree(by_closed_form, (backbone, third, A, *rest), by_autograd)


def test_ones_own_identity_follows_code_weights_and_arguments(own, tmp_path: Path):
    known = [
        load("my_own_network:plain").identity,
        load("my_own_network:plain", seed=1).identity,
        load("my_own_network:halves").identity,
        load("my_own_network:plain", args={"classes": "6"}).identity,
    ]
    assert load("my_own_network:plain").identity == known[0]
    assert load("my_own_network:halves").identity == known[2]
    text = (tmp_path / "my_own_network.py").read_text()
    for old, new in (("branch.mul_(2)", "branch.mul_(3)"), ("3, 4, 1)", "3, 4, 1, padding_mode='circular')"), ("[0.5]", "[0.75]")):
        sys.modules.pop("my_own_network")
        (tmp_path / "my_own_network.py").write_text(text.replace(old, new) + f"\n# {new}\n")
        known.append(load("my_own_network:plain").identity)
    assert len(set(known)) == len(known)


@pytest.mark.parametrize(
    ("name", "wanted", "message"),
    [
        ("my_own_networks:plain", {}, "cannot be imported"),
        ("my_own_network:plane", {}, "no function 'plane'; it has plain"),
        ("my_own_network:plain", {"args": {"clases": "3"}}, "failed with .*clases"),
        ("my_own_network:failing", {}, "no such file"),
        ("my_own_network:text", {}, "returned a str"),
        ("my_own_network:deciding", {}, "cannot be traced .*my_module:build"),
        ("my_own_network:chancy", {}, "chance"),
        ("my_own_network:mapping", {}, r"returns a tensor \[2, 6, 14, 14\] for 2 images, not logits"),
        ("my_own_network:wrong_halves", {}, r"trunk gave a tensor \[2, 6\]"),
        ("my_own_network:halves", {"layer": "first"}, "brings its own trunk"),
        ("my_own_network:halves", {"weights": "x.safetensors"}, "let it load its own"),
        ("my_own_network:plain", {"layer": "thrid"}, "did you mean third"),
    ],
)
def test_ones_own_mistakes_are_told_in_one_line(own, name: str, wanted: dict, message: str):
    with pytest.raises(Refusal, match=message) as refused:
        load(name, **wanted)
    assert "\n" not in str(refused.value)
