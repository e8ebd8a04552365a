"""Many requests at once: how much of the KV cache's memory holds tokens, and how much is padding or unused room.

A mix of requests is served in batches, in order of arrival. A batch ends with its longest request. `serve` says, step
by step, how many bytes hold tokens and how many the cache takes in its layout. It also gives the births and deaths of
the cache's tensors, ready for `replay`. Not here: a scheduler that gives a place to the next request as soon as one is
done.
"""

import dataclasses
import functools
from collections import deque
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dsmem import formulas
from dsmem.config.architecture import Architecture
from dsmem.memory.replay import replay
from dsmem.units import finite, whole_number

if TYPE_CHECKING:
    from dsmem.memory.ledger import Ledger
    from dsmem.model.decoder import Decoder

LAYOUTS = ("growing", "static", "paged")


@dataclasses.dataclass(frozen=True, eq=False)
class Requests:
    """Lengths of requests in tokens, in order of arrival: arrays `prompts` and `outputs`, both (requests,)."""

    prompts: np.ndarray
    outputs: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each request when it is done, (requests,)."""
        return self.prompts + self.outputs


@dataclasses.dataclass(frozen=True, eq=False)
class Served:
    """Bytes after each step: arrays `held_bytes` (tokens of unfinished requests) and `room_bytes` (the whole cache).

    events: (key, signed bytes, label), for `replay`. ends: index of the last event of each step.
    """

    held_bytes: np.ndarray
    room_bytes: np.ndarray
    events: list
    ends: np.ndarray

    @property
    def token_share(self) -> float:
        """Share of the cache's memory that holds tokens, averaged over the steps (0 to 1)."""
        return float(np.mean(self.held_bytes / self.room_bytes))

    @functools.cached_property
    def replayed(self):
        """The cache's tensors, replayed on the model of PyTorch's allocator."""
        return replay(self.events)

    @property
    def free_share(self) -> float:
        """Share of the reserved memory that no tensor holds, averaged over the steps (0 to 1)."""
        return float(np.mean(1 - self.replayed.allocated_bytes[self.ends] / self.reserved_bytes))

    @property
    def reserved_bytes(self) -> np.ndarray:
        """Bytes that the allocator has reserved after each step, (steps,)."""
        return self.replayed.reserved_bytes[self.ends]

    @property
    def mean_parts(self) -> dict[str, float]:
        """{part: bytes} of the reserved memory, averaged over the steps: tokens, unused room in the cache, the rest."""
        means = self.held_bytes.mean(), self.room_bytes.mean(), self.reserved_bytes.mean()
        return dict(zip(("kv_cache", "padding", "free"), np.diff(means, prepend=0), strict=True))


def request_mix(
    count: int, seed: int = 0, prompt: int = 400, output: int = 120, sigma: float = 0.8, longest: int = 2048
) -> Requests:
    """`count` requests with log-normal lengths: most are short and a few are long.

    prompt, output: medians in tokens. sigma: standard deviation of the logarithms of the lengths. longest: the most
    tokens that prompt and output may have together; longer ones are cut. Raises ValueError for a count below 1.

    >>> int(request_mix(4, longest=50).lengths.max())
    50
    """
    for name, value in (("count", count), ("prompt", prompt), ("output", output), ("longest", longest)):
        whole_number(name, value, least=2 if name == "longest" else 1)
    whole_number("seed", seed, 0, "a seed")
    if finite("sigma", sigma, "a standard deviation") < 0:
        raise ValueError(f"sigma={sigma!r} is not a standard deviation; it must be at least 0")
    generator = np.random.default_rng(seed)
    drawn = generator.lognormal(np.log([[prompt], [output]]), sigma, (2, count))
    prompts = np.clip(np.round(drawn[0]), 1, longest - 1).astype(np.int64)
    outputs = np.clip(np.round(drawn[1]), 1, longest - prompts).astype(np.int64)
    return Requests(prompts, outputs)


# --- Padding ----------------------------------------------------------------------------------------------------------


def padded_tokens(lengths: Sequence[int], batch: int) -> int:
    """Tokens of all batches in order of arrival, with each sequence padded to the longest of its batch.

    lengths: tokens of each sequence. batch: sequences in a batch. Raises ValueError for a count below 1.

    >>> padded_tokens([3, 10, 4, 9], batch=2)
    38
    """
    groups = _groups(lengths, batch)
    return int(sum(len(group) * group.max() for group in groups))


def bucketed_tokens(lengths: Sequence[int], batch: int) -> int:
    """`padded_tokens` after sorting, so that the sequences of a batch have similar lengths.

    >>> bucketed_tokens([3, 10, 4, 9], batch=2)
    28
    """
    return padded_tokens(np.sort(_lengths(lengths)), batch)


def packed_tokens(lengths: Sequence[int]) -> int:
    """Tokens of all sequences laid end to end, without padding.

    >>> packed_tokens([3, 10, 4, 9])
    26
    """
    return int(np.sum(_lengths(lengths)))


def _lengths(lengths):
    found = np.asarray([*lengths] if isinstance(lengths, Iterable) else lengths)
    if found.ndim != 1 or found.dtype.kind not in "iu" or not found.size or found.min() < 1:
        raise ValueError(f"lengths={lengths!r} must be whole numbers of at least 1, one for each sequence")
    return found


def _groups(lengths, batch):
    lengths, batch = _lengths(lengths), whole_number("batch", batch)
    return [lengths[start : start + batch] for start in range(0, len(lengths), batch)]


# --- The KV cache of a mix --------------------------------------------------------------------------------------------


def serve(
    requests: Requests,
    batch: int,
    layout: str,
    *,
    layers: int,
    token_bytes: int,
    longest: int = 2048,
    page: int = 16,
) -> Served:
    """Serve `requests` in batches of `batch`; the `Served` says how much memory each step takes.

    layout: "growing" (`torch.cat` writes a longer tensor for every new token, and prompts are padded to the longest of
    their batch), "static" (room for `longest` tokens per request from the start), or "paged" (pages of `page` tokens,
    taken as they are needed from one pool that is as large as the mix ever needs). layers: of the model. token_bytes:
    bytes of one token's keys in one layer; its values take as much. Raises ValueError for another layout, a count
    below 1, or a request that is longer than `longest`.

    >>> served = serve(request_mix(8), 4, "static", layers=1, token_bytes=2)
    >>> set((served.room_bytes // (2 * 2)).tolist())  # keys and values of 4 requests of 2,048 tokens
    {8192}
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout={layout!r} is unknown; allowed: {', '.join(LAYOUTS)}")
    for name, value in (("layers", layers), ("token_bytes", token_bytes), ("page", page), ("longest", longest)):
        whole_number(name, value)
    if requests.lengths.max() > longest:
        raise ValueError(f"longest={longest} is too short; a request of {requests.lengths.max()} tokens must fit")
    order = _groups(np.arange(1, len(requests.prompts) + 1), batch)
    held, room, tensors = [], [], []
    for members in order:
        live = _live_tokens(requests.prompts[members - 1], requests.outputs[members - 1])
        held += live.sum(axis=1).tolist()
        room += (taken := _room_tokens(live, layout, longest, page)).tolist()
        tensors.append(taken)
    if layout == "paged":
        tensors = [np.full(len(room), max(room))]
    unit = 2 * layers * token_bytes
    events, ends = _births_and_deaths(tensors, layers, token_bytes)
    return Served(unit * np.array(held), unit * np.array(room), events, ends)


def _live_tokens(prompts, outputs):
    """Tokens by step and request. Step 0 holds the prompts; a request that is done holds no tokens."""
    steps = np.arange(outputs.max() + 1)[:, None]
    return np.where(steps <= outputs, prompts + steps, 0)


def _room_tokens(live, layout, longest, page):
    """Tokens that the cache has room for, by step."""
    steps, batch = live.shape
    if layout == "static":
        return np.full(steps, batch * longest)
    if layout == "growing":
        return batch * (live[0].max() + np.arange(steps))
    return formulas.paged_tokens(live, page).sum(axis=1)


def _births_and_deaths(tensors, layers, token_bytes):
    """Events of the keys and values of each layer, batch by batch; a longer tensor is born before the old one dies."""
    events, ends, number = [], [], 0
    for tokens in tensors:
        alive = {}
        for count in tokens.tolist():
            for slot in range(2 * layers):
                old = alive.get(slot)
                if old is None or old[1] != count:
                    alive[slot] = (number := number + 1), count
                    events.append((number, count * token_bytes, "kv_cache"))
                    if old:
                        events.append((old[0], -old[1] * token_bytes, "kv_cache"))
            ends.append(len(events) - 1)
        events += [(key, -count * token_bytes, "kv_cache") for key, count in alive.values()]
    return events, np.array(ends)


# --- Prompts one after the other, and tokens a second -----------------------------------------------------------------


def grow_cache(arch: Any, batch: int, prompt: int, steps: int) -> "Ledger":
    """Ledger of a KV cache in FP16 that `torch.cat` makes longer by a token a step, on fake tensors.

    arch: whatever `Architecture.of` takes; its key-value heads, their width and its layers count. batch: sequences.
    prompt: tokens that each begins with. steps: tokens that each gains.
    """
    arch = Architecture.of(arch)
    for name, value in (("batch", batch), ("prompt", prompt), ("steps", steps)):
        whole_number(name, value)
    arch.check_positions(prompt + steps)

    import torch  # not above: the formulas need none
    from torch._subclasses.fake_tensor import FakeTensorMode

    from dsmem.memory.ledger import Ledger

    shape = batch, arch.num_key_value_heads, prompt, arch.head_dim
    with FakeTensorMode(), Ledger() as ledger:
        cache = [torch.empty(shape, dtype=torch.float16) for _ in range(2 * arch.num_hidden_layers)]
        for _ in range(steps):
            token = torch.empty(*shape[:2], 1, shape[3], dtype=torch.float16)
            for slot in range(len(cache)):
                cache[slot] = torch.cat((cache[slot], token), dim=2)
    return ledger


def prompt_events(
    model: "Decoder", prompts: Iterable[int], keep: int = 4, room: int = 256, logits: str = "last"
) -> list[tuple[int, int, str]]:
    """Events, ready for `replay`, of a server that reads prompts one by one and keeps the latest caches.

    Weights are not among the events. model: on fake tensors, from `build_model`. prompts: lengths in tokens. keep: how
    many caches are kept. room: tokens that a cache has room for beyond its prompt. logits: as in the model's call.
    """
    import torch  # not above: the other functions do not need it

    from dsmem.memory.ledger import Ledger

    prompts, room = _lengths(prompts).tolist(), whole_number("room", room, least=0)
    caches = deque(maxlen=whole_number("keep", keep))
    with torch.no_grad(), Ledger(model) as ledger:
        for length in prompts:
            caches.append(model.new_cache(1, length + room))
            model(torch.zeros(1, length, dtype=torch.long), cache=caches[-1], logits=logits)
    held = [(record, sign) for record, sign in ledger.events if record.category not in ("weight", "buffer")]
    return [(id(record), sign * record.nbytes, record.category) for record, sign in held]
