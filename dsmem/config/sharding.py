"""How one model is spread over many ranks: who cuts what, and which rank is which."""

import dataclasses
from typing import TYPE_CHECKING, Any, NamedTuple

from dsmem.units import one_of, whole_number

if TYPE_CHECKING:
    from dsmem.config.architecture import Architecture

_ZERO_UNITS = (("tensors", "flat", "rows"), ("tensors", "flat"), ("flat",), ("rows",))  # by stage, the default first
_DEGREES = ("data", "tensor", "pipeline", "expert", "context")


class Place(NamedTuple):
    """Where a rank stands, each number from 0: its stage, its replica of the data, and its places inside it.

    expert: which share of the experts it holds; expert_tensor: which part of each of them.
    """

    pipeline: int
    data: int
    context: int
    tensor: int
    expert: int
    expert_tensor: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sharding:
    """How a model is spread over `ranks` = data x context x tensor x pipeline devices.

    data: replicas, each with sequences of its own. A workload is what one of them runs: its `batch` is of one replica.
    zero: what replicas share out among them instead of each keeping all of it: 0 nothing (DDP), 1 optimizer states,
    2 gradients, too, 3 parameters, too (ZeRO, arXiv 1910.02054; stage 3 is FSDP).
    zero_unit: what is shared out whole: at stage 1 "tensors", each to the rank that has least so far (torch's
    ZeroRedundancyOptimizer, the default there), or the elements of one "flat" buffer (DeepSpeed, Megatron's distributed
    optimizer; the default at stage 2); at stage 3 the "rows" of each tensor (FSDP2).
    tensor: ranks that cut each layer's matrices by columns and rows (arXiv 1909.08053). sequence_parallel: whether they
    also share out the tokens where they do not cut the width (arXiv 2205.05198, section 4.2.2).
    attention: "tensor": its heads are cut. "data": each of the `tensor` ranks attends to sequences of its own, with
    all of attention's weights, and all the rest is cut as ever (as SGLang serves R1 with `--enable-dp-attention`).
    pipeline: stages, each with some layers; the first has the embedding, the last norm and head. stage_layers: layers
    of each stage, by default as even as can be, one more in those before the last (as vLLM has it). microbatches: in
    flight on the first stage, by default as many as there are stages, and on each later stage one fewer (1F1B,
    arXiv 2104.04473, section 2.2).
    expert: ranks that share out the routed experts, whole ones, within the data x context x tensor ranks of a stage; 1
    leaves every expert cut by `tensor`. expert_tensor: ranks that cut each expert, by default `tensor` where expert is
    1, else 1. vLLM serves R1 as data=8, expert=8; all weights but those of routed experts are then whole on each rank.
    context: ranks that share out each sequence's tokens.
    vocab_multiple: the vocabulary is filled up to a multiple of it before `tensor` ranks share it (vLLM: 64; Megatron:
    128 x tensor); shares are filled up to the same size in any case.
    Ranks are counted as in Megatron: those of `tensor` are neighbours, then context, data, pipeline.
    Raises ValueError, one sentence, for anything else; `check` says what goes with a model.

    >>> Sharding(data=64, zero=3, tensor=8).ranks
    512
    """

    data: int = 1
    zero: int = 0
    tensor: int = 1
    pipeline: int = 1
    expert: int = 1
    context: int = 1
    sequence_parallel: bool = False
    attention: str = "tensor"
    expert_tensor: int | None = None
    microbatches: int | None = None
    stage_layers: tuple = ()
    vocab_multiple: int = 1
    zero_unit: str | None = None

    def __post_init__(self):
        for field in (*_DEGREES, "vocab_multiple"):
            self._settle(field, whole_number(field, getattr(self, field)))
        self._settle("zero", whole_number("zero", self.zero, least=0, what="a stage of ZeRO"))
        if self.zero > 3:
            raise ValueError(f"zero={self.zero!r} is not a stage of ZeRO; allowed: 0, 1, 2, 3")
        if type(self.sequence_parallel) is not bool:
            raise ValueError(f"sequence_parallel={self.sequence_parallel!r} is not a choice; allowed: True, False")
        one_of("attention", self.attention, ("tensor", "data"), "a way to share out attention")
        self._settle_experts()
        self._settle_stages()
        units = _ZERO_UNITS[self.zero]
        one_of(
            "zero_unit", units[0] if self.zero_unit is None else self.zero_unit, units, f"what zero={self.zero} shares"
        )
        self._settle("zero_unit", units[0] if self.zero_unit is None else self.zero_unit)

    def _settle(self, name, value):
        object.__setattr__(self, name, value)

    def _settle_experts(self):
        if self.expert_tensor is None:
            self._settle("expert_tensor", self.tensor if self.expert == 1 else 1)
        cut = self.expert * whole_number("expert_tensor", self.expert_tensor)
        if self.stage_ranks % cut:
            raise ValueError(
                f"expert={self.expert} with expert_tensor={self.expert_tensor} takes {cut} ranks, which do not divide "
                f"the {self.stage_ranks} of data x context x tensor; they must"
            )

    def _settle_stages(self):
        in_flight = self.pipeline if self.microbatches is None else whole_number("microbatches", self.microbatches)
        if in_flight > self.pipeline:
            raise ValueError(
                f"microbatches={in_flight} is more than 1F1B keeps in flight; it must be at most pipeline="
                f"{self.pipeline}"
            )
        self._settle("microbatches", in_flight)
        if not isinstance(self.stage_layers, tuple | list):
            raise ValueError(f"stage_layers={self.stage_layers!r} is not a list; it must hold a number for each stage")
        self._settle("stage_layers", tuple(whole_number("stage_layers", count) for count in self.stage_layers))
        if self.stage_layers and len(self.stage_layers) != self.pipeline:
            raise ValueError(
                f"stage_layers={self.stage_layers} names {len(self.stage_layers)} stages; it must name the "
                f"{self.pipeline} of pipeline"
            )

    @classmethod
    def of(cls, sharding: Any = None, **fields: Any) -> "Sharding":
        """`sharding` itself, changed by `fields`; a dict of fields, a count of `tensor` ranks, or None for one rank.

        Raises ValueError for anything else, or for a field that it does not have.

        >>> Sharding.of(8) == Sharding.of({"tensor": 8}), Sharding.of(None).ranks, Sharding.of(8, data=2).ranks
        (True, 1, 16)
        """
        if isinstance(sharding, cls):
            # what followed other fields by default follows them again
            own = {field.name: getattr(sharding, field.name) for field in dataclasses.fields(cls)}
            if sharding.expert_tensor == (sharding.tensor if sharding.expert == 1 else 1):
                del own["expert_tensor"]
            if sharding.microbatches == sharding.pipeline:
                del own["microbatches"]
            if sharding.zero_unit == _ZERO_UNITS[sharding.zero][0]:
                del own["zero_unit"]
            sharding = own
        elif sharding is None:
            sharding = {}
        elif not isinstance(sharding, dict):
            if isinstance(sharding, bool | str | float):
                raise ValueError(
                    f"sharding={sharding!r} is not a Sharding; it must be one, its fields as a dict, or a count of "
                    "tensor ranks"
                )
            sharding = {"tensor": sharding}
        for name in (*sharding, *fields):
            one_of("field", name, (field.name for field in dataclasses.fields(cls)), "a field of Sharding")
        return cls(**sharding | fields)

    @property
    def stage_ranks(self) -> int:
        """Ranks of one pipeline stage."""
        return self.data * self.context * self.tensor

    @property
    def ranks(self) -> int:
        """All ranks: data x context x tensor x pipeline; `expert` ranks are among them."""
        return self.stage_ranks * self.pipeline

    @property
    def attention_tensor(self) -> int:
        """Ranks that cut attention's heads."""
        return self.tensor if self.attention == "tensor" else 1

    def place(self, rank: int) -> Place:
        """Where `rank` stands. Raises ValueError for one that there is not.

        >>> Sharding(data=2, tensor=4, pipeline=2, expert=8).place(13)
        Place(pipeline=1, data=1, context=0, tensor=1, expert=5, expert_tensor=0)
        """
        if whole_number("rank", rank, least=0, what="a rank") >= self.ranks:
            known = f"among the {self.ranks} ranks" if self.ranks > 1 else "there without a sharding over several"
            raise ValueError(f"rank={rank} is not {known}; it must be at most {self.ranks - 1}")
        stage, inside = divmod(rank, self.stage_ranks)
        replica, tensor = divmod(inside, self.tensor)
        data, context = divmod(replica, self.context)
        expert, part = divmod(inside, self.expert_tensor)
        return Place(stage, data, context, tensor, expert % self.expert, part)

    def stages(self, num_hidden_layers: int) -> list[range]:
        """The layers of each stage.

        >>> [len(stage) for stage in Sharding(pipeline=4).stages(61)]
        [15, 15, 16, 15]
        """
        counts = self.stage_layers
        if not counts:
            even, more = divmod(num_hidden_layers, self.pipeline)
            last = self.pipeline - 1
            counts = [even + (last - more <= stage < last) for stage in range(self.pipeline)]
        starts = [sum(counts[:stage]) for stage in range(self.pipeline + 1)]
        return [range(start, end) for start, end in zip(starts, starts[1:], strict=False)]

    def in_flight(self, stage: int) -> int:
        """Microbatches whose activations a stage keeps at once.

        >>> [Sharding(pipeline=4).in_flight(stage) for stage in range(4)]
        [4, 3, 2, 1]
        """
        return min(self.microbatches, self.pipeline - stage)

    def check(self, arch: "Architecture") -> None:
        """Raise ValueError, in one sentence, where `arch` cannot be cut like this."""
        cut = self.attention_tensor
        _divides("tensor", cut, "num_attention_heads", arch.num_attention_heads, arch)
        kv_heads = arch.num_key_value_heads
        if not arch.latent and kv_heads % cut and cut % kv_heads:
            raise ValueError(
                f"tensor={cut} neither divides num_key_value_heads={kv_heads} of {arch.name} nor is a multiple of it; "
                "it must be one of both"
            )
        if len(arch.expert_layers) < arch.num_hidden_layers:
            _divides("tensor", self.tensor, "intermediate_size", arch.intermediate_size, arch)
        if not arch.n_routed_experts and self.expert > 1:
            raise ValueError(f"expert={self.expert} shares out experts, which {arch.name} has not; it must be 1")
        if arch.n_routed_experts:
            self._check_experts(arch)
        if self.pipeline > arch.num_hidden_layers:
            raise ValueError(
                f"pipeline={self.pipeline} is more than num_hidden_layers={arch.num_hidden_layers} of {arch.name}; it "
                "must be at most that"
            )
        if self.stage_layers and sum(self.stage_layers) != arch.num_hidden_layers:
            raise ValueError(
                f"stage_layers={self.stage_layers} holds {sum(self.stage_layers)} layers; it must hold the "
                f"{arch.num_hidden_layers} of {arch.name}"
            )

    def _check_experts(self, arch):
        _divides("expert", self.expert, "n_routed_experts", arch.n_routed_experts, arch)
        width = arch.moe_intermediate_size
        _divides("expert_tensor", self.expert_tensor, "moe_intermediate_size", width, arch)
        for name, (_, n_out, _) in arch.shared_linears().items():
            if name.endswith("up_proj"):
                _divides("tensor", self.tensor, "the width of its shared experts,", n_out, arch)


def _divides(field, count, name, size, arch):
    if size % count:
        raise ValueError(f"{field}={count} does not divide {name}={size} of {arch.name}; it must")
