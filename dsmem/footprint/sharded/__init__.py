"""One rank of many, predicted: what it holds at rest, a pass, and a training step."""

from dsmem._lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, {})
