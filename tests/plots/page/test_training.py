"""`explore_training` in the page: every state is what the formulas say, and the script says what the kernel says."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from page_data import data_of, decoded, node, rows_of, said_alike, states_of

import dsmem
from dsmem.footprint.training.step import training_footprint
from dsmem.plots import sources
from dsmem.plots.families import TRAINING, by_family
from dsmem.plots.training import PARAMETERS, TrainingPicture, training_of

SMALL = {"model_type": "qwen2", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3}
SMALL |= {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 101, "_name_or_path": "small"}
ARCHS = {arch.name: arch for arch in map(dsmem.Architecture.of, [SMALL, "gpt2"])}
SIZES = {"batch": (1, 8), "seq_len": [256, 1024, 2048]}


@pytest.fixture(scope="module")
def explorer():
    return dsmem.explore_training(list(ARCHS.values()), capacity="T4", page=True, **SIZES)


def asked_of(chosen):
    """(architecture, training, fields of the workload) of values."""
    given = {name: value for name, value in chosen.items() if name not in ("gpu", "hide", "overhead_bytes")}
    arch = ARCHS[given.pop("model")]
    own = {name: given.pop(name) for name in list(given) if name in dsmem.Training.__dataclass_fields__}
    return arch, training_of(own), given


def error_of(arch, training, work):
    try:
        training_footprint(arch, training=training, **work)
    except ValueError as error:
        return " ".join(str(error).split())


def added_of(data):
    """{choice: its rows, or its error} of what optimizers add."""
    added = data["added"]
    functions = [decoded(text, [1], [1])[0, 0] for text in added["functions"].split(";")]
    found = {}
    for choice, state in states_of(added | {"knobs": data["knobs"]}):
        told = state if isinstance(state, str) else rows_of(added | {"families": data["families"]}, state, functions)
        found[tuple(choice.items())] = told
    return found


def largest(rows, phase):
    """The parts of a phase's largest row, the first of equals."""
    mine = [parts for name, parts in rows.items() if name == phase or name.startswith(f"{phase} ")]
    return max(mine, key=lambda parts: sum(parts.values()), default=None)


def test_every_state_is_what_a_step_holds(explorer):
    data, knobs, states = data_of(explorer), explorer._knobs, 0
    batches, lengths = knobs["batch"].values, knobs["seq_len"].values
    values = [decoded(text, batches, lengths) for text in data["functions"].split(";")]
    passes = {tuple(choice.items()): state for choice, state in states_of(data)}
    draw = np.random.default_rng(5)
    for place, (choice, added) in enumerate(added_of(data).items()):
        rest = [knobs[name] for name in data["order"] if name not in dict(choice)]
        at = dict(choice) | {knob.name: int(draw.integers(len(knob.values))) for knob in rest}
        i, k = place % len(batches), place // 2 % len(lengths)
        sizes = {"batch": batches[i], "seq_len": lengths[k]}
        arch, training, work = asked_of({name: knobs[name].values[n] for name, n in at.items()} | sizes)
        state = passes[tuple((name, at[name]) for name in data["order"])]
        if error := error_of(arch, training, work):
            if isinstance(added, str) or isinstance(state, str):
                assert error == (added if isinstance(added, str) else state)
            else:
                assert error == data["errors"][state[4][state[3].index(k)]]
            continue
        fp = training_footprint(arch, training=training, **work)
        found = {name: {f: n[k, i] for f, n in parts.items()} for name, parts in rows_of(data, state, values).items()}
        for phase in fp.phases:
            parts = largest(found, phase)
            assert {f: n + added[phase][f] for f, n in parts.items()} == by_family(fp.at(phase), TRAINING), at
        assert set(fp.phases) == set(added)
        states += 1
    assert states >= 250 and len(data["errors"]) == 2


@node
def test_the_script_says_what_python_and_the_kernel_say(explorer):
    picture, told_of = TrainingPicture(Figure().subplots()), 0
    for values, state, _ in said_alike(explorer, 120):
        arch, training, work = asked_of(values)
        card = {"T4": dsmem.GPUS["T4"].usable_bytes} if values["gpu"] == "T4" else None
        hide = () if values["hide"] == "nothing" else PARAMETERS
        fp = training_footprint(arch, training=training, **work)
        assert picture.show(fp, card, 0, hide) == state.sentence
        assert picture.ax.get_title(loc="left").splitlines() == [state.title[0] + ":", state.title[1]]
        assert state.rows == {phase: by_family(fp.at(phase), TRAINING) for phase in fp.phases}
        told_of += 1
    assert told_of >= 40


def test_it_is_set_read_and_drawn(explorer, refuses):
    start = {"batch": 1, "seq_len": 256, "optimizer": "adamw", "optimizer_kernel": "foreach", "precision": "pure"}
    start |= {"lora_rank": 0, "weights": "bf16", "checkpointing": "none", "attention": "fused"}
    explorer.set(model="gpt2", gpu="T4", hide="nothing", **start)
    drawn = explorer.figure.axes[0].dsmem_data
    assert {(f, row): n for f, row, n in drawn} == {
        (f, row): n for row, families in explorer.state.rows.items() for f, n in families.items() if n
    }
    explorer.set(hide="weights and states")
    apart = sources.hidden(PARAMETERS, TRAINING)
    assert explorer.alt.endswith(f"shown without {', '.join(apart)}.")
    explorer.set(seq_len=2048)
    assert explorer.error.startswith("seq_len=2048 is past")
    refuses(lambda: dsmem.explore_training("gpt2", page=True, optimiser=["adamw"]), "field='optimiser'", "optimizer")
    refuses(lambda: dsmem.explore_training("gpt2", page=True, gradients=["fp32"]), "gradients", "page=True")
