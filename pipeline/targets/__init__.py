"""Every target, one file each or a few of a kind; importing this package fills the registry."""

from importlib import import_module
from pkgutil import iter_modules

from pipeline.targets.registry import TARGETS

for module in iter_modules(__path__, prefix=f"{__name__}."):
    import_module(module.name)

__all__ = ["TARGETS"]
