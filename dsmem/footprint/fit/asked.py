"""What is asked to fit: a model, its workload or its training, spread over devices, in any format that is known."""

import dataclasses
import functools
from typing import Any, Self

import numpy as np

from dsmem.config.architecture import Architecture
from dsmem.config.schemes import COPY, PACKED, SCHEMES
from dsmem.config.source import published_weights
from dsmem.config.training import Training
from dsmem.config.workload import STORED_CACHES, Workload
from dsmem.footprint.checkpoints.gguf import MIXES, gguf_bytes
from dsmem.footprint.fit.solve import BOUND
from dsmem.footprint.inference import inference_footprint
from dsmem.footprint.instants import KEPT, Footprint
from dsmem.footprint.segments import segment_bytes
from dsmem.footprint.stored import KEPT as LEFT
from dsmem.footprint.stored import cache_bytes, weight_bytes
from dsmem.footprint.training.step import training_footprint
from dsmem.units import FLOATS, QUANTIZED, format_name, one_of

STORED = (*(name for name, scheme in SCHEMES.items() if not scheme.runs), *PACKED)
"""Formats of weights whose stored bytes are known, and no pass."""

GGUF_MIXES = tuple(mix for mix in MIXES if mix not in ("f32", "f16", "bf16"))
_WEIGHTS = ("weights", "weight_scales")
_CACHES = tuple(part for part in KEPT if part.endswith("cache") or part == "cache_scales")


class Sized:
    """A question about `work`, a `Workload`, that can be asked with other sizes; `changed` has its other fields."""

    @property
    def context(self) -> Any:
        """Tokens of a sequence, cached and new."""
        has_room = self.work.phase == "decode" and self.work.cache != "growing"
        return self.work.cache_len if has_room else self.work.key_len

    def with_context(self, tokens: int) -> Self:
        """The same with sequences of so many tokens."""
        if self.work.phase == "decode":
            grown = {"cached_tokens": tokens - 1} if self.work.cache == "growing" else {}  # else it has room for them
            return self.changed(seq_len=tokens, **grown)
        return self.changed(seq_len=tokens - self.work.cached_tokens)

    def with_batch(self, batch: int) -> Self:
        """The same with so many sequences."""
        return self.changed(batch=batch)


@dataclasses.dataclass(frozen=True)
class Asked(Sized):
    """A model and what it is to do, at the depth of formulas.

    work: the pass. training: of a step, else None. sharding: over how many devices and how, else None. stored: a format
    of `STORED` or `GGUF_MIXES`, or "": then the pass is that of 16-bit weights, and only the weights are these.
    said: who says the format of the weights, where nobody asked for one: ", as published" or ", as its config says".
    """

    arch: Architecture
    work: Workload
    training: Training | None = None
    sharding: Any = None
    stored: str = ""
    said: str = ""

    @classmethod
    def of(
        cls, arch: Any, work: Workload | None = None, training: Any = None, sharding: Any = None, **fields: Any
    ) -> "Asked":
        """What these arguments ask; errors: those of `Architecture.of`, `Workload.of` and `Training.of`.

        Where no weights are asked for, a pass has those of the model's config, or of `source.published_weights`.

        >>> Asked.of("qwen2.5-7b", weights="awq").stored, Asked.of("gpt-oss-20b").weights_words
        ('awq', 'mxfp4, as published')
        """
        arch, stored, work = Architecture.of(arch), "", None if work is None else Workload.of(work)
        training = None if training is None or training is False else Training.of(training)
        wanted, said = format_name(fields.get("weights")), ""
        if wanted is None and (work is None or work.weights_from == "default"):
            wanted, said = _usual_weights(arch, training)
        if isinstance(wanted, str) and (wanted in STORED or wanted.lower() in GGUF_MIXES):
            stored, wanted = wanted if wanted in STORED else wanted.lower(), "fp16"
            if arch.expert_bias and stored == "mxfp4":
                fields = {"modules_to_not_convert": LEFT["all but routed experts"]} | fields
        if wanted is not None:
            fields = fields | {"weights": wanted}
        if training:
            if stored:
                raise ValueError(
                    f"weights={stored!r} is a format of which no step is modelled; allowed in training: "
                    f"{', '.join(FLOATS)}"
                )
            work = training.workload(work, **fields)
        else:
            if wanted is not None:
                one_of("weights", wanted, FLOATS + QUANTIZED + STORED + GGUF_MIXES)
            work = Workload.of(work, **fields).on(arch)
        return cls(arch, work, training, sharding, stored, said)

    @property
    def bound(self) -> int:
        """Where the search for a limit ends."""
        return BOUND

    @property
    def name(self) -> str:
        """The model's."""
        return self.arch.name

    @property
    def depth(self) -> str:
        """How the answer is found."""
        return "formula"

    @property
    def weights_words(self) -> str:
        """The format of the weights."""
        return (self.stored or self.work.weights_words) + self.said

    @property
    def least_context(self) -> int:
        """The fewest tokens that a sequence of this kind can have."""
        if self.work.phase == "decode":
            return 1
        return int(self.work.cached_tokens) + (2 if self.training else 1)

    @property
    def most_context(self) -> int | None:
        """The most tokens that the model is made for, None where its config does not say."""
        return self.arch.learned_positions or self.arch.max_position_embeddings

    def changed(self, **fields: Any) -> "Asked":
        """The same with another workload; weights of a format that is only stored need their own `Asked.of`."""
        said = "" if "weights" in fields else self.said
        return dataclasses.replace(self, work=self.work.changed(**fields), said=said)

    def spread(self, sharding: Any) -> "Asked":
        """The same on other devices."""
        return dataclasses.replace(self, sharding=sharding)

    @functools.cached_property
    def footprints(self) -> list[Footprint]:
        """The `Footprint` of each device that may be the fullest; of 16 bit where a format has no pass."""
        work = self.work
        if work.kv_cache in STORED_CACHES:
            work = work.changed(kv_cache=work.activations)
        where = [()] if self.sharding is None else [(self.sharding, rank) for rank in self._ranks()]
        if self.training:
            return [training_footprint(self.arch, work, self.training, *each) for each in where]
        return [inference_footprint(self.arch, work, *each) for each in where]

    def _ranks(self):
        """The first rank of each stage, whose others hold as much; all where optimizer states are dealt unevenly."""
        uneven = self.training and self.sharding.zero in (1, 2)
        return range(0, self.sharding.ranks, 1 if uneven else self.sharding.stage_ranks)

    @property
    def footprint(self) -> Footprint:
        """That of the fullest device; of a workload of arrays, by its largest case."""
        return max(self.footprints, key=lambda fp: np.max(fp.total_bytes))

    def parts(self) -> dict[str, Any]:
        """{part: bytes} of one device at the peak."""
        parts = dict(self.footprint.parts)
        if self.work.kv_cache in STORED_CACHES:
            parts = self._with_stored_cache(parts)
        return self._with_stored_weights(parts) if self.stored else parts

    def total(self) -> Any:
        """Bytes of one device at the peak."""
        if self.stored or self.work.kv_cache in STORED_CACHES:
            return sum(self.parts().values())
        totals = [fp.total_bytes for fp in self.footprints]
        return functools.reduce(np.maximum, totals) if isinstance(totals[0], np.ndarray) else max(totals)

    def segment_bytes(self) -> Any:
        """The most that whole blocks and segments add; none where llama.cpp, which has neither, stores the weights."""
        if self.stored in GGUF_MIXES:
            return 0
        return segment_bytes(self.arch, self.work, self.stored, bool(self.training), self.sharding)

    def _with_stored_weights(self, parts):
        whole = _stored_bytes(self.arch, self.stored, self.work.modules_to_not_convert)
        plain = sum(int(np.max(nbytes)) for part, nbytes in parts.items() if part.startswith(_WEIGHTS))  # all alike
        all_plain = weight_bytes(self.arch, self.work.weights)
        rest = {part: nbytes for part, nbytes in parts.items() if not part.startswith(_WEIGHTS)}
        found = {f"weights_{self.stored}": -(-whole * plain // all_plain)}
        scheme = SCHEMES.get(self.stored)
        if scheme and scheme.temporaries.startswith(COPY):
            found["weight_copy"] = 2 * max(n_in * n_out for n_in, n_out, _ in self.arch.matrices().values())
        return found | rest

    def _with_stored_cache(self, parts):
        if self.sharding is not None or self.work.cache in ("none", "growing"):
            raise ValueError(
                f"kv_cache={self.work.kv_cache!r} is sized on one device and with a static cache alone; allowed "
                "elsewhere: the formats that a pass is modelled in"
            )
        rest = {part: nbytes for part, nbytes in parts.items() if part not in _CACHES}
        return rest | cache_bytes(self.arch, self.work)

    @property
    def notes(self) -> tuple[str, ...]:
        """What differs from what one may expect, a sentence each."""
        notes = []
        if self.stored:
            copy = "a 16-bit copy of the largest matrix" if self.stored.startswith("nf4") else "no copy by its kernels"
            notes.append(f"No pass is modelled in {self.stored}: beside its weights stands a 16-bit pass, with {copy}.")
            if self.sharding is not None:
                notes.append("Its weights are shared out between devices as 16-bit weights are.")
        if self.work.kv_cache in STORED_CACHES:
            notes.append(f"No pass is modelled on a {self.work.kv_cache} cache: its bytes stand in a 16-bit pass.")
        if self.most_context and self.context > self.most_context:
            notes.append(f"The model is made for {self.most_context:,} tokens, and {self.context:,} are asked.")
        if self.arch.apart:
            notes.append(f"The language model alone, without {' and '.join(self.arch.apart)}.")
        return tuple(notes)


def _usual_weights(arch, training):
    """The format that a pass of `arch` has where none is asked for, and who says so; None for what `Workload` has."""
    if arch.stored in STORED:
        return arch.stored, ", as its config says"
    published = "" if arch.stored or training else published_weights(arch.name)
    return (published, ", as published") if published else (None, "")


@functools.lru_cache(maxsize=64)
def _stored_bytes(arch, name, kept):
    return gguf_bytes(arch, name) if name in GGUF_MIXES else weight_bytes(arch, name, modules_to_not_convert=kept)
