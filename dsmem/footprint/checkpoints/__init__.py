"""Checkpoints by their headers and by prediction: files, formats, published names, GGUF."""

from dsmem._lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, {})
