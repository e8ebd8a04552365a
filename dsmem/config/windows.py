"""Which layers slide, over how many tokens, and what a cache keeps of them."""

from typing import Any

import numpy as np

FULL, SLIDING = KINDS = ("full_attention", "sliding_attention")
"""What `layer_types` says of a layer: it attends to all tokens before, or to the last of them."""


class WindowShapes:
    """What follows from `sliding_window` and `layer_types`, for `Architecture`."""

    def slides(self, index: int) -> bool:
        """Whether layer `index` (from 0) attends to the last `sliding_window` tokens alone, its own included."""
        return self.sliding_window is not None and (not self.layer_types or self.layer_types[index] == SLIDING)

    def layers_caching(self, name: str, slide: bool, first: int | None = None) -> int:
        """Number of layers that keep the rows called `name` in `cache_rows`, of those that slide or of the others.

        first: of the first so many layers alone; defaults to all.
        """
        places = self.layers_that(slide)
        if name == "indexer_keys":
            places = [index for index in self.indexer_layers if not slide]
        return sum(first is None or index < first for index in places)

    @property
    def rotary_bases(self) -> int:
        """Kinds of rotary angles: 2 where the layers that slide have a base of their own."""
        return 1 if self.rope_local_base_freq is None else 2

    def layers_that(self, slide: bool) -> list[int]:
        """Indices of the layers that slide, or of those that do not."""
        return [index for index in range(self.num_hidden_layers) if self.slides(index) == slide]

    def kept_tokens(self, slide: bool, tokens: Any) -> Any:
        """Of `tokens`, a number or an array, those that a cache keeps in a layer that slides, or in one that does not.

        A token attends to the `sliding_window - 1` before it, so no cache keeps more. transformers' growing cache keeps
        as many; its static one has room for one more.

        >>> import dsmem
        >>> dsmem.Architecture.from_config("llama-2-7b").scaled(sliding_window=4096).kept_tokens(True, 32_768)
        4095
        """
        if not slide or self.sliding_window is None:
            return tokens
        kept = np.minimum(tokens, self.sliding_window - 1)
        return kept if kept.ndim else int(kept)
