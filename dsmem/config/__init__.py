"""What you ask for: the model's shape, the work it is given, and the formats that its weights are stored in."""

from dsmem._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "Architecture": "architecture",
        "model_names": "source",
        "Workload": "workload",
        "GPU": "hardware",
        "GPUS": "hardware",
        "capacities": "hardware",
        "SCHEMES": "schemes",
        "Scheme": "schemes",
        "Training": "training",
        "Sharding": "sharding",
    },
)
