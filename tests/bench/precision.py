"""How far half precision moves the maps of a real network, method by method.

python -m tests.bench.precision --backbone timm/vit_tiny_patch16_224 --weights FILE --source 'val/*.tar' --precision bf16
"""

import argparse
import statistics
import time

import numpy as np
import torch

from pipeline import backbones, engine, sources
from pipeline.methods import METHODS
from pipeline.plan.fit import fit_to_backbone
from pipeline.plan.outputs import outputs_of
from pipeline.refusal import Refusal
from pipeline.sources.decode import decode
from pipeline.sources.images import DecodedImages, ImageRow
from pipeline.spec.explain_spec import build_spec
from pipeline.spec.grammar import parse
from pipeline.stages.explainer import Explainer

# Shorter than the defaults: what precision does to a sum shows in fewer terms of it.
SHORT = {
    "extremal": "extremal(steps=20)",
    "glas": "glas(k=7)",
    "glas_light": "glas_light(k=7)",
    "glas_shadow": "glas_shadow(k=7)",
    "gradient_shap": "gradient_shap(samples=5)",
    "integrated_gradients": "integrated_gradients(steps=10)",
    "lime": "lime(samples=100)",
    "mask": "mask(steps=20)",
    "occlusion": "occlusion(window=64,stride=32)",
    "opti_cam": "opti_cam(steps=10)",
    "rglas": "rglas(k=7,rounds=2)",
    "rise": "rise(masks=200)",
    "smooth_grad": "smooth_grad(samples=5)",
    "var_grad": "var_grad(samples=5)",
}


def pictures_of(source: str, backbone, count: int) -> DecodedImages:
    """The first images of some shards."""
    pixels, rows = [], []
    prepare = backbone.prepare
    for shard in sources.list_shards([source]):
        index = sources.index(shard)
        for sample in sources.read(shard, 0, min(index.count, count - len(rows)), index):
            pixels.append(decode(sample.image, backbone.image_size, prepare.interpolation, prepare.crop, prepare.crop_pct).pixels)
            rows.append(ImageRow(image_id=sample.key, key=sample.key, label=int(sample.label)))
        if len(rows) >= count:
            break
    return DecodedImages(np.stack(pixels), rows, [row.key for row in rows])


def answered(backbone, pictures: DecodedImages, method: str, precision: str) -> tuple[dict[str, np.ndarray], list[int], float]:
    """Maps by image, predictions, and seconds an image."""
    spec, _ = fit_to_backbone(build_spec([method], ["label"], precision=precision), backbone)
    started = time.perf_counter()
    answers = Explainer(backbone, spec)(pictures, outputs_of(spec, backbone, ()))
    seconds = (time.perf_counter() - started) / len(pictures)
    found = {cell.table: rows.to_pylist() for cell, rows, _ in answers}
    maps = {row["image_id"]: np.array(row["map"]) * (row["map_max"] - row["map_min"]) + 255 * row["map_min"] for row in found["maps"]}
    return maps, [row["predicted"] for row in found["predictions"]], seconds


def correlations(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> list[float]:
    """Pearson's of each image's two maps; maps that are flat in both agree, in one do not."""
    found = []
    for image, a in one.items():
        b = other.get(image)
        flat = b is None or a.std() == 0 or b.std() == 0
        found.append(float(b is not None and a.std() == b.std() == 0) if flat else float(np.corrcoef(a, b)[0, 1]))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="timm/vit_tiny_patch16_224")
    parser.add_argument("--weights")
    parser.add_argument("--backbone-args", nargs="*", default=[])
    parser.add_argument("--source", required=True)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--precision", choices=["bf16", "fp16"], default="bf16")
    parser.add_argument("--device", default="cpu")
    usual = sorted({*METHODS} - {"score_cam"})  # a pass a channel: 1280 of a MobileNetV2
    parser.add_argument("--methods", nargs="*", default=usual, help="all but score_cam by default")
    options = parser.parse_args()
    torch.set_num_threads(1)
    args = dict(item.split("=", 1) for item in options.backbone_args)
    backbone = backbones.load(options.backbone, weights=options.weights, args=args).to(options.device)
    pictures = pictures_of(options.source, backbone, options.images)
    print(f"{options.backbone}, {len(pictures)} images, {options.precision} beside fp32 on {options.device}")
    agreed = None
    for name in options.methods:
        written = SHORT.get(name, name)
        if engine.misfit(parse(written, METHODS, "method"), backbone) or METHODS[name].class_free and name == "random":
            continue
        try:
            full, classes, seconds = answered(backbone, pictures, written, "fp32")
            half, others, short = answered(backbone, pictures, written, options.precision)
        except Refusal as refusal:
            print(f"| {name} | {refusal} |")
            continue
        if agreed is None:
            agreed = sum(a == b for a, b in zip(classes, others, strict=True))
            print(f"top-1 agreement {agreed} of {len(classes)}\n\n| method | median | min | seconds an image, fp32 | {options.precision} |")
            print("|---|---|---|---|---|")
        r = correlations(full, half)
        print(f"| {written} | {statistics.median(r):.4f} | {min(r):.4f} | {seconds:.2f} | {short:.2f} |", flush=True)


if __name__ == "__main__":
    main()
