"""The tasks of a job: all images of its shards, the first, or a sample that the seed draws."""

from collections.abc import Mapping

import numpy as np

from pipeline import sources
from pipeline.plan.task import Task
from pipeline.refusal import counted
from pipeline.spec.job import Job
from pipeline.tables.identity import seed_of

Indexes = Mapping[sources.Shard, sources.Index]


def cut_tasks(job: Job, indexes: Indexes) -> list[Task]:
    """Ranges of each shard's images; of a sample, its images in them."""
    if job.sample is not None:
        return _sampled_tasks(job.sample, job, indexes)
    limit, step, tasks = job.limit, job.task_images, []
    for shard, index in indexes.items():
        count = index.count if limit is None else min(limit, index.count)
        limit = None if limit is None else limit - count
        tasks += [Task.of(shard, index, start, min(start + step, count)) for start in range(0, count, step)]
    return tasks


def in_words(job: Job, images: int) -> str | None:
    """Which of the `images` that there are --limit or --sample takes; None where neither is given."""
    flag, number = ("--limit", job.limit) if job.limit is not None else ("--sample", job.sample)
    if number is None:
        return None
    if number >= images:
        return f"{flag} {number}: there are {counted(images, 'images')}, and all are taken"
    if flag == "--sample":
        return f"--sample {number} takes {number} of {counted(images, 'images')}, drawn by --seed {job.seed}"
    return f"--limit {number} takes the first {number} of {counted(images, 'images')}, shard by shard; --sample {number} would draw them"


def _sampled_tasks(size: int, job: Job, indexes: Indexes) -> list[Task]:
    """Tasks of the images with the `size` lowest numbers, which seed and shard draw: another shard changes no number of this one's."""
    numbers, shard_of, position_of = (np.empty(0, kind) for kind in (np.float64, np.int64, np.int64))
    for i, index in enumerate(indexes.values()):
        drawn = np.random.default_rng(seed_of(job.seed, "sample", index.identity)).random(index.count)
        numbers = np.concatenate([numbers, drawn])
        shard_of = np.concatenate([shard_of, np.full(index.count, i)])
        position_of = np.concatenate([position_of, np.arange(index.count)])
        lowest = np.argsort(numbers, kind="stable")[:size]
        numbers, shard_of, position_of = numbers[lowest], shard_of[lowest], position_of[lowest]
    tasks = []
    for i, (shard, index) in enumerate(indexes.items()):
        positions = tuple(sorted(position_of[shard_of == i].tolist()))
        for start in range(0, len(positions), job.task_images):
            chosen = positions[start : start + job.task_images]
            tasks.append(Task.of(shard, index, chosen[0], chosen[-1] + 1, chosen))
    return tasks
