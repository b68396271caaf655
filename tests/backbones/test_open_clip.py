"""open_clip's networks: the library's own towers, cut in two, and texts as classes and as targets."""

import copy
import json
import math
import warnings

import numpy as np
import open_clip
import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

import pipeline
from jobs import explain
from pipeline import engine, tables
from pipeline.backbones import load
from pipeline.backbones.cutting.attention import attention_graph
from pipeline.backbones.libraries.open_clip_models import embeddings
from pipeline.backbones.network import Network
from pipeline.engine.batch import Batch, explain_targets
from pipeline.engine.forward import run_forward
from pipeline.methods import METHODS
from pipeline.refusal import Refusal
from pipeline.spec.grammar import parse
from pipeline.spec.job import Job
from pipeline.targets import TARGETS
from pipeline.targets.registry import Predictions
from tests.conditioning import DRAWS, EXACT, Double, agree, doubled, off, slack
from tests.cuts import at_once, by_halves
from tests.entries import cheap
from tests.shards import dataset, encoded, picture

TEXT = {"context_length": 20, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
VIT = {"image_size": 64, "layers": 3, "width": 32, "head_width": 16, "patch_size": 16}
CONFIGS = {
    "tiny-vit": {"embed_dim": 24, "vision_cfg": VIT, "text_cfg": TEXT},
    "tiny-avg": {"embed_dim": 24, "vision_cfg": {**VIT, "pool_type": "avg"}, "text_cfg": TEXT, "quick_gelu": True},
    "tiny-late": {"embed_dim": 24, "vision_cfg": {**VIT, "final_ln_after_pool": True, "ls_init_value": 0.5}, "text_cfg": TEXT},
    "tiny-resnet": {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 16},
        "text_cfg": TEXT,
    },
    "tiny-timm": {
        "embed_dim": 24,
        "custom_text": True,
        "init_logit_bias": -3.0,
        "vision_cfg": {"image_size": 160, "timm_model_name": "test_vit", "timm_pool": "token", "timm_proj": "linear"},
        "text_cfg": TEXT,
    },
}
LAYERS = {
    **dict.fromkeys(("tiny-vit", "tiny-avg", "tiny-late"), ("visual.transformer.resblocks.2.ln_1", (32, 4, 4))),
    "tiny-resnet": ("visual.layer4.0", (256, 2, 2)),
    "tiny-timm": ("visual.trunk.blocks.5.norm1", (64, 10, 10)),
}
CLASSES, TEMPLATES = ("crow", "jay", "red kite", "owl"), ("a photo of a {}.", "a drawing of the {}")
PHRASES = (("a red wing", ()), ("a bird", ()), ("a bird", ("{}",)))


@pytest.fixture(scope="module", autouse=True)
def configs(tmp_path_factory):
    """The small architectures, known to open_clip as its own are; one thread, which small networks do not share well."""
    folder, threads = tmp_path_factory.mktemp("configs"), torch.get_num_threads()
    for name, config in CONFIGS.items():
        (folder / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)
    torch.set_num_threads(1)
    yield folder
    torch.set_num_threads(threads)


def library(name: str, **how) -> torch.nn.Module:
    """open_clip's own model, its weights stirred until every part counts."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model, noise = open_clip.create_model(name, **how).eval().requires_grad_(False), torch.Generator().manual_seed(1)
    for path, value in model.named_parameters():
        if path not in ("logit_scale", "logit_bias"):
            value += 0.1 * torch.randn(value.shape, generator=noise)
    return model


@pytest.fixture(scope="module")
def files(configs, tmp_path_factory):
    """Every small model in a file of its own, as open_clip publishes them: both towers in one state dict."""
    folder = tmp_path_factory.mktemp("weights")
    for name in CONFIGS:
        save_file({key: value.clone().contiguous() for key, value in library(name).state_dict().items()}, folder / f"{name}.safetensors")
    return folder


@pytest.fixture(scope="module")
def own(files):
    """The library's models with the weights of the files."""

    def build(name: str, **how) -> torch.nn.Module:
        model = library(name, **how)
        open_clip.load_checkpoint(model, str(files / f"{name}.safetensors"))
        return model

    return build


@pytest.fixture(scope="module")
def loaded(files):
    def build(name: str = "tiny-vit", **how):
        return load(f"open_clip/{name}", weights=str(files / f"{name}.safetensors"), **how)

    return build


@pytest.fixture(scope="module", params=sorted(CONFIGS))
def name(request):
    return request.param


def images(backbone, count=3, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (count, 3, *backbone.image_size), dtype=np.uint8))


def logits(backbone, x):
    return backbone.logits(x)


def maps(written, backbone, pixels, target):
    return engine.maps(parse(written, METHODS, "method"), scene(backbone, pixels, [target]), 0)


def scene(backbone, pixels, targets, **how):
    seen = run_forward(backbone, backbone.prepare(pixels))
    said = Predictions(seen.logits[:, : backbone.num_classes], torch.arange(len(pixels)), backbone.class_weights, backbone.phrases)
    return Batch(
        seen,
        tuple(each for target in targets for each in explain_targets(parse(target, TARGETS, "target"), said).values()),
        pixels,
        None,
        **how,
    )


# the image tower


def test_head_of_trunk_is_the_librarys_image_tower(name, own, loaded):
    backbone, model = loaded(name), own(name)
    x = backbone.prepare(images(backbone))
    expected = model.double().encode_image(x.double())
    for program in (by_halves, at_once):
        agree(program, (backbone, x), expected)
    A, rest = backbone.trunk(x)
    assert torch.equal(*backbone.readout(A, rest)), "without texts the logits are the embedding, and so is the feature"
    assert (backbone.layer, tuple(A.shape[1:])) == LAYERS[name]
    assert (backbone.num_classes, backbone.feature_width) == (0, 24)


def test_pixels_are_prepared_as_open_clip_states(loaded):
    backbone = loaded()
    shown = open_clip.get_model_preprocess_cfg(library("tiny-vit"))
    prepare = backbone.prepare
    assert (prepare.mean, prepare.std, prepare.interpolation, prepare.size) == (
        shown["mean"],
        shown["std"],
        shown["interpolation"],
        (64, 64),
    )


def test_the_weights_of_a_tag_decide_its_activation(monkeypatch):
    published = {"mean": (0.1, 0.2, 0.3), "std": (0.5, 0.5, 0.5), "interpolation": "bilinear", "quick_gelu": True}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny-vit", {"quick": published, "plain": {**published, "quick_gelu": False}})
    quick, plain, forced = (
        load(f"open_clip/{arch}", args={"pretrained": "false"}) for arch in ("tiny-vit/quick", "tiny-vit/plain", "tiny-vit/none")
    )
    assert (quick.prepare.mean, quick.prepare.interpolation) == ((0.1, 0.2, 0.3), "bilinear")
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(plain.logits(x), forced.logits(x))
    assert (off(quick.logits(x), plain.logits(x)) > 2 * slack(logits, plain, x)).all()
    assert quick.identity != plain.identity


@pytest.mark.parametrize("size", [(64, 96), (96, 96)])
def test_position_embeddings_are_resized_to_other_images(size, own, loaded, files):
    args = {} if size[0] == size[1] else {"img_size": "64,96"}
    backbone = loaded(image_size=None if args else 96, args=args)
    x = backbone.prepare(images(backbone))
    assert backbone.grid == (size[0] // 16, size[1] // 16)
    agree(logits, (backbone, x), own("tiny-vit", force_image_size=size).double().encode_image(x.double()))


def test_a_resnets_attention_pooling_is_resized_too(loaded, files):
    from safetensors.torch import load_file

    backbone = loaded("tiny-resnet", image_size=128)
    key = "visual.attnpool.positional_embedding"
    kept = load_file(files / "tiny-resnet.safetensors")[key]
    found = next(value for path, value in backbone.cut.state_dict().items() if path.endswith("attnpool.positional_embedding"))

    def resized(kept):
        grid = kept[1:].T.reshape(1, -1, 2, 2)
        grid = F.interpolate(grid, (4, 4), mode="bicubic", antialias=True, align_corners=False)
        return torch.cat([kept[:1], grid[0].flatten(1).T])

    assert (off(found, resized(kept.double())) <= slack(resized, kept)).all()
    assert backbone.grid == (4, 4)


def test_average_pooling_is_the_projected_mean_of_normed_patch_tokens(own, loaded):
    backbone, visual = loaded(args={"pool": "avg"}), own("tiny-vit").visual.double()
    x = backbone.prepare(images(backbone))
    tokens = visual.ln_post(visual.transformer(visual._embeds(x.double())))
    agree(logits, (backbone, x), tokens[:, 1:].mean(1) @ visual.proj)
    bare = loaded(args={"pool": "avg", "projection": "false"})
    agree(logits, (bare, x), tokens[:, 1:].mean(1))
    token = loaded(args={"projection": "false"})
    agree(logits, (token, x), tokens[:, 0])
    assert len({backbone.identity, bare.identity, token.identity, loaded().identity}) == 4


def test_no_device_is_baked_in(name, loaded):
    backbone = loaded(name, text_classes=CLASSES, phrases=PHRASES).to("meta")
    x = torch.zeros(2, 3, *backbone.image_size, device="meta")
    assert backbone.head(*backbone.trunk(x)).is_meta
    assert backbone.class_weights().is_meta


@pytest.mark.slow
def test_a_network_of_full_size(tmp_path):
    model = open_clip.create_model("ViT-B-32").eval()
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    backbone = load("open_clip/ViT-B-32", weights=str(tmp_path / "weights.safetensors"), text_classes=CLASSES, phrases=PHRASES)
    (tmp_path / "weights.safetensors").unlink()
    x = backbone.prepare(images(backbone, 2))
    assert backbone.layer == "visual.transformer.resblocks.11.ln_1"
    rows_are_the_texts(backbone, "ViT-B-32", model, ["a photo of a {}."], draws=1)
    u = F.normalize(model.double().encode_image(x.double()), dim=1)
    agree(by_halves, (backbone, x), u @ backbone.text.double().T, draws=1)


# where weights come from


def test_a_tag_and_a_hub_id_are_fetched_as_safetensors(files, tmp_path, monkeypatch, loaded):
    asked = []

    def hub(repository, file):
        asked.append((repository, file))
        if file == "open_clip_config.json":
            (tmp_path / file).write_text(json.dumps({"model_cfg": CONFIGS["tiny-vit"], "preprocess_cfg": {"mean": [0.1, 0.2, 0.3]}}))
            return str(tmp_path / file)
        return str(files / "tiny-vit.safetensors")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", hub)
    published = {"a": {"hf_hub": "org/a/"}, "b": {"hf_hub": "org/b/model.bin"}, "c": {"url": "https://x.org/c.pt", "hf_hub": ""}}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny-vit", published)
    expected = loaded()
    for tag in ("a", "b"):
        assert load(f"open_clip/tiny-vit/{tag}").identity == expected.identity
    assert load("open_clip/tiny-vit", weights="hf-hub:org/w").identity == expected.identity
    hubs = load("open_clip/hf-hub:org/tiny", text_classes=CLASSES)
    assert asked == [
        ("org/a", "open_clip_model.safetensors"),
        ("org/b", "model.safetensors"),
        ("org/w", "open_clip_model.safetensors"),
        ("org/tiny", "open_clip_config.json"),
        ("org/tiny", "open_clip_model.safetensors"),
    ]
    assert hubs.prepare.mean == (0.1, 0.2, 0.3)
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(hubs.logits(x), loaded(text_classes=CLASSES).logits(x))
    with pytest.raises(Refusal, match="no pickle is ever loaded"):
        load("open_clip/tiny-vit/c")


def test_a_folder_with_config_and_weights_is_a_model(files, tmp_path, loaded):
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": CONFIGS["tiny-vit"]}))
    (tmp_path / "open_clip_model.safetensors").write_bytes((files / "tiny-vit.safetensors").read_bytes())
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(load(f"open_clip/local-dir:{tmp_path}").logits(x), loaded().logits(x))


def test_weights_come_through_any_url(files, loaded):
    import fsspec

    with fsspec.open("memory://clip/tiny.safetensors", "wb") as file:
        file.write((files / "tiny-vit.safetensors").read_bytes())
    assert load("open_clip/tiny-vit", weights="memory://clip/tiny.safetensors").identity == loaded().identity


@pytest.mark.parametrize(
    ("name", "how", "words"),
    [
        ("ViT-B-17", {}, "did you mean .*ViT-B-16"),
        ("ViT-B-16", {}, "names no weights.*laion400m_e32"),
        ("ViT-B-16/laion400m_e3", {}, "did you mean laion400m_e3"),
        ("ViT-B-32/laion400m_e32", {}, "cannot be fetched"),
        ("tiny-vit/none", {"weights": "model.pt"}, "no pickle is ever loaded"),
        ("tiny-vit/none", {"weights": "https://x.org/model.bin?download=true"}, "no pickle is ever loaded"),
        ("tiny-vit/none", {"weights": "nowhere.safetensors"}, "cannot be read"),
        ("tiny-vit/none", {"args": {"pool": "max"}}, "pool"),
        ("tiny-vit/none", {"args": {"num_classes": "3"}}, "num_classes"),
        ("tiny-resnet/none", {"args": {"pool": "avg"}}, "open_clip's own ViTs"),
        ("tiny-vit/none", {"args": {"projection": "false"}, "text_classes": CLASSES}, "projection=false"),
        ("tiny-vit/none", {"text_classes": CLASSES, "templates": ("a photo",)}, "has no {}"),
        ("tiny-vit/none", {"layer": "visual.ln_pst"}, "did you mean visual.ln_post"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(name, how, words, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(Refusal, match=words) as refused:
        load(f"open_clip/{name}", **how)
    assert "\n" not in str(refused.value)


def test_weights_of_another_architecture_are_refused_by_name(files):
    with pytest.raises(Refusal, match="do not fit.*visual.class_embedding"):
        load("open_clip/tiny-vit", weights=str(files / "tiny-resnet.safetensors"))


@pytest.mark.parametrize("texts", [{"text_classes": CLASSES}, {"phrases": PHRASES}])
def test_texts_need_a_text_tower(texts):
    with pytest.raises(Refusal, match="open_clip"):
        load("timm/test_vit", args={"pretrained": "false"}, **texts)


# texts


def by_hand(model, tokenize, texts, templates):
    """Unit embeddings of texts: normalise, mean, normalise."""
    rows = []
    for text in texts:
        each = model.encode_text(tokenize([template.replace("{}", text) for template in templates]))
        mean = (each / each.norm(dim=1, keepdim=True)).mean(0)
        rows.append(mean / mean.norm())
    return torch.stack(rows)


def rows_are_the_texts(backbone, name, model, templates, draws=DRAWS):
    """The rows of the classes are the logit scale times the texts' embeddings, which are those by hand."""
    prompts, model = [[template.replace("{}", text) for template in templates] for text in CLASSES], copy.deepcopy(model)
    rows = model.logit_scale.exp() * embeddings(model, name, prompts)
    assert torch.equal(backbone.class_weights(), rows)

    def embedded(model):
        return embeddings(model, name, prompts)

    agree(embedded, model, lambda model: by_hand(model, open_clip.get_tokenizer(name), CLASSES, templates), draws)


def test_classes_are_scaled_cosines_to_their_texts(name, own, loaded):
    backbone, model = loaded(name, text_classes=CLASSES, templates=TEMPLATES), own(name)
    x = backbone.prepare(images(backbone))
    rows_are_the_texts(backbone, name, model, TEMPLATES)
    embedding = model.double().encode_image(x.double())
    bias = 0.0 if model.logit_bias is None else model.logit_bias
    agree(logits, (backbone, x), F.normalize(embedding, dim=1) @ backbone.text.double().T + bias)
    agree(lambda backbone, x: backbone.readout(*backbone.trunk(x))[1], (backbone, x), embedding)
    assert backbone.num_classes == 4


def test_one_template_is_what_the_library_calls_zero_shot(own, loaded):
    backbone, model = loaded(text_classes=CLASSES), own("tiny-vit")
    x = backbone.prepare(images(backbone))
    tokens = open_clip.get_tokenizer("tiny-vit")([f"a photo of a {text}." for text in CLASSES])
    with Double():  # with texts in double precision as well
        exact, expected = loaded(text_classes=CLASSES), model.double().get_logits(x.double(), tokens)[0]
        assert (off(exact.logits(x.double()), expected) <= EXACT * expected.abs().amax(1)).all()
    rows_are_the_texts(backbone, "tiny-vit", own("tiny-vit"), ["a photo of a {}."])


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_phrases_touch_no_class_and_no_other_phrase(loaded, activation):
    plain, asked, one = (loaded(text_classes=CLASSES, phrases=PHRASES[:count]) for count in (0, 3, 1))
    assert plain.identity == asked.identity
    x = plain.prepare(images(plain))
    y, z, first = plain.logits(x), asked.logits(x), one.logits(x)
    assert torch.equal(z[:, :4], y)
    assert torch.equal(z[:, :5], first)
    by_itself, among = (scene(b, images(plain), [], activation=activation) for b in (plain, asked))
    assert torch.equal(among.probabilities(z)[:, :4], by_itself.probabilities(y))
    for j in range(3):

        def alone(z, j=j):
            joined = torch.cat([z[:, :4], z[:, 4 + j : 5 + j]], 1)
            return (joined.softmax(1) if activation == "softmax" else joined.sigmoid())[:, -1]

        agree(lambda z, j=j: among.probabilities(z)[:, 4 + j], z, alone)


def test_without_classes_a_phrase_is_its_own_probability(loaded, own):
    backbone, model = loaded(phrases=PHRASES), own("tiny-vit")
    x = backbone.prepare(images(backbone))
    y = backbone.logits(x)
    assert (backbone.num_classes, backbone.identity) == (0, loaded().identity)
    with Double():  # with texts in double precision as well
        exact, tokenize = loaded(phrases=PHRASES), open_clip.get_tokenizer("tiny-vit")
        u = F.normalize(model.double().encode_image(x.double()), dim=1)
        rows = torch.cat([by_hand(model, tokenize, [text], own or ("a photo of a {}.",)) for text, own in PHRASES])
        expected = model.logit_scale.exp() * u @ rows.T
        assert (off(exact.logits(x.double()), expected) <= EXACT * expected.abs().amax(1)).all()
    assert torch.equal(scene(backbone, images(backbone), []).probabilities(y), y)


def test_identity_follows_texts_templates_and_both_towers(files, loaded, tmp_path):
    from safetensors.torch import load_file

    state = load_file(files / "tiny-vit.safetensors")
    state["text_projection"] = state["text_projection"] + 1
    save_file(state, tmp_path / "other.safetensors")
    other = load("open_clip/tiny-vit", weights=str(tmp_path / "other.safetensors"))
    found = [loaded(), loaded(text_classes=CLASSES), loaded(text_classes=CLASSES[:3]), loaded(templates=TEMPLATES), other]
    assert len({backbone.identity for backbone in found}) == 5
    assert loaded(text_classes=CLASSES).identity == found[1].identity


def ln_1(model, x):
    """The last block's ln_1 output, with a gradient, and the embedding made of it: the library's model, hooked in this test alone."""
    kept = []
    hook = model.visual.transformer.resblocks[-1].ln_1.register_forward_hook(
        lambda module, given, value: kept.append(value.requires_grad_()) or value
    )
    embedding = model.encode_image(x)
    hook.remove()
    return kept[0], embedding


@pytest.mark.parametrize("written", ["text:a bird", "text_contrast:a red wing|a bird", "text_contrast:a red wing|a bird(gamma=2)"])
@pytest.mark.parametrize("classes", [(), CLASSES])
def test_grad_cam_of_a_phrase_is_that_of_its_cosine(written, classes, own, loaded):
    backbone, model = loaded(text_classes=classes, phrases=PHRASES), own("tiny-vit")
    pixels = images(backbone)
    request, (t, b) = parse(written, TARGETS, "target"), backbone.text[len(classes) :][:2].double()
    tokens, embedding = ln_1(model.double(), doubled(backbone, pixels))
    cos = F.normalize(embedding, dim=1)
    scalar = cos @ b if request.name == "text" else cos @ t - request.args["gamma"] * (cos @ b)
    (gradient,) = torch.autograd.grad(scalar.sum(), tokens)
    # the class token's own gradient is no cell's: the last attention reads every token, and so does the gradient
    weights = gradient[:, 1:].mean(1)
    expected = torch.einsum("bk,bnk->bn", weights, tokens.detach()[:, 1:]).relu().unflatten(1, backbone.grid)
    agree(lambda backbone: maps("grad_cam", backbone, pixels, written), backbone, expected)


def test_reverse_and_extrapolation_on_texts(loaded):
    backbone = loaded(text_classes=CLASSES)
    pixels = images(backbone)
    asked = scene(backbone, pixels, ["reverse", "finer(gamma=2,T=1)", "finer(reference=weight_cosine)"])
    own, rival = range(3), asked.targets[0].reference_ids[:, 0].tolist()

    def of_classes(backbone):
        plain = scene(backbone, pixels, [f"class:{c}" for c in range(4)])
        return torch.stack([plain.gradients(c)[0] for c in range(4)], 1)

    for written, expected in {
        "reverse": lambda backbone: of_classes(backbone)[own, rival] - of_classes(backbone)[own, own],
        "finer(gamma=2,T=1)": lambda backbone: of_classes(backbone)[own, own] - 2 * of_classes(backbone)[own, rival],
    }.items():
        agree(lambda backbone, written=written: scene(backbone, pixels, [written]).gradients(0)[0], backbone, expected)
    rows = F.normalize(backbone.class_weights(), dim=1)
    nearest = (rows @ rows.T - 3 * torch.eye(4)).argsort(dim=1, descending=True, stable=True)
    assert torch.equal(asked.targets[2].reference_ids, nearest[:3, :3])


# attention


def test_raw_attention_is_that_of_the_librarys_blocks(own, loaded):
    backbone, model = loaded(text_classes=CLASSES), own("tiny-vit").double()
    pixels = images(backbone)
    last, kept = model.visual.transformer.resblocks[-1], []
    last.ln_1.register_forward_hook(lambda module, given, value: kept.append(value))
    model.encode_image(doubled(backbone, pixels))
    _, A = last.attn(kept[0], kept[0], kept[0], need_weights=True)
    agree(lambda backbone: maps("raw_attention", backbone, pixels, "label"), backbone, A[:, 0, 1:].unflatten(1, (4, 4)))
    assert attention_graph(backbone).relevance_misfit is None


def self_self(read, qkv, heads, iterations, temperature):
    """What one block's attention mixes [N D] where queries, keys and values each look at their like, head by head."""
    tau = temperature or sum(token.norm() for token in read) / len(read) / math.sqrt(read.shape[1] / heads)
    mixed = torch.zeros_like(read)
    for t in qkv:
        joined = []
        for s, v in zip(t.chunk(heads, 1), qkv[2].chunk(heads, 1), strict=True):
            for _ in range(iterations):
                s = s / s.norm(dim=1, keepdim=True)
                s = torch.softmax(s @ s.T * tau, 1) @ s
            s = s / s.norm(dim=1, keepdim=True)
            joined.append(torch.softmax(s @ s.T * tau, 1) @ v)
        mixed = mixed + torch.cat(joined, 1) / 3
    return mixed


def reference_gem(model, x, texts, weights, depth, iterations, temperature):
    """Methods 7.4 for one image [1 3 H W] in float64, block by block, patch by patch."""
    x = model.visual._embeds(x)[0]
    blocks, gem = list(model.visual.transformer.resblocks), None
    for b, block in enumerate(blocks):
        if b == len(blocks) - depth:
            gem = x
        if gem is not None:
            read = block.ln_1(x)
            qkv = (read @ block.attn.in_proj_weight.T + block.attn.in_proj_bias).chunk(3, 1)
            mixed = self_self(read, qkv, block.attn.num_heads, iterations, temperature)
            gem = gem + block.ls_1(mixed @ block.attn.out_proj.weight.T + block.attn.out_proj.bias)
        x = block(x[None])[0]
    looked_for = sum(weight * text for weight, text in zip(weights, texts, strict=True))
    patches = model.visual.ln_post(gem)[1:] @ model.visual.proj
    return torch.stack([F.cosine_similarity(patch, looked_for, dim=0) for patch in patches]).reshape(4, 4)


@pytest.mark.parametrize("name", ["tiny-vit", "tiny-avg", "tiny-late"])
@pytest.mark.parametrize("settings", ["depth=2", "depth=3,iterations=2", "depth=1,iterations=0,temperature=4"])
@pytest.mark.parametrize(("target", "weights"), [("class:1", [0, 1]), ("text_contrast:crow|jay", [1, -0.6])])
def test_gem_follows_its_formula(name, settings, target, weights, own, loaded):
    backbone, model = loaded(name, text_classes=CLASSES, phrases=(("crow", ()), ("jay", ()))), own(name).double()
    pixels, request = images(backbone), parse(f"gem({settings})", METHODS, "method")
    texts = backbone.text[slice(2) if target.startswith("class") else slice(-2, None)].double()
    args = (request.args["depth"], request.args["iterations"], request.args["temperature"])
    expected = [reference_gem(model, x, texts, weights, *args) for x in doubled(backbone, pixels).split(1)]
    agree(lambda backbone: maps(f"gem({settings})", backbone, pixels, target), backbone, torch.stack(expected))


def test_gem_reads_the_clip_vits_of_timm_too(tmp_path):
    """A patch's value is the direction's projection of its normed token: <d, head(norm(token))> / |d W|."""
    torch.manual_seed(0)
    args = {"depth": 2, "embed_dim": 32, "num_heads": 2, "num_classes": 5}
    network = timm.create_model("vit_base_patch16_clip_224", img_size=64, **args).eval().requires_grad_(False)
    for value in network.parameters():
        value += 0.1 * torch.randn_like(value)
    save_file(network.state_dict(), tmp_path / "clip.safetensors")
    backbone = load("timm/vit_base_patch16_clip_224", weights=str(tmp_path / "clip.safetensors"), args=args, image_size=64)
    pixels = images(backbone)
    network, expected = network.double(), []
    length = network.head.weight[3].norm().item()
    for x in doubled(backbone, pixels).split(1):
        tokens = gem = network.norm_pre(network._pos_embed(network.patch_embed(x)))[0]
        for block in network.blocks:
            read = block.norm1(tokens)
            gem = gem + block.attn.proj(self_self(read, block.attn.qkv(read).chunk(3, 1), block.attn.num_heads, 1, 0.0))
            tokens = block(tokens[None])[0]
        expected.append((network.head(network.norm(gem))[1:, 3] / length).reshape(4, 4))
    agree(lambda backbone: maps("gem(depth=2)", backbone, pixels, "class:3"), backbone, torch.stack(expected))
    assert (torch.stack(expected).flatten(1).std(1) > 0.01).all()


@pytest.mark.parametrize(
    ("name", "how", "method", "words"),
    [
        ("tiny-vit/none", {}, "gem", "3 blocks.*gem.depth=3"),
        ("tiny-vit/none", {}, "gem(depth=0)", "depth is 0"),
        ("tiny-vit/none", {}, "gem(depth=1,temperature=-1)", "temperature is -1"),
        ("tiny-resnet/none", {}, "gem", "no block that attends"),
        ("tiny-resnet/none", {}, "rollout", "no class token attention"),
    ],
)
def test_a_method_says_before_the_job_what_it_cannot_explain(name, how, method, words):
    with pytest.raises(Refusal, match=words):
        pipeline.explain(np.zeros((1, 3, 64, 64), np.uint8), None, Network(f"open_clip/{name}", **how), [method], ["text:a bird"])


# the whole way

FITTING = [cheap(method) for method in METHODS if method not in ("cam", "calm", "deconvnet")]
BOXES = [[[0.1, 0.1, 0.6, 0.5]]] * 2


@pytest.mark.parametrize("classes", [(), CLASSES])
def test_every_method_explains_phrases(classes, files):
    network = Network("open_clip/tiny-vit", str(files / "tiny-vit.safetensors"), text_classes=classes)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 64, 64), dtype=np.uint8)
    asked = ["text:a bird", "text_contrast:a red wing|a bird"] + (["reverse", "finer(gamma=2)"] if classes else [])
    found = pipeline.explain(
        pixels, [1, 9 % 4 if classes else 9], network, FITTING, asked, metrics=["energy", "ad", "official"], boxes=BOXES
    )
    assert found["errors"].num_rows == 0, found["errors"].to_pylist()
    rows = {(row["method"], row["target"], row["image_id"]): row for row in found["maps"].to_pylist()}
    for written in FITTING:
        method = parse(written, METHODS, "method")
        for target in ["none"] if METHODS[method.name].class_free else [parse(text, TARGETS, "target").alias for text in asked]:
            row = rows[method.alias, target, "00000001"]
            assert np.isfinite([row["map_min"], row["map_max"]]).all()
            assert (row["class_id"] is None) == (target == "none" or target.startswith("text"))
            assert target != "text_contrast:a red wing|a bird" or row["gamma"] == np.float32(0.6)
    for row in found["metrics"].to_pylist():
        for metric, without in {"ad": not classes, "official": not classes, "energy": False}.items():
            reason = dict(row["reasons"] or ()).get(metric, "")
            assert (row[metric] is None) == bool(reason), "a null has its reason"
            assert "no classes" in reason if without else reason in ("", "the map is constant", "nothing in the map speaks for the target")
    first = found["predictions"].to_pylist()[0]
    assert (first["predicted"] is None, first["top5"] == [], len(first["logits"])) == (not classes, not classes, len(classes))
    assert found["features"].schema.field("feature").type.list_size == 24


def test_targets_of_classes_need_classes(files):
    network = Network("open_clip/tiny-vit", str(files / "tiny-vit.safetensors"))
    for target in ("label", "predicted", "finer", "class:0"):
        with pytest.raises(Refusal, match="--text-classes FILE"):
            pipeline.explain(np.zeros((1, 3, 64, 64), np.uint8), None, network, ["grad_cam"], [target])
    plain = Network("timm/test_vit", args=(("pretrained", "false"),))
    with pytest.raises(Refusal, match="open_clip"):
        pipeline.explain(np.zeros((1, 3, 160, 160), np.uint8), None, plain, ["grad_cam"], ["text:a bird"])
    with pytest.raises(Refusal, match="knows no phrase 'a bird'"):
        pipeline.explain(np.zeros((1, 3, 64, 64), np.uint8), None, network.load(), ["grad_cam"], ["text:a bird"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("images")
    for i, text in enumerate(CLASSES):
        (place / "all" / text).mkdir(parents=True)
        (place / "all" / text / f"{i}.png").write_bytes(encoded(picture(i)))
    (place / "classes.txt").write_text("\n".join(reversed(CLASSES)) + "\n")
    return place


def test_a_job_with_text_classes(folder, files, tmp_path):
    weights = str(files / "tiny-vit.safetensors")
    plain = {"source": (str(folder / "all"),), "backbone": "open_clip/tiny-vit", "weights": weights, "out": str(tmp_path), "workers": 0}
    texts = {"text_classes": str(folder / "classes.txt"), "methods": ("grad_cam",)}
    first = explain.run(Job(**plain, **texts))
    assert first.counts["explained"] == 4
    run = tables.open(str(tmp_path))
    labels = run.sql("SELECT label, label_name FROM images ORDER BY label").to_pylist()
    assert [row["label_name"] for row in labels] == list(reversed(CLASSES)), "folder names are classes, in the file's order"
    receipts = set(tmp_path.glob("tasks/**/receipt.json"))
    explain.run(Job(**plain, **texts, targets=("label", "text:a bird")))
    (new,) = set(tmp_path.glob("tasks/**/receipt.json")) - receipts
    assert len(json.loads(new.read_text())["cells"]) == 1, "the phrase's maps alone are computed"
    run = tables.open(str(tmp_path))
    assert run.sql("SELECT count(*) AS n FROM maps WHERE target = 'text:a bird' AND class_id IS NULL").to_pylist() == [{"n": 4}]
    assert run.manifest["versions"]["open_clip_torch"]
    receipts = set(tmp_path.glob("tasks/**/receipt.json"))
    explain.run(Job(**plain, **texts, templates=TEMPLATES))
    (new,) = set(tmp_path.glob("tasks/**/receipt.json")) - receipts
    assert {part["table"] for part in json.loads(new.read_text())["cells"].values()} == {"features", "predictions", "maps"}


def test_a_job_without_classes_keeps_the_labels_it_finds(files, tmp_path):
    weights = str(files / "tiny-vit.safetensors")
    job = Job(
        source=(dataset(tmp_path / "shards", shards=1),), backbone="open_clip/tiny-vit", weights=weights, out=str(tmp_path), workers=0,
        methods=("grad_cam", "gem"), method_args=("gem.depth=2",), targets=("text:a red wing",), metrics=("ad", "tie_share"),
    )  # fmt: skip
    assert explain.run(job).counts == {"images": 4, "explained": 4, "failed": 0, "shards": 1, "shards_failed": 0, "errors": 0}
    run = tables.open(str(tmp_path))
    assert run.sql("SELECT count(ad) AS ad, count(tie_share) AS ties FROM metrics WHERE method = 'gem'").to_pylist() == [
        {"ad": 0, "ties": 4}
    ]


@pytest.mark.parametrize(
    ("content", "changes", "words"),
    [
        ("", {}, "no line"),
        ("crow\n\njay\n", {}, "an empty line"),
        ("crow\ncrow\n", {}, "more than once"),
        (None, {}, "no file of class names"),
        ("crow\njay\n", {"backbone": "timm/test_vit", "backbone_args": ("pretrained=false",), "weights": None}, "open_clip"),
    ],
)
def test_bad_text_classes_are_refused_in_one_line(content, changes, words, folder, files, tmp_path):
    if content is not None:
        (tmp_path / "texts.txt").write_text(content)
    plain = {"source": (str(folder / "all"),), "backbone": "open_clip/tiny-vit", "weights": str(files / "tiny-vit.safetensors")}
    with pytest.raises(Refusal, match=words) as refused:
        explain.run(Job(**{**plain, "out": str(tmp_path / "out"), "text_classes": str(tmp_path / "texts.txt"), "workers": 0, **changes}))
    assert "\n" not in str(refused.value)
