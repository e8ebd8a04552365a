"""`explore_reads` in the page: every state is what the formulas say, and the script's words are those of the kernel."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from page_data import data_of, decoded, node, rows_alike, rows_of, said_alike, states_of

import dsmem
from dsmem.footprint.reads import step_reads
from dsmem.footprint.stored import weight_bytes
from dsmem.plots.reads import ReadsPicture, with_experts

MODELS = ["deepseek-v3.2", "gpt-oss-20b", "llama-2-7b"]


@pytest.fixture(scope="module")
def explorer():
    return dsmem.explore_reads(MODELS, page=True)


def test_every_state_is_what_a_step_reads(explorer):
    data, knobs = data_of(explorer), explorer._knobs
    batches, lengths = knobs["batch"].values, knobs["tokens"].values
    values = [decoded(text, batches, lengths) for text in data["functions"].split(";")]
    grid, states = (np.array(batches)[None, :], np.array(lengths)[:, None]), 0
    for choice, state in states_of(data):
        chosen = {name: knobs[name].values[place] for name, place in choice.items()}
        arch, found = dsmem.Architecture.of(chosen["model"]), rows_of(data, state, values)
        arch = with_experts(arch, chosen["num_experts_per_tok"])
        for part, nbytes in step_reads(arch, *grid, chosen["weights"]).items():
            told = found["read in a step"][part]
            assert np.array_equal(told, np.broadcast_to(np.rint(nbytes).astype(int), told.shape)), (chosen, part)
        cache = found["resident"].pop("kv_cache")
        if not arch.indexed:
            assert np.array_equal(cache, found["read in a step"]["kv_cache"])
        resident = sum(found["resident"].values())
        assert (resident == weight_bytes(arch, chosen["weights"])).all()
        states += len(batches) * len(lengths)
    assert states >= 9_000


@node
def test_the_script_says_what_python_and_the_kernel_say(explorer):
    picture = ReadsPicture(Figure().subplots())
    for values, state, told in said_alike(explorer, 80):
        words = picture(dsmem.Architecture.of(values.pop("model")), **values)
        assert rows_alike(state, told)
        assert state.sentence == words
        assert picture.ax.get_title(loc="left").splitlines() == [state.title[0] + ":", state.title[1]]


def test_a_memory_of_any_speed(refuses):
    explorer = dsmem.explore_reads("deepseek-r1", page=True, memory=["T4", 1.2e12], num_experts_per_tok=[1, 8])
    explorer.set(memory=1.2e12, weights="fp8", num_experts_per_tok=8)
    assert explorer.alt.endswith("at the speed of 1,200 GB/s.")
    assert data_of(explorer)["knobs"][-1]["texts"] == ["T4", "1,200 GB/s"]
    assert explorer.figure.axes[0].get_title(loc="left").split()[-2:] == ["1,200", "GB/s"]
    refuses(lambda: dsmem.explore_reads("llama-2-7b", page=True, weights=["fp7"]), "weights='fp7'")
