"""Rooms that open when first entered: a package says which file has what, and nothing loads before use."""

import importlib
import pkgutil
import sys
from collections.abc import Callable


def attach(package: str, homes: dict[str, str]) -> tuple[Callable, Callable, list[str]]:
    """`__getattr__`, `__dir__` and `__all__` of a package that loads its names, and its own modules, on first use.

    package: its `__name__`. homes: {public name: the module inside the package that defines it}. A name that is not
    there raises AttributeError, as for any module.
    """
    modules = [module.name for module in pkgutil.iter_modules(sys.modules[package].__path__)]
    modules = [name for name in modules if not name.startswith("_")]

    def get(name):
        if name in homes:
            return getattr(importlib.import_module(f"{package}.{homes[name]}"), name)
        if name in modules:
            return importlib.import_module(f"{package}.{name}")
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    def names():
        return sorted({*homes, *modules})

    return get, names, sorted(homes)
