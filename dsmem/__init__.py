"""dsmem: derive, run, measure and plot the memory that a DeepSeek-R1-class model needs.

Importing the package costs NumPy; torch, SymPy, Matplotlib and ipywidgets load with the first name that needs them.
"""

import importlib

from dsmem.architecture import Architecture, model_names

__version__ = "0.1.0"

_HOME = {
    "Workload": "workload",
    "Footprint": "footprint",
    "inference_footprint": "footprint",
    "build_model": "model",
    "Ledger": "ledger",
    "replay": "allocator",
    "measure": "levels",
    "explain": "levels",
    "show": "derive",
    "here": "machine",
    "save_report": "report",
    "explore": "widgets",
    "explore_footprint": "widgets",
    "explore_curves": "widgets",
}

__all__ = ["Architecture", "model_names", *_HOME]


def __getattr__(name):
    if name in _HOME:
        return getattr(importlib.import_module(f"dsmem.{_HOME[name]}"), name)
    try:
        return importlib.import_module(f"dsmem.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"dsmem.{name}":
            raise
    raise AttributeError(f"module 'dsmem' has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *__all__})
