"""The small trained model in `data/small-r1`: DeepSeek-V3's architecture at 1.4 million parameters, one token a byte.

On random weights, cache eviction, quantization error, sparsity and entropy mean little; these weights learned English.
`data/small-r1/train.py` trains them again from what lies beside it, and README.md there names text and licence.
"""

import csv
import json
import math

from dsmem.config.families import DATA


def small_path(name=""):
    """Path of the small model's folder, or of the file `name` in it; ValueError if there is no such file.

    >>> small_path("config.json").name
    'config.json'
    """
    folder = DATA / "small-r1"
    if not (folder / name).exists():
        files = ", ".join(sorted(path.name for path in folder.iterdir()))
        raise ValueError(f"name={name!r} is not a file of the small model; allowed: {files}")
    return folder / name


def small_text():
    """The text that the small model never saw in training, as bytes: one byte is one token.

    >>> small_text()[:10]
    b'Chapter 57'
    """
    return small_path("heldout.txt").read_bytes()


def small_record():
    """How the small model was trained: held-out loss in nats a byte, bits a byte, seconds, steps, versions.

    The loss is the stored weights' mean over windows of 512 predictions, none overlapping, on all of `small_text()`.
    """
    return json.loads(small_path("training.json").read_text(encoding="utf-8"))


def bits_per_byte(model, windows=32, context=256):
    """How badly `model` predicts `small_text()`: bits a byte, the mean over windows from its start; a guess costs 8.

    model: from `checkpoint.load_model(small_path(), ...)`, or any that takes tokens (batch, seq_len) and returns
    logits. windows: of `context` predictions each, none overlapping.
    """
    return heldout_loss(model, windows, context) / math.log(2)


def heldout_loss(model, windows=None, context=512, batch=16):
    """Mean loss of our decoder `model` on `small_text()`, in nats per byte, as `small_record` measures it.

    windows: how many windows of `context` predictions, from the start; None: all 102. batch: windows in one pass.
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


def tuned_losses():
    """The runs of `qat.csv`: {(training, stored): losses on `small_text()` in nats per byte, one a seed, by seed}.

    training: what was rounded while the model was trained a little longer ("float": nothing; "none": it was not
    trained). stored: the format of the outcome. The losses are in the order of the seeds in all of them.

    >>> sorted({training for training, _ in tuned_losses()})
    ['float', 'int4', 'int8', 'none']
    """
    with open(small_path("qat.csv"), newline="", encoding="utf-8") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: row["seed"])
    keys = dict.fromkeys((row["training"], row["stored"]) for row in rows)
    return {
        key: [float(row["heldout_loss"]) for row in rows if (row["training"], row["stored"]) == key] for key in keys
    }


def tuned_rises():
    """{"int8, rounded afterwards": ..., "int8, trained with rounding": ..., the same of int4}: one number a seed.

    The loss of `tuned_losses` as stored over that of the same seed's training without any rounding, in FP32; in per
    cent above it.
    """
    tuned = tuned_losses()
    rises = {}
    for stored in ("int8", "int4"):
        for way, training in (("rounded afterwards", "float"), ("trained with rounding", stored)):
            pairs = zip(tuned[training, stored], tuned["float", "fp32"], strict=True)
            rises[f"{stored}, {way}"] = [100 * (loss / exact - 1) for loss, exact in pairs]
    return rises
