"""Which of DeepSeek-R1 and its distilled models runs on a GPU: each in the best format that fits."""

from collections.abc import Iterable
from typing import Any

from dsmem.config.architecture import Architecture
from dsmem.config.devices import devices, usable_words
from dsmem.config.source import model_names, published_weights
from dsmem.footprint.fit.verdict import Fit, fit
from dsmem.table import Table
from dsmem.units import format_bytes, names

FORMATS = ("bf16", "fp8", "q8_0", "int8", "q4_k_m", "int4", "awq")
"""Formats of weights, the best first: more bits before fewer; of as many, those that published files have."""


def which(gpu: Any, count: int = 1, models: Any = None, formats: Iterable[str] = FORMATS, **fields: Any) -> Table:
    """A `Table` of models on a GPU, the best that fits first: each in the first of `formats` that does.

    gpu, count: as in `fit`. models: what `Architecture.of` takes, or a list; by default R1 and its distilled models.
    formats: those to try, the best first; by default also the one that a model is published in, where that is another.
    fields: those of a workload, as in `fit`; by default 4,096 tokens and the last logits. A model that fits in none
    has its smallest format, and what is missing; bytes are those of one device.
    Raises ValueError where nothing is known of a model in any format.

    >>> which("RTX 4090").column("model")[0]
    'deepseek-r1-distill-qwen-32b'
    """
    found, asked = devices(gpu, count), {"seq_len": 4096, "logits": "last"} | fields
    if "weights" in asked:
        raise ValueError(f"weights={asked['weights']!r} is what is looked for; formats=[...] says among which")
    if models is None:
        models = [name for name in model_names() if name.startswith("deepseek-r1")]
    archs = [Architecture.of(each) for each in (models if isinstance(models, list | tuple) else [models])]
    formats = names("formats", formats)
    for argument, given in (("models", archs), ("formats", formats)):
        if not given:
            raise ValueError(f"{argument}=[] names none; it must name at least one")
    archs.sort(key=lambda arch: -arch.n_params)
    answers = [best(arch, found, _own(arch, formats), asked) for arch in archs]
    answers.sort(key=lambda answer: not answer.fits)  # the larger first, as before
    rows = [_row(answer) for answer in answers]
    columns = {"model": None, "weights": None, "fits": None, "needed": format_bytes, "spare": format_bytes}
    columns |= {"longest context": ",", "largest batch": ",", "GPUs": ","}
    return Table(columns, rows, _title(answers, found, asked))


def _own(arch, formats):
    """`formats`, and before them that of the model's own files, where the formats are the default."""
    published = published_weights(arch.name)
    return formats if formats != FORMATS or published in ("", *formats) else (published, *formats)


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
        raise refused
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
