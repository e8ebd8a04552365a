"""Which of DeepSeek-R1 and its distilled models runs on a GPU: each in the best format that fits."""

from collections.abc import Iterable
from typing import Any

from dsmem.config.architecture import Architecture
from dsmem.config.devices import devices, usable_words
from dsmem.config.source import model_names
from dsmem.footprint.fit import Fit, fit
from dsmem.table import Table
from dsmem.units import format_bytes

FORMATS = ("bf16", "fp8", "q8_0", "int8", "q4_k_m", "int4", "awq")
"""Formats of weights, the best first: more bits before fewer; of as many, those that published files have."""


def which(
    gpu: Any, count: int = 1, models: Iterable[Any] | None = None, formats: Iterable[str] = FORMATS, **fields: Any
) -> Table:
    """A `Table` of models on a GPU, the best that fits first: each in the first of `formats` that does.

    gpu, count: as in `fit`. models: whatever `Architecture.of` takes, by default R1 and its distilled models.
    fields: those of a workload, as in `fit`; by default 4,096 tokens and the last logits. A model that fits in none
    has its smallest format, and what is missing; bytes are those of one device.
    Raises ValueError where nothing is known of a model in any format.

    >>> which("RTX 4090").column("model")[0]
    'deepseek-r1-distill-qwen-32b'
    """
    found, asked = devices(gpu, count), {"seq_len": 4096, "logits": "last"} | fields
    names = [name for name in model_names() if name.startswith("deepseek-r1")] if models is None else models
    archs = sorted(map(Architecture.of, names), key=lambda arch: -arch.n_params)
    answers = [best(arch, found, tuple(formats), asked) for arch in archs]
    answers.sort(key=lambda answer: not answer.fits)  # the larger first, as before
    rows = [_row(answer) for answer in answers]
    columns = {"model": None, "weights": None, "fits": None, "needed": format_bytes, "spare": format_bytes}
    columns |= {"longest context": ",", "largest batch": ",", "GPUs": ","}
    return Table(columns, rows, _title(answers, found, asked))


def best(arch: Architecture, found: Any, formats: tuple[str, ...], asked: dict[str, Any]) -> Fit:
    """The `Fit` of a model in the first format that fits, else in the one that misses least.

    On fewer devices, half of them and so on, where the model cannot be cut for all of them.
    """
    answers, refused, count = [], None, found.count
    while count and not answers:
        for weights in formats:
            try:
                answers.append(
                    fit(arch, None, found if count == found.count else found.several(count), **asked, weights=weights)
                )
            except ValueError as error:
                refused = error
                continue
            if answers[-1].fits:
                return answers[-1]
        count //= 2
    if not answers:
        raise refused or ValueError(f"formats={formats!r} names none; it must name at least one")
    return max(answers, key=lambda answer: answer.spare_bytes)


def _row(answer):
    verdict = "yes" if answer.fits else "close" if answer.close else "no"
    room = (answer.longest_context, answer.largest_batch) if answer.fits else (None, None)
    number = answer.needed_bytes, answer.spare_bytes
    return answer.asked.name, answer.asked.weights_words, verdict, *number, *room, answer.devices.count


def _title(answers, found, asked):
    where = f"{found} ({usable_words(found)}), {asked.get('batch', 1):,} × {asked['seq_len']:,} tokens"
    first = answers[0]
    if not first.fits:
        return f"{where}: none of these fits"
    return f"{where}: the best that fits is {first.asked.name} in {first.asked.weights_words}"
