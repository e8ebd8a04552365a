"""The levels of a pass in transformers' code: folded where its layers repeat, with or without a formula."""

import collections
import contextlib
from typing import Any

from dsmem.config.architecture import Architecture
from dsmem.config.workload import Workload
from dsmem.footprint.inference import inference_footprint
from dsmem.model.folding import decoder_layers
from dsmem.model.library import LibraryModel
from dsmem.model.library_pass import LibraryPass, layer_caches
from dsmem.runs.folded import Folded, fold, progress
from dsmem.runs.watching import watch

SMALL = 12  # layers; nobody wonders that so few are not folded


def levels(
    model: LibraryModel,
    arch: Architecture | None,
    work: Workload,
    seed: int,
    folds: bool,
    beside: tuple,
    notes: tuple = (),
) -> dict[str, Any]:
    """The fields of a `Run` of `model` but its arch and code, by their names.

    arch: of the same model, where its family is read, for the formula. folds: whether layers that repeat may be left
    out; only on fake tensors. beside: device, and what `watch` takes after it. notes: to stand after the run's own.
    Raises ValueError for what transformers does not run.
    """
    footprint, device = None, beside[0]
    if arch:
        beside_it = " and ".join(arch.apart) if model.whole is None else ""
        notes = (*notes, f"The formula is that of the language model, without {beside_it}.") if beside_it else notes
        try:
            footprint = inference_footprint(arch, work)
        except ValueError as error:
            notes = (*notes, f"No formula: {error}.")
    if folds and device == "fake":
        with contextlib.suppress(ValueError):  # of layers that look alike and are not; the whole runs, or says why not
            return {"footprint": footprint} | _watched(model, work, seed, True, beside, notes)
    return {"footprint": footprint} | _watched(model, work, seed, False, beside, notes)


def _watched(model, work, seed, folds, beside, notes):
    ready, caches = LibraryPass(model, work, beside[0], seed), []
    repeats, passes = fold(ready.module) if folds else None, 2 if work.cached_tokens else 1
    with progress(ready.module, model.name, passes) if beside[0] != "cuda" else contextlib.nullcontext():
        ready.fill()
        folded = Folded(ready.module, repeats, ready.cache) if repeats else None
        seen = watch(ready.forward, ready.module, *beside, lambda out: caches.append(layer_caches(out)), folded)
    kinds = collections.Counter()
    for kind, nbytes in folded.kinds(caches[-1]) if folded else caches[-1]:
        kinds[kind] += nbytes
    notes = (*ready.notes, *_of_folding(folds, folded, ready.module), *notes)
    more = {"work": ready.work, "device": beside[0], "notes": notes, "cache": dict(kinds)}
    return seen._asdict() | more


def _of_folding(folds, folded, module):
    """A sentence on the layers that ran, where one may wonder."""
    if folded:
        return [f"{folded}."]
    count = len((decoder_layers(module) or ("", ()))[1])
    if not folds or count <= SMALL:
        return []
    return [f"All {count} layers ran: their pattern does not repeat often enough to be folded."]
