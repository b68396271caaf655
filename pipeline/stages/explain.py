"""The stage of a task that explains it: it holds a backbone, and is the only kind of stage that needs torch."""

import ctypes
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from pipeline.backbones.network import Network
from pipeline.engine import costs
from pipeline.plan.outputs import outputs_of
from pipeline.spec.explain_spec import ExplainSpec
from pipeline.spec.output import Output
from pipeline.stages.explainer import Explainer
from pipeline.stages.messages import ExplainMessage, ReadMessage, TaskResult, explain_failure

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h

OutputTables = list[tuple[Output, pa.Table, pa.Table]]  # rows and errors of each output


@dataclass(frozen=True)
class Explain:
    """ReadMessage -> ExplainMessage with the results of the task's missing outputs."""

    explainer: Explainer
    outputs: Sequence[Output]

    @classmethod
    def load(
        cls, network: Network, spec: ExplainSpec, classes: Sequence[str], device: str, batch_size: int | None, threads: int | None
    ) -> "Explain":
        """Load the backbone. `threads` is fixed on the CPU, because sums depend on how they are split."""
        import torch

        if threads:
            torch.set_num_threads(threads)
            keep_freed_memory()
        backbone = network.load()
        return cls(Explainer(backbone, spec, device, batch_size), outputs_of(spec, backbone, classes))

    def __call__(self, row: dict) -> dict:
        start, message = time.perf_counter(), ReadMessage.from_row(row)
        if message.failure:
            return explain_failure(row, message.failure)
        task, tally = message.task, Counter[tuple[str, str]]()
        outputs = [self.outputs[i] for i in task.missing]
        tables = self.tables(message, outputs, tally)
        failed = {error["image_id"] for _, _, errors in tables for error in errors.to_pylist()}
        facts = {
            "shard": task.shard.name,
            "start": task.start,
            "stop": task.stop,
            "failed": len(failed),
            "seconds": {"read": message.seconds, "explain": time.perf_counter() - start},
            "bytes_read": message.bytes_read,
            "retries": message.retries,
            "passes": costs.account_of(tally, {"look", *(output.method.alias for output in outputs if output.method)}, len(message.images)),
            "payer_seconds": costs.seconds_of(tally),
        }
        failures = {task.output_identity(o.identity): found for o, _, errors in tables if (found := _failure_of(errors))}
        if failures:
            facts["failures"] = failures
        results = [TaskResult(task.output_identity(output.identity), output.table, rows, errors) for output, rows, errors in tables]
        return ExplainMessage(task, results, facts).to_row()

    def tables(self, message: ReadMessage, outputs: Sequence[Output], tally: Counter) -> OutputTables:
        """Each output with its rows and its errors; the passes are added to `tally`."""
        return self.explainer(message.images, outputs, tally)


def _failure_of(errors: pa.Table) -> list | None:
    """On how many images a method or metric itself failed, and its first error; None where it did not."""
    own = [error for error in errors.to_pylist() if error["stage"] in ("map", "metric")]
    return [len({error["image_id"] for error in own}), f"{own[0]['error']}: {own[0]['message']}"] if own else None


def keep_freed_memory() -> None:
    """Have the C library keep freed blocks of tensors for the next ones.

    By default glibc gives every large block back and asks for it anew, and the system clears its pages each time: with a batch of 64
    that cost a MobileNetV2 more than the arithmetic did. On another thread than the main one, as in Ray's actors, it works where threads
    share one arena (MALLOC_ARENA_MAX=1, see `cluster.connect`).
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # glibc; other C libraries go without
        for option, value in ((M_MMAP_THRESHOLD, 1 << 30), (M_TRIM_THRESHOLD, (1 << 31) - 1)):
            libc.mallopt(option, value)
