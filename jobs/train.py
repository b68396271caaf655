"""Fine-tune a classifier, plain or with a CALM head, on shards; writes a checkpoint that explain takes.

python -m jobs.train --source 's3://b/train/{00000..00049}.tar' --backbone timm/resnet50 --head calm_em --classes classes.txt --out s3://b/calm
"""

import json
import sys

from cluster.connect import executor_for
from pipeline import storage
from pipeline.reduce.moments import in_words
from pipeline.refusal import counted, one_line
from pipeline.run.exit_codes import exit_code_of
from pipeline.spec.command_line import command_line
from pipeline.train.check import check_training
from pipeline.train.job import Training
from pipeline.train.loop import train
from pipeline.train.on_ray import train_on_ray

EPILOGUE = (
    "exit codes: 0 trained, 1 broken off, 2 refused, 3 the workers failed again and again; the same line then goes on where they stopped."
)


def run(job: Training) -> dict:
    """Carry out a training on the Ray it finds, or in this process where it asks for no workers; returns the content of training.json."""
    checked = check_training(job)
    with executor_for(job.workers, job.device) as executor:
        if executor.on_ray:
            train_on_ray(checked, executor.workers, executor.gpus > 0)
        else:
            train(checked, device="cuda" if executor.gpus else "cpu")
    return json.loads(storage.read_bytes(storage.join(job.out, "training.json")))


def main(arguments: list[str] | None = None) -> int:
    """Run the training a command line describes; returns the exit code."""
    return exit_code_of(lambda: run_and_report(command_line(Training, "jobs.train", arguments, EPILOGUE)))


def run_and_report(job: Training) -> int:
    """Carry out a training and print the accuracies of the network; returns the exit code."""
    try:
        training = run(job)
    except RuntimeError as failure:
        print(f"error: {one_line(failure)}; the same command goes on from the last whole epoch", file=sys.stderr)
        return 3
    accuracies = {
        name: (training[f"{key}_accuracy"], training[f"{key}_interval"]) for name, key in (("validation", "val"), ("test", "test"))
    }
    accuracies_text = ", ".join(f"{name} accuracy {in_words(share, ends)}" for name, (share, ends) in accuracies.items() if ends)
    print(
        f"trained {training['recipe']['head']} at rate {training['lr']:g} on {counted(training['images']['train'], 'images')}, "
        f"{counted(len(training['errors']), 'errors')}: "
        f"{accuracies_text or 'nothing to validate on'}; explain it with --backbone train/{storage.join(job.out, 'checkpoint.safetensors')}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
