"""The small trained model in `data/small-r1`: DeepSeek-V3's architecture, 1.4 million parameters, one token per byte.

With random weights, cache eviction, quantization error, sparsity and entropy mean little; these weights learned
English. `data/small-r1/train.py` trains them again from the files beside it. README.md there names the text and its
licence.
"""

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path

from dsmem.config.source import DATA


def small_path(name: str = "") -> Path:
    """Path of the small model's folder, or of the file `name` in it.

    name: defaults to the folder itself. Raises ValueError if there is no such file.

    >>> small_path("config.json").name
    'config.json'
    """
    folder = DATA / "small-r1"
    if not (folder / name).exists():
        files = ", ".join(sorted(path.name for path in folder.iterdir()))
        raise ValueError(f"name={name!r} is not a file of the small model; allowed: {files}")
    return folder / name


def small_text() -> bytes:
    """The text that the small model never saw in training; one byte is one token.

    >>> small_text()[:10]
    b'Chapter 57'
    """
    return small_path("heldout.txt").read_bytes()


def small_record() -> dict:
    """How the small model was trained: held-out loss in nats per byte, bits per byte, seconds, steps, versions.

    The loss is the mean of the stored weights over windows of 512 predictions on all of `small_text()`. The windows do
    not overlap.

    >>> sorted(small_record())[:3]
    ['batch', 'bits_per_byte', 'context']
    """
    return json.loads(small_path("training.json").read_text(encoding="utf-8"))


def bits_per_byte(model: Callable, windows: int | None = 32, context: int = 256) -> float:
    """How badly `model` predicts `small_text()`, in bits per byte; a uniform guess costs 8.

    model: from `checkpoint.load_model(small_path(), ...)`, or anything that takes tokens (batch, seq_len) and returns
    logits. windows, context: as in `heldout_loss`.

    >>> import torch
    >>> round(bits_per_byte(lambda tokens: torch.zeros(*tokens.shape, 256), windows=1), 3)
    8.0
    """
    return heldout_loss(model, windows, context) / math.log(2)


def heldout_loss(model: Callable, windows: int | None = None, context: int = 512, batch: int = 16) -> float:
    """Mean loss of `model` on `small_text()` in nats per byte, measured as in `small_record`.

    model: takes tokens (batch, seq_len) and returns logits. windows: how many windows to read, from the start of the
    text; None reads all (102 of 512 predictions). context: predictions in a window; windows do not overlap. batch:
    windows in one pass.
    """
    import torch
    import torch.nn.functional as F

    text = torch.tensor(list(small_text())).unfold(0, context + 1, context)[:windows]
    total = 0.0
    with torch.inference_mode():
        for part in text.split(batch):
            inputs, targets = part[:, :-1], part[:, 1:]
            total += F.cross_entropy(model(inputs).flatten(0, 1).float(), targets.flatten(), reduction="sum").item()
    return total / text[:, 1:].numel()


def tuned_losses() -> dict[tuple[str, str], list[float]]:
    """The runs of `qat.csv`: {(training, stored): losses on `small_text()` in nats per byte, one per seed}.

    training: what was rounded while the model was trained a little longer ("float": nothing was rounded; "none": it was
    not trained further). stored: the format of the result. All lists are in the order of the seeds.

    >>> sorted({training for training, _ in tuned_losses()})
    ['float', 'int4', 'int8', 'none']
    """
    with open(small_path("qat.csv"), newline="", encoding="utf-8") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: row["seed"])
    keys = dict.fromkeys((row["training"], row["stored"]) for row in rows)
    return {
        key: [float(row["heldout_loss"]) for row in rows if (row["training"], row["stored"]) == key] for key in keys
    }


def tuned_rises() -> dict[str, list[float]]:
    """How much rounding raises the loss, in percent: {"int8, rounded afterwards": [one number per seed], ...}.

    Each loss of `tuned_losses` is compared with that of the same seed trained and stored in FP32.

    >>> list(tuned_rises())[:2]
    ['int8, rounded afterwards', 'int8, trained with rounding']
    """
    tuned = tuned_losses()
    rises = {}
    for stored in ("int8", "int4"):
        for way, training in (("rounded afterwards", "float"), ("trained with rounding", stored)):
            pairs = zip(tuned[training, stored], tuned["float", "fp32"], strict=True)
            rises[f"{stored}, {way}"] = [100 * (loss / exact - 1) for loss, exact in pairs]
    return rises
