"""Train linear probes on a frozen network: shards in, a classifier for jobs.explain --probe out.

python -m jobs.probe --train 'cub/train-*.tar' --test 'cub/test-*.tar' --classes cub/classes.txt --backbone timm/vit_tiny_patch16_224 --out out/atlas
"""

import sys
from functools import partial

from jobs import explain
from pipeline import storage, tables
from pipeline.plan.check import check_job
from pipeline.reduce.moments import in_words
from pipeline.refusal import counted
from pipeline.run.exit_codes import CODES, exit_code_of
from pipeline.sources.labels import read_names
from pipeline.spec.command_line import command_line
from pipeline.train.probe.job import ProbeJob
from pipeline.train.probe.train import refuse_classes, train_probe

EPILOGUE = (
    "Features of all poolings are computed in one pass and reused while nothing changed. Writes OUT/probes/NAME/<pool>-<solver>.safetensors, and "
    f"accuracy.parquet beside them.\n\n{CODES}"
)


def run(job: ProbeJob) -> list[dict]:
    """Carry out a job; the rows of the accuracy table."""
    names = read_names(job.classes)
    features = job.features()
    explain.carry_out(check_job(features), partial(refuse_classes, job, names))
    return train_probe(job, tables.open(job.out, features.name), names)


def main(arguments: list[str] | None = None) -> int:
    """Run the job a command line describes; returns the exit code."""
    return exit_code_of(lambda: run_and_report(command_line(ProbeJob, "jobs.probe", arguments, EPILOGUE)))


def run_and_report(job: ProbeJob) -> int:
    """Carry out a job and print the accuracies of its probes; returns the exit code."""
    for row in run(job):
        if row["class_id"] is None:
            description = f"{row['probe']} ({row['setting']:g}, step {row['step']})"
            split = f"{row['split']} (trained on as well)" if row["fitted"] and row["split"] != "train" else row["split"]
            shares = (f"top-{k} {in_words(row[f'top{k}'], (row[f'top{k}_low'], row[f'top{k}_high']))}" for k in (1, 5))
            print(f"{description}: {split} {counted(row['n'], 'images')}, {', '.join(shares)}")
    print(f"the probes are below {storage.join(job.out, 'probes', job.name)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
