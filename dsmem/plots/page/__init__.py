"""Explorers that live in a page: their states as a table, the script that draws them, and the kit's own."""

from dsmem._lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, {})
