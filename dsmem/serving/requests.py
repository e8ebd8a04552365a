"""Many requests at once: how much of the KV cache's memory holds tokens, and how much is padding, room or pages.

A mix of requests is served in batches, in order of arrival; a batch ends with its longest request. `serve` says step by
step how many bytes hold tokens and how many the cache's layout takes for them, and gives the births and deaths of its
tensors, ready for `allocator.replay`. Left out: a scheduler that fills a place as soon as its request is done.
"""

import dataclasses
import functools
from collections import deque

import numpy as np

from dsmem import formulas
from dsmem.memory.replay import replay

LAYOUTS = ("growing", "static", "paged")


@dataclasses.dataclass(frozen=True, eq=False)
class Requests:
    """Lengths in tokens, in order of arrival: arrays `prompts` and `outputs`."""

    prompts: np.ndarray
    outputs: np.ndarray

    @property
    def lengths(self):
        """Tokens of each request when it is done."""
        return self.prompts + self.outputs


@dataclasses.dataclass(frozen=True, eq=False)
class Served:
    """Bytes after each step: arrays `held_bytes` (of tokens of requests at work) and `room_bytes` (of the cache).

    events: (key, signed bytes, label), for `allocator.replay`. ends: number of the last event of each step.
    """

    held_bytes: np.ndarray
    room_bytes: np.ndarray
    events: list
    ends: np.ndarray

    @property
    def token_share(self):
        """Share of the cache's memory that holds tokens, averaged over the steps (0 to 1)."""
        return float(np.mean(self.held_bytes / self.room_bytes))

    @functools.cached_property
    def replayed(self):
        """The cache's tensors replayed on the caching allocator."""
        return replay(self.events)

    @property
    def free_share(self):
        """Share of what the allocator has reserved that no tensor holds, averaged over the steps (0 to 1)."""
        return float(np.mean(1 - self.replayed.allocated_bytes[self.ends] / self.reserved_bytes))

    @property
    def reserved_bytes(self):
        """What the allocator has reserved after each step."""
        return self.replayed.reserved_bytes[self.ends]

    @property
    def mean_parts(self):
        """{part: bytes} of what is reserved, averaged over the steps: tokens, other room in the cache, and the rest."""
        means = self.held_bytes.mean(), self.room_bytes.mean(), self.reserved_bytes.mean()
        return dict(zip(("kv_cache", "padding", "free"), np.diff(means, prepend=0), strict=True))


def request_mix(count, seed=0, prompt=400, output=120, sigma=0.8, longest=2048):
    """`count` requests whose lengths are log-normal, as most are short and a few are long.

    prompt, output: medians in tokens. sigma: standard deviation of the lengths' logarithms. longest: tokens that prompt
    and output may have together; longer ones are cut.

    >>> int(request_mix(4, longest=50).lengths.max())
    50
    """
    for name, value in (("count", count), ("prompt", prompt), ("output", output), ("longest", longest - 1)):
        if not isinstance(value, int) or value < 1:
            least = "2" if name == "longest" else "1"
            raise ValueError(f"{name}={value + (name == 'longest')!r} must be a whole number of at least {least}")
    generator = np.random.default_rng(seed)
    drawn = generator.lognormal(np.log([[prompt], [output]]), sigma, (2, count))
    prompts = np.clip(np.round(drawn[0]), 1, longest - 1).astype(np.int64)
    outputs = np.clip(np.round(drawn[1]), 1, longest - prompts).astype(np.int64)
    return Requests(prompts, outputs)


# --- Padding ----------------------------------------------------------------------------------------------------------


def padded_tokens(lengths, batch):
    """Tokens that batches take in order of arrival, each sequence padded to the longest of its batch.

    >>> padded_tokens([3, 10, 4, 9], batch=2)
    38
    """
    groups = _groups(lengths, batch)
    return int(sum(len(group) * group.max() for group in groups))


def bucketed_tokens(lengths, batch):
    """The same after sorting, so that a batch holds sequences of like length.

    >>> bucketed_tokens([3, 10, 4, 9], batch=2)
    28
    """
    return padded_tokens(np.sort(lengths), batch)


def packed_tokens(lengths):
    """Tokens of all sequences laid end to end, without padding.

    >>> packed_tokens([3, 10, 4, 9])
    26
    """
    return int(np.sum(lengths))


def _groups(lengths, batch):
    lengths = np.asarray(lengths)
    if lengths.ndim != 1 or lengths.dtype.kind not in "iu" or not lengths.size or lengths.min() < 1:
        raise ValueError(f"lengths={lengths.tolist()!r} must be whole numbers of at least 1, one for each sequence")
    if not isinstance(batch, int) or batch < 1:
        raise ValueError(f"batch={batch!r} is not a count; it must be a whole number of at least 1")
    return [lengths[start : start + batch] for start in range(0, len(lengths), batch)]


# --- The KV cache of a mix --------------------------------------------------------------------------------------------


def serve(requests, batch, layout, *, layers, token_bytes, longest=2048, page=16):
    """Serve `requests` in batches of `batch`; a `Served` that tells its memory step by step.

    layout: "growing" (`torch.cat` writes a longer tensor for every new token, prompts padded to their batch's longest),
    "static" (room for `longest` tokens from the start) or "paged" (pages of `page` tokens as they are needed, out of
    one pool that is as large as the mix ever needs).
    layers: of the model; token_bytes: one token's keys in one layer, and its values are as large.
    Raises ValueError for another layout, a count below 1, or a request that is longer than `longest`.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout={layout!r} is unknown; allowed: {', '.join(LAYOUTS)}")
    for name, value in (("layers", layers), ("token_bytes", token_bytes), ("page", page)):
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name}={value!r} is not a count; it must be a whole number of at least 1")
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
    """Tokens by step and request; step 0 is the prompt's, and a request that is done holds none."""
    steps = np.arange(outputs.max() + 1)[:, None]
    return np.where(steps <= outputs, prompts + steps, 0)


def _room_tokens(live, layout, longest, page):
    """Tokens by step that the cache has room for."""
    steps, batch = live.shape
    if layout == "static":
        return np.full(steps, batch * longest)
    if layout == "growing":
        return batch * (live[0].max() + np.arange(steps))
    return formulas.paged_tokens(live, page).sum(axis=1)


def _births_and_deaths(tensors, layers, token_bytes):
    """Keys and values of each layer, one batch after the other; a tensor that changes size is born before it dies."""
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


def prompt_events(model, prompts, keep=4, room=256, logits="last"):
    """Events of a server that reads `prompts` one by one and keeps the caches of the last `keep`, without the weights.

    model: on fake tensors, from `build_model`. room: tokens that a cache has beyond its prompt. Ready for `replay`.
    """
    import torch  # not above: the formulas need none

    from dsmem.memory.ledger import Ledger

    caches = deque(maxlen=keep)
    with torch.no_grad(), Ledger(model) as ledger:
        for length in map(int, prompts):
            caches.append(model.new_cache(1, length + room))
            model(torch.zeros(1, length, dtype=torch.long), cache=caches[-1], logits=logits)
    held = [(record, sign) for record, sign in ledger.events if record.category not in ("weight", "buffer")]
    return [(id(record), sign * record.nbytes, record.category) for record, sign in held]
