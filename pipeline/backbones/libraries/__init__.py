"""Every library of networks, one file each: a module with a `LIBRARY` in this folder is one."""

from importlib import import_module
from pkgutil import iter_modules

from pipeline.backbones.libraries.registry import BuildOptions, Library
from pipeline.refusal import Refusal

__all__ = ["BuildOptions", "Library", "all_libraries", "library_of"]


def all_libraries() -> list[Library]:
    """The table of libraries, the one for all other names last."""
    modules = [import_module(f"{__name__}.{module.name}") for module in iter_modules(__path__)]
    libraries = [module.LIBRARY for module in modules if hasattr(module, "LIBRARY")]
    return sorted(libraries, key=lambda library: -len(library.prefix))


def library_of(name: str) -> Library:
    """The library of a backbone's name: timm's of `timm/resnet50`.

    Raises:
        Refusal: where the name begins with no library's prefix and is no `my_module:build`.
    """
    *libraries, custom = all_libraries()
    library = next((library for library in libraries if name.startswith(library.prefix)), None)
    if library is None and (":" not in name or "/" in name):
        forms = ", ".join(library.form for library in libraries)
        guess = f"timm/{name.rpartition('/')[2] or 'resnet50'}"
        raise Refusal(f"unknown backbone {name!r}; write {guess}, or another name of the form {forms} or {custom.form}")
    return library or custom
