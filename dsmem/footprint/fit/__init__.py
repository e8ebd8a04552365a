"""Will it fit: the answer, what is asked, what would help, which model does, and which lever saves most."""

from dsmem._lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, {})
