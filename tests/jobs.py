"""Small jobs of the tests, and the tables that they publish."""

from jobs import explain
from pipeline import tables
from pipeline.spec.job import Job
from pipeline.train.job import Training

OF_IMAGES, OF_MAPS = ("images", "features", "predictions"), ("maps", "metrics")
METRICS = ("energy", "pointing", "iou", "pxap", "box_acc(step=0.1)")


def job(source, out, **changes) -> Job:
    """A job on the tiny network in this process, but for the changes."""
    plain = {
        "backbone": "tests.tiny:build",
        "image_size": 64,
        "methods": ("family:cam",),
        "targets": ("label", "finer"),
        "workers": 0,
        "task_images": 2,
    }
    return Job(source=(source,) if isinstance(source, str) else tuple(source), out=str(out), **{**plain, **changes})


def scoring_job(source, out, metrics=METRICS, **changes) -> Job:
    """A job with metrics of each kind."""
    return job(source, out, **{"methods": ("grad_cam",), "metrics": metrics, **changes})


def undisturbed(job: Job) -> dict:
    """The tables of a job carried out in this process, with one thread as on the workers."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    explain.run(job)
    torch.set_num_threads(threads)
    return content(job.out)


def content(out, name: str = "default") -> dict[str, list]:
    """Every table of a published run, value by value, sorted by key."""
    run = tables.open(str(out), name)
    keys = dict.fromkeys(OF_IMAGES, "image_id") | dict.fromkeys(OF_MAPS, "image_id, method, target")
    return {table: run.sql(f"SELECT * FROM {table} ORDER BY {keys.get(table, 'ALL')}").to_pylist() for table in run.tables}


def training(data, out, **changes) -> Training:
    """A short training on `data`, a source and where its decoded images may lie, but for the changes."""
    source, cache = data
    plain = {
        "source": (source,),
        "backbone": "timm/test_resnet",
        "backbone_args": ("pretrained=false", "norm_layer=groupnorm1"),
        "classes": "5",
        "image_size": 32,
        "epochs": 2,
        "batch_size": 8,
        "lr": (0.01,),
        "val_share": 0.2,
        "cache": str(cache),
        "out": str(out),
    }
    return Training(**{**plain, **changes})
