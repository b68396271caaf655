"""Every metric of the field, one file each; importing this package fills the registry."""

from importlib import import_module
from pkgutil import walk_packages

from pipeline.families import METRICS

for module in walk_packages(__path__, prefix=f"{__name__}."):
    import_module(module.name)

__all__ = ["METRICS"]
