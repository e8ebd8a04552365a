"""The loss of a chunk of tokens at a time: `model.training.chunked_loss`. Each chunk's logits run again in backward."""

import functools
from typing import Any

import numpy as np

from dsmem import formulas
from dsmem.footprint.training.folding import Folded
from dsmem.footprint.training.graph import PASSING, Fresh, Parameter, Tensor, View, gives, passes_on, passes_on_twice
from dsmem.footprint.training.operators import Trained


def chunks(p: Trained) -> dict[int, Any]:
    """{number of a chunk: what tells it from its neighbours}: the last two's gradients of the head make a third."""
    count = -(-p.work.seq_len // p.training.loss_chunk)
    return {number: number if number in (0, count - 2, count - 1) else "alike" for number in range(count)}


def uses(p: Trained) -> int:
    """How often the head is run on the tape: once, or once for each chunk that runs."""
    return 1 if p.training.loss_chunk is None else len(Folded(p.t, chunks(p)).ends)


def loss(p: Trained, h: View, head: Parameter) -> View:
    """The mean over all chunks, from normed states; head: its weight, with a use for each chunk that runs."""
    t, whole, chunk = p.t, p.work.seq_len, p.training.loss_chunk
    folded = Folded(t, chunks(p), "chunk", p.folded)
    labels = t.make("labels", formulas.token_ids_bytes(p.work.batch, whole))
    t.operators.append(functools.partial(_let_go, p))
    rows = [min(chunk, whole - start) for start in range(0, whole, chunk)]
    parts = t.parts("split", h, [h.nbytes // whole * size for size in rows])
    del h
    total = None
    for number in folded.ends:
        with folded.layer(number):
            t.where = f"chunk.{number}."
            one = t.again(functools.partial(part, p, head, labels, rows[number]), parts[number])
            inputs = [one] if total is None else [total, one]
            total = t.apply("add_losses", inputs, {"loss": 4}, passes_on_twice if number else passes_on)
            del one, inputs
    t.where = ""
    return t.apply("mean_loss", [total], {"loss": 4}, gives(4))


def _let_go(p):
    """The gradients of chunks that did not run are put together with the others', and gone."""
    for line in p.folded.lines:
        if line.path == "chunk":
            p.t.count(PASSING, -len(line.layers) * line.growth.get(PASSING, 0))


def part(p: Trained, head: Parameter, labels: Tensor, size: int, x: View) -> View:
    """The sum of one chunk's losses; what is no stretch of memory of its own is copied first."""
    work, t = p.work, p.t
    apart = 1 < size < work.seq_len and bool(np.all(np.asarray(work.batch) > 1))
    wide = formulas.tensor_bytes(work.batch * size * p.arch.vocab_size, 32)
    logits = logits_of(p, head, size, t.apply("copy_rows", [x], {"head_input": x.nbytes}, passes_on) if apart else x)
    wider = p.cast("float32", logits, "logits_float32", 32, "logits_gradient")
    del logits
    if apart:
        labels = t.make("labels_chunk", formulas.token_ids_bytes(work.batch, size))

    def rule(grad):
        return [Fresh(wide, "logits_gradient")]

    logs = t.apply("log_softmax", [wider], {"log_probabilities": wide}, rule, [0], late=True)
    return t.apply("nll_loss", [logs], {"loss": 4, "loss_weight": 4}, rule, [logs, labels, 1], late=True)[0]


def logits_of(p: Trained, head: Parameter, size: int, x: View) -> View:
    """The head on a chunk."""
    given = [Fresh(x.nbytes, viewed=True), Fresh(head.nbytes, viewed=True)]
    made = {"logits": p.bytes(p.work.batch * size * p.arch.vocab_size)}
    return p.t.apply("lm_head", [x, head], made, lambda grad: given, [(x, 1), (head, 0)])
