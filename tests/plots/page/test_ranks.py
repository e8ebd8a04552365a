"""`explore_ranks` in the page: every state is what the formulas say, and the script's words are those of the kernel."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from page_data import data_of, decoded, node, rows_of, said_alike, states_of

import dsmem
from dsmem.config.sharding import Sharding
from dsmem.config.training import Training
from dsmem.footprint.sharded.rest import at_rest
from dsmem.plots.ranks import RANKS, ROWS, RanksPicture, ranks_by_family

SMALL = {"model_type": "qwen2", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3}
SMALL |= {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 101, "_name_or_path": "small"}
ARCHS = {arch.name: arch for arch in map(dsmem.Architecture.of, [SMALL, "deepseek-v2-lite"])}
DEGREES = {"data": [1, 4], "tensor": [1, 2, 8], "expert": [1, 4], "pipeline": [1, 2], "zero": range(4)}


@pytest.fixture(scope="module")
def explorer():
    sizes = {"batch": (1, 16), "seq_len": (128, 1024)}
    return dsmem.explore_ranks(list(ARCHS.values()), capacity="T4", page=True, **DEGREES, **sizes)


def asked_of(chosen):
    """(architecture, sharding, training, fields of the workload) of values."""
    chosen = {name: value for name, value in chosen.items() if name not in ("gpu", "overhead_bytes")}
    arch, use, precision = ARCHS[chosen.pop("model")], chosen.pop("use"), chosen.pop("precision")
    work = {name: chosen.pop(name) for name in ("batch", "seq_len", "weights") if name in chosen}
    training = Training(precision=precision) if use == "training" else None
    return arch, Sharding(**chosen), training, work | ({"weights": "bf16"} if training else {})


def test_every_state_is_what_ranks_hold(explorer):
    data, knobs, states = data_of(explorer), explorer._knobs, 0
    batches, lengths = knobs["batch"].values, knobs["seq_len"].values
    values = [decoded(text, batches, lengths) for text in data["functions"].split(";")]
    ends = [(i, k) for i in (0, len(batches) - 1) for k in (0, len(lengths) - 1)]
    for choice, state in states_of(data):
        chosen = {name: knobs[name].values[place] for name, place in choice.items()}
        try:
            arch, spread, training, work = asked_of(chosen)
            held = [at_rest(arch, None, spread, rank, training, **work) for rank in (0, spread.ranks - 1)]
        except ValueError as error:
            assert state == " ".join(str(error).split())
            continue
        found = rows_of(data, state, values)
        assert list(found) == list(ROWS)
        for i, k in ends if training is None else ends[:1]:
            work |= {"batch": batches[i], "seq_len": lengths[k]}
            held = [at_rest(arch, None, None, 0, training, **work)]
            held += [at_rest(arch, None, spread, rank, training, **work) for rank in (0, spread.ranks - 1)]
            for row, parts in zip(ROWS, held, strict=True):
                assert {family: each[k, i] for family, each in found[row].items()} == ranks_by_family(parts), chosen
            states += 1
    assert states >= 300 and len(data["errors"]) >= 4


@node
def test_the_script_says_what_python_and_the_kernel_say(explorer):
    picture, told_of = RanksPicture(Figure().subplots()), 0
    for values, state, _ in said_alike(explorer, 150):
        arch, spread, training, work = asked_of(values)
        card = {"T4": dsmem.GPUS["T4"].usable_bytes} if values["gpu"] == "T4" else None
        assert picture(arch, None, spread, training, card, **work) == state.sentence
        assert picture.ax.get_title(loc="left").splitlines() == [state.title[0] + ":", state.title[1]]
        told_of += 1
    assert told_of >= 30


def test_it_says_what_cannot_be_cut_and_draws_the_rest(explorer, refuses):
    explorer.set(model="small", use="training", data=1, tensor=1, expert=1, pipeline=1, zero=0, attention="tensor")
    explorer.set(tensor=8)
    assert "tensor=8 does not divide num_attention_heads=4" in explorer.error
    explorer.set(tensor=2, zero=3, data=4)
    assert explorer.error is None and "DP 4, ZeRO 3, TP 2" in explorer.alt
    drawn = explorer.figure.axes[0].dsmem_data
    assert {row: sum(n for _, at, n in drawn if at == row) for row in ROWS[1:]} == {
        row: sum(explorer.state.rows[row].values()) for row in ROWS[1:]
    }
    assert set(explorer.state.rows["first rank"]) == set(RANKS)
    refuses(lambda: dsmem.explore_ranks("gpt2", page=True, experts=[1, 2]), "field='experts'", "expert")


def test_arrays_of_sequences_are_held_as_each_of_them_is(refuses):
    batch, seq_len = np.array([[1, 3]]), np.array([[16], [64]])
    spread = {"tensor": 4, "attention": "data"}
    both = at_rest("deepseek-v2-lite", sharding=spread, batch=batch, seq_len=seq_len)["latent_cache"]
    for (k, i), nbytes in np.ndenumerate(both):
        sizes = {"batch": int(batch[0, i]), "seq_len": int(seq_len[k, 0])}
        assert nbytes == at_rest("deepseek-v2-lite", sharding=spread, **sizes)["latent_cache"]
    refuses(lambda: at_rest("llama-2-7b", batch=np.array([2**30]), seq_len=2**20), "64-bit")
