"""What an explaining actor holds: a backbone, and the cells it answers. The one stage of a task that needs torch."""

import ctypes
import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.backbones.network import Network
from pipeline.engine import costs
from pipeline.maps.quantise import stored
from pipeline.plan.outputs import outputs_of
from pipeline.plan.task import Task
from pipeline.sources.images import DecodedImages, unpack_rows
from pipeline.spec.explain_spec import ExplainSpec
from pipeline.spec.output import Output
from pipeline.stages.explainer import Explainer
from pipeline.stages.land import from_ipc, to_ipc, unanswered

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h


@dataclass(frozen=True)
class Explain:
    """Pictures -> the answers of the task's missing cells, as Arrow."""

    explainer: Explainer
    cells: Sequence[Output]

    @staticmethod
    def load(
        network: Network, spec: ExplainSpec, classes: Sequence[str], device: str, batch_size: int | None, threads: int | None
    ) -> "Explain":
        """Load the backbone. `threads` is fixed on the CPU, because sums depend on how they are split."""
        import torch

        if threads:
            torch.set_num_threads(threads)
            _keep_freed_memory()
        backbone = network.load()
        return Explain(Explainer(backbone, spec, device, batch_size), outputs_of(spec, backbone, classes))

    def __call__(self, row: dict) -> dict:
        started, told = time.perf_counter(), json.loads(row["samples"])
        if "failure" in told:
            return unanswered(row, told["failure"])
        task = Task.from_json(row["task"])
        pixels = np.frombuffer(row["pixels"], np.uint8).reshape(-1, 3, *self.explainer.backbone.image_size)
        rows = unpack_rows(told["rows"], row["codes"], self.explainer.backbone.image_size)
        pictures = DecodedImages(pixels, rows, told["digests"], told["errors"], self._stored_maps(task, row["maps"]))
        wanted, tally = [self.cells[i] for i in task.missing], Counter()
        answers = self.explainer(pictures, wanted, tally)
        failed = {error["image_id"] for _, _, errors in answers for error in errors.to_pylist()}
        seconds = {"read": told["seconds"], "explain": time.perf_counter() - started}
        facts = {"shard": task.shard.name, "start": task.start, "stop": task.stop, "failed": len(failed), "seconds": seconds}
        facts |= {"bytes_read": told["bytes"], "retries": told["retries"]}
        facts["passes"] = costs.account_of(tally, {"look", *(cell.method.alias for cell in wanted if cell.method)}, len(pictures))
        facts["payer_seconds"] = costs.seconds_of(tally)
        return {
            "task": row["task"],
            "answers": [
                part
                for cell, rows, errors in answers
                for part in (task.cell(cell.identity).encode(), cell.table.encode(), to_ipc(rows), to_ipc(errors))
            ],
            "facts": json.dumps(facts),
        }

    def _stored_maps(self, task: Task, content: bytes) -> dict[tuple[str, str], dict[str, np.ndarray]]:
        """Rows of `maps` as the maps [h w] they stand for, by image, for every method and target that has been answered."""
        known = (cell for i, cell in enumerate(self.cells) if cell.table == "maps" and i not in task.missing)
        found: dict[tuple[str, str], dict[str, np.ndarray]] = {(cell.method.alias, cell.target.alias): {} for cell in known}
        for row in from_ipc(content).to_pylist() if content else ():
            found.setdefault((row["method"], row["target"]), {})[row["image_id"]] = stored(row)
        return found


def _keep_freed_memory() -> None:
    """Have the C library keep what tensors free for the next ones.

    By default glibc gives every large block back and asks for it anew, and the system clears its pages each time: with a batch of 64
    that cost a MobileNetV2 more than the arithmetic did.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # glibc; other C libraries go without
        for option, value in ((M_MMAP_THRESHOLD, 1 << 30), (M_TRIM_THRESHOLD, (1 << 31) - 1)):
            libc.mallopt(option, value)
