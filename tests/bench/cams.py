"""What the CAM family costs here and in the grad-cam package, side by side in one run, in forwards of the bare network.

python -m tests.bench.cams --model resnet50
"""

import argparse
import statistics
import time

import numpy as np
import timm
import torch

from pipeline import backbones
from pipeline.plan.fit import fit_to_backbone
from pipeline.plan.outputs import outputs_of
from pipeline.sources.images import DecodedImages, ImageRow
from pipeline.spec.explain_spec import build_spec
from pipeline.stages.explainer import Explainer

LIBRARY = ("GradCAM", "GradCAMPlusPlus", "XGradCAM", "HiResCAM", "LayerCAM", "EigenCAM")


def seconds_per_image(work, images: int, rounds: int) -> float:
    """The median of several rounds, after one that does not count."""
    work()
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return statistics.median(times) / images


def library(network, layer, x, rounds: int) -> dict[str, float]:
    import pytorch_grad_cam
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    costs = {}
    for name in LIBRARY:
        with getattr(pytorch_grad_cam, name)(network, [layer]) as cam:
            costs[name] = seconds_per_image(lambda cam=cam: cam(x, [ClassifierOutputTarget(0)] * len(x)), len(x), rounds)
    return costs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="resnet50", help="a timm network that ends in pooling + linear")
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    backbone = backbones.load(f"timm/{options.model}", args={"pretrained": "false"})
    network = timm.create_model(options.model).eval()
    pixels = np.random.default_rng(0).integers(0, 256, (options.images, 3, *backbone.image_size), dtype=np.uint8)
    x = backbone.prepare(torch.from_numpy(pixels))
    with torch.no_grad():
        forward = min(seconds_per_image(lambda part=part: network(x[:part]), part, options.rounds) for part in (1, 8, 32))
    print(f"{options.model}: one forward {forward * 1e3:.1f} ms an image, one thread")
    rows = [ImageRow(image_id=str(i), key=str(i), label=0) for i in range(options.images)]
    pictures = DecodedImages(pixels, rows, ["0"] * options.images)
    for methods, targets in ((["grad_cam"], ["label"]), (["family:cam"], ["label"]), (["family:cam"], ["label", "finer"])):
        spec, _ = fit_to_backbone(build_spec(methods, targets), backbone)
        explainer, wanted = Explainer(backbone, spec), outputs_of(spec, backbone, ())
        cost = seconds_per_image(lambda e=explainer, w=wanted: e(pictures, w), options.images, options.rounds)
        maps = len(spec.pairs())
        print(f"atlas {' '.join(methods + targets)}: {cost / forward:.2f} forwards an image for {maps} maps, tables included")
    layer = network.get_submodule(backbone.layer)
    costs = library(network, layer, x, max(1, options.rounds // 2))
    for name, cost in costs.items():
        print(f"grad-cam {name}: {cost / forward:.2f} forwards an image for 1 map")
    print(f"grad-cam, these {len(costs)} one after the other: {sum(costs.values()) / forward:.2f}")


if __name__ == "__main__":
    main()
