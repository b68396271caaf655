"""Networks of open_clip, by name: an image tower, with the text tower's embeddings of classes and phrases.

B images, C classes, P phrases, E numbers of an embedding
"""

import contextlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.backbones.cutting.cut import Cut
from pipeline.backbones.cutting.graph import first_line
from pipeline.backbones.cutting.own_cut import OwnCut
from pipeline.backbones.libraries.open_clip_weights import cached_file, install_checkpoint, published_checkpoint
from pipeline.backbones.libraries.registry import BuildOptions, Library
from pipeline.backbones.preprocess import stated_config
from pipeline.backbones.stated import StatingNetwork
from pipeline.backbones.weights import weights_digest
from pipeline.classes.texts import TEMPLATES
from pipeline.refusal import Refusal, choose

SCHEMES = ("hf-hub:", "local-dir:")
CONFIG = "open_clip_config.json"
ARGS = ("pool", "projection", "pretrained")


class Clip(StatingNetwork):
    """An image tower; with texts, the logits are logit scale x cosine of the image's and each text's embedding (+ SigLIP's bias).

    Without classes and phrases the logits are the embedding itself. Phrases follow the classes, one logit each.

    Attributes:
        num_classes: C; 0 where no class is listed.
        text_weights: logit scale x unit text embeddings [C + P E], None where there are none; of classes that are a probe's, its weights.
        origin: sha256 of both towers and the classes' embeddings; the text tower itself is not kept.
    """

    feature_layer = "visual"

    visual: Any  # one of open_clip's many towers
    bias: nn.Parameter | None
    linear: nn.Linear | None  # a probe on the embedding

    def __init__(self, clip: Any, classes: Tensor, phrases: Tensor, config: dict) -> None:
        super().__init__()
        self.visual, self.pretrained_cfg = clip.visual, config
        self.num_classes, scale = len(classes), clip.logit_scale.detach().exp().reshape(())
        bias = getattr(clip, "logit_bias", None)
        # phrases one by one: the logit of a class or a phrase must not depend on the phrases beside it
        parts = [classes] * bool(self.num_classes) + list(phrases[:, None])
        self.texts = nn.ParameterList(nn.Parameter(scale * part, requires_grad=False) for part in parts)
        self.bias = None if bias is None else nn.Parameter(bias.detach().reshape(1), requires_grad=False)
        self.num_prefix_tokens = 1 if hasattr(clip.visual, "class_embedding") else None
        self.text_weights = torch.cat(list(self.texts)) if parts else None
        self.linear = None
        self.origin = weights_digest(clip.state_dict() | ({"classes": classes} if self.num_classes else {}))

    def forward(self, x: Tensor) -> Tensor:
        e = self.visual(x)
        classes = [] if self.linear is None else [self.linear(e)]
        if not len(self.texts):
            return classes[0] if classes else e
        u = F.normalize(e, dim=-1)
        logits = torch.cat([F.linear(u, text) for text in self.texts], 1)
        return torch.cat([*classes, logits if self.bias is None else logits + self.bias], 1)

    def forward_features(self, x: Tensor) -> Tensor:
        """The tokens [B N K] before they are pooled, of a ViT."""
        return self.visual.transformer(self.visual._embeds(x))

    def forward_head(self, tokens: Tensor) -> Tensor:
        """Tokens [B N K] -> the embedding [B E]."""
        pooled, _ = self.visual._pool(tokens)
        return pooled if self.visual.proj is None else pooled @ self.visual.proj


def build(name: str, options: BuildOptions) -> Clip:
    """The network open_clip calls `name`: `<arch>/<tag>`, `<arch>` with a weights file, `hf-hub:<org>/<name>`, `local-dir:<folder>`.

    Parameters:
        options: its args are pool (tok or avg), projection (false leaves the pooled tokens as they are) and pretrained (false: random
            weights from the seed). Its weights are a safetensors checkpoint with both towers. Position embeddings are resized to its
            size. Its classes are texts, filled into every template; its phrases follow, each with templates of its own or, where it has
            none, those of the classes.

    Raises:
        Refusal: on an unknown name or argument, weights that are out of reach or no safetensors, or texts the model cannot take.
    """
    import open_clip

    args = options.args
    arch, tag = (name, None) if name.startswith(SCHEMES) else _arch_and_tag(name)
    for key in args:
        choose(key, ARGS, "argument of an open_clip backbone in --backbone-args")
    pretrained = args.get("pretrained", True) and tag != "none"
    if options.weights is None and pretrained and not tag and not name.startswith(SCHEMES):
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(arch)) or "none"
        raise Refusal(f"open_clip/{arch} names no weights; add a tag (known: {tags}), or give --weights FILE, or the tag `none`")
    config = cached_file(arch, CONFIG) if arch.startswith("hf-hub:") else None
    source = options.weights or (published_checkpoint(arch, tag) if pretrained else None)
    model = f"local-dir:{Path(config).parent}" if config else arch
    published = open_clip.get_pretrained_cfg(arch, tag) if tag else {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        clip = _create(model, published, args, options.size)
    if source:
        install_checkpoint(clip, source)
    clip.eval().float().requires_grad_(False)
    if args.get("projection") is False and (options.classes or options.phrases):
        raise Refusal("texts are compared with projected embeddings; take projection=false out of --backbone-args")
    texts = [*((text, ()) for text in options.classes), *options.phrases]
    prompts = [[_fill(template, text) for template in templates or options.templates] for text, templates in texts]
    rows = embeddings(clip, model, prompts) if prompts else torch.empty(0, 1)
    description = open_clip.get_model_config(model) if model.startswith(SCHEMES) else arch
    architecture = json.dumps([description, bool(published.get("quick_gelu"))], sort_keys=True)
    return Clip(clip, rows[: len(options.classes)], rows[len(options.classes) :], _config(architecture, clip))


@torch.no_grad()
def embeddings(clip: Any, name: str, prompts: Sequence[Sequence[str]]) -> Tensor:
    """Unit embedding of each text [n E]: the embeddings of its prompts normalised, averaged, normalised again."""
    import open_clip

    try:
        tokenize = open_clip.get_tokenizer(name, context_length=clip.context_length)
        means = [F.normalize(clip.encode_text(tokenize(list(some))), dim=-1).mean(0) for some in prompts]
    except Exception as error:  # tokenizers of other hubs
        raise Refusal(f"open_clip's {name} cannot read texts ({first_line(error)}); use a model with open_clip's own tokenizer") from error
    return F.normalize(torch.stack(means), dim=-1)


def _fill(template: str, text: str) -> str:
    if "{}" not in template:
        raise Refusal(f"template {template!r} has no {{}} for the text; write for example {TEMPLATES[0]!r}")
    return template.replace("{}", text)


def _arch_and_tag(name: str) -> tuple[str, str | None]:
    """(architecture, tag or None), both known to open_clip."""
    import open_clip

    arch, _, tag = name.partition("/")
    choose(arch, open_clip.list_models(), "open_clip model")
    if tag and tag != "none":
        choose(tag.lower().replace("-", "_"), open_clip.list_pretrained_tags_by_model(arch), f"weights of open_clip's {arch}")
    return arch, tag or None


def _create(name: str, published: Mapping, args: Mapping, size: tuple[int, int] | None) -> Any:
    """open_clip's model with random weights, ready to be traced."""
    import open_clip

    try:
        config = open_clip.get_model_config(name)
        vision = dict(config["vision_cfg"])
        kind = "timm" if vision.get("timm_model_name") else "resnet" if isinstance(vision["layers"], (list, tuple)) else "vit"
        if size:
            vision["image_size"] = size[0] if kind == "resnet" and size[0] == size[1] else size
        if kind == "vit":
            # the same parameters and arithmetic, as torch's own MultiheadAttention hides its attention from the trace
            vision |= {"block_type": "custom", "pool_type": args.get("pool", vision.get("pool_type", "tok"))}
            choose(vision["pool_type"], ("tok", "avg"), "pool")
        elif {"pool", "projection"} & args.keys():
            raise Refusal(f"pool and projection are settings of open_clip's own ViTs, and {name} is none; take them out of --backbone-args")
        with _quiet():
            clip = open_clip.create_model(
                name,
                load_weights=False,
                pretrained_text=False,
                force_image_size=size if kind == "timm" else None,
                force_quick_gelu=bool(published.get("quick_gelu")),
                force_preprocess_cfg=dict(published),
                vision_cfg=vision,
            )
    except Refusal:
        raise
    except Exception as error:  # constructors, and libraries that some text towers need
        raise Refusal(f"open_clip cannot build {name} ({first_line(error)}); choose another model or image size") from error
    clip.visual.output_tokens = False
    if args.get("projection") is False:
        clip.visual.proj = None
    return clip


def _config(architecture: str, clip: Any) -> dict:
    """The model's input and architecture, in timm's keys."""
    size = clip.visual.image_size
    size = tuple(size) if isinstance(size, (tuple, list)) else (size, size)
    settings = {key: clip.visual.preprocess_cfg[key] for key in ("mean", "std", "interpolation")}
    return {**settings, "input_size": (3, *size), "crop_pct": 1.0, "architecture": architecture}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence open_clip's remarks on the root logger, above all that no weights are loaded."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(level)


def _identity_fields(name: str, network: Any, options: BuildOptions, cut: Cut | OwnCut) -> dict[str, object]:
    """Phrases decide nothing but the targets that name them."""
    args = {key: value for key, value in options.args.items() if key != "pretrained"} | {"templates": options.templates}
    return {"network": stated_config(network)["architecture"], "args": args, "weights": network.origin}


def _weights_identity(network: Any) -> str:
    return network.origin


def _add_classifier(network: Any, linear: nn.Linear) -> nn.Module:
    """A linear layer on the embedding, whose logits stand before those of phrases."""
    phrases = network.text_weights
    network.linear, network.num_classes = linear, linear.out_features
    network.text_weights = None if phrases is None else torch.cat([linear.weight.detach(), phrases])
    return network


LIBRARY = Library(
    prefix="open_clip/",
    form="open_clip/<arch>/<tag>",
    build=build,
    identity_fields=_identity_fields,
    weights_identity=_weights_identity,
    pooling_key="pool",
    headless={},
    takes_img_size=True,
    reads_texts=True,
    add_classifier=_add_classifier,
)
