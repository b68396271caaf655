"""Every analysis, a file a table or two of a kind; importing this package fills the registry."""

from importlib import import_module
from pkgutil import iter_modules

from pipeline.reduce.analyses.registry import ANALYSES, with_analyses

for module in iter_modules(__path__, prefix=f"{__name__}."):
    import_module(module.name)

__all__ = ["ANALYSES", "with_analyses"]
