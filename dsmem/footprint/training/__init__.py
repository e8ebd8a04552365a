"""A training step, predicted: autograd on sizes alone, what is trained, and what the optimizer's step makes."""

from dsmem._lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, {})
