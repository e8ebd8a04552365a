"""dsmem: derive, run, measure and plot the memory that a DeepSeek-R1-class model needs.

Importing the package costs NumPy; torch, SymPy, Matplotlib and ipywidgets load with the first name that needs them.
"""

from dsmem._lazy import attach

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "Architecture": "config.architecture",
        "model_names": "config.source",
        "GPUS": "config.hardware",
        "INSTANCES": "config.hardware",
        "Workload": "config.workload",
        "Training": "config.training",
        "Sharding": "config.sharding",
        "Footprint": "footprint.instants",
        "inference_footprint": "footprint.inference",
        "training_footprint": "footprint.training.step",
        "levers": "footprint.fit.levers",
        "find_tensor": "footprint.find",
        "checkpoint": "footprint.checkpoints.weigh",
        "build_model": "model.decoder",
        "Ledger": "memory.ledger",
        "replay": "memory.replay",
        "fit": "runs.fit",
        "which": "runs.fit",
        "measure": "runs.run",
        "explain": "runs.gaps",
        "here": "runs.machine",
        "show": "formulas.derive",
        "save_report": "plots.report",
        "explore": "plots.widgets",
        "explore_footprint": "plots.explorers",
        "explore_curves": "plots.explorers",
        "explore_weights": "plots.explorers",
        "explore_cache": "plots.explorers",
        "explore_ranks": "plots.explorers",
        "explore_training": "plots.explorers",
        "explore_settings": "plots.explorers",
        "explore_reads": "plots.explorers",
        "explore_fit": "plots.page.explorers",
    },
)
