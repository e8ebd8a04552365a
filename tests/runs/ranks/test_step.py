"""Real ranks against first principles: what each holds at rest to the byte, and where its phases peak."""

import copy
import itertools
import math
from pathlib import Path

import pytest
from small_configs import TINY, TINY_LATENT

from dsmem import Architecture, Sharding, build_model, training_footprint
from dsmem.config.training import Training
from dsmem.footprint.sharded.shares import rank_gradients, rank_parameters, rank_states
from dsmem.model.training import TrainingStep
from dsmem.runs.ranks import RankGroup, compare_ranks, fake_rank, run_ranks
from dsmem.runs.ranks.plan import engine_of
from dsmem.runs.ranks.run import run_job
from dsmem.runs.ranks.step import Job, tokens_of

BATCH = {"batch": 2, "seq_len": 16}
UNEVEN = TINY | {"vocab_size": 101, "intermediate_size": 98, "num_key_value_heads": 4}
MIXTURE = TINY_LATENT | {"vocab_size": 101, "n_routed_experts": 6}  # over 4 ranks: 2, 2, 2 and no expert
TRAINING = Training()
JOBS = {  # name: config, degrees (0: as many as there are ranks), worlds
    "ddp": (UNEVEN, {"data": 0}, [2]),
    "zero1": (UNEVEN, {"data": 0, "zero": 1}, [2, 4]),
    "zero2": (UNEVEN, {"data": 0, "zero": 2}, [4]),
    "zero3": (UNEVEN, {"data": 0, "zero": 3}, [2, 4]),
    "mixture": (MIXTURE, {"data": 0, "zero": 3}, [4]),
    "tensor": (UNEVEN | {"intermediate_size": 96}, {"tensor": 0}, [2]),
    "uneven tensor": (UNEVEN, {"tensor": 0}, [4]),
    "latent": (TINY_LATENT | {"first_k_dense_replace": 2}, {"tensor": 0}, [2]),
    "expert": (TINY_LATENT, {"data": 0, "expert": 0}, [2, 4]),
}


def in_worlds(*names):
    """A test of each of these jobs in each world that it runs in."""
    return pytest.mark.parametrize(("name", "world"), [(name, world) for name in names for world in JOBS[name][2]])


@pytest.fixture(scope="module")
def runs():
    """{(job, world): its `RanksRun`}, all jobs of a world in the same processes."""
    found = {}
    for world in (2, 4):
        with RankGroup(world) as group:
            for name, (config, degrees, worlds) in JOBS.items():
                if world not in worlds:
                    continue
                arch = Architecture.of(config)
                sharding = Sharding(**{field: world if value == 0 else value for field, value in degrees.items()})
                work = TRAINING.workload(**BATCH, attention="fused")
                found[name, world] = run_job(group, Job(arch, work, TRAINING, sharding, engine_of(sharding, arch)))
            folder = Path(group._folder)
        assert not folder.exists()
    return found


def shapes(config):
    """{name: shape} of all parameters, whole."""
    model = build_model(Architecture.of(config), weights="bf16", device="fake")
    return {name: tuple(p.shape) for name, p in model.named_parameters()}


def rows_of(shape, rank, world):
    """Rows that torch.chunk leaves a rank; and those it has room for."""
    room = -(-shape[0] // world)
    return max(0, min(room, shape[0] - rank * room)), room


def bytes_of(shape, rows=None):
    return 2 * math.prod(shape if rows is None else (rows, *shape[1:]))


# ---- At rest ---------------------------------------------------------------------------------------------------------


@in_worlds("zero2", "zero3", "mixture")
def test_fsdp2_cuts_every_tensor_by_rows_and_fills_parts_up(runs, name, world):
    whole = shapes(JOBS[name][0])
    for rank in runs[name, world].ranks:
        cut = {key: rows_of(shape, rank.rank, world) for key, shape in whole.items()}
        here = {key: bytes_of(shape, cut[key][0]) for key, shape in whole.items()}
        room = sum(bytes_of(shape, cut[key][1]) for key, shape in whole.items())
        for kind in ("parameters", "gradients"):
            assert {each.name: each.nbytes for each in rank.held[kind]} == here
            assert rank.bytes_of(kind) == room
        states = {}
        for each in rank.held["optimizer_states"]:
            states[each.name] = states.get(each.name, 0) + each.storage
        assert states == {
            key: 2 * nbytes + 4 for key, nbytes in here.items()
        }  # filled up nowhere; 4: the count of steps


@in_worlds("ddp")
def test_ddp_keeps_everything_on_every_rank(runs, name, world):
    n_params = Architecture.of(UNEVEN).n_params
    for rank in runs[name, world].ranks:
        kinds = [rank.bytes_of(kind) for kind in ("parameters", "gradients", "optimizer_states")]
        assert kinds == [2 * n_params, 2 * n_params, 4 * n_params + 4 * len(shapes(UNEVEN))]


@in_worlds("zero1")
def test_stage_1_hands_out_whole_tensors_to_whoever_has_least(runs, name, world):
    given = [{} for _ in range(world)]
    for key, shape in sorted(shapes(UNEVEN).items(), key=lambda item: -math.prod(item[1])):
        least = min(range(world), key=lambda rank: sum(given[rank].values()))
        given[least][key] = math.prod(shape)
    for rank, own in zip(runs[name, world].ranks, given, strict=True):
        assert rank.bytes_of("parameters") == rank.bytes_of("gradients") == 2 * Architecture.of(UNEVEN).n_params
        assert {each.name for each in rank.held["optimizer_states"]} == set(own)
        assert rank.bytes_of("optimizer_states") == sum(4 * count + 4 for count in own.values())


@in_worlds("tensor", "uneven tensor", "latent")
def test_tensor_ranks_cut_matrices_and_vocabulary_and_no_norm(runs, name, world):
    whole = shapes(JOBS[name][0])
    for rank in runs[name, world].ranks:
        here, room = {}, 0
        for key, shape in whole.items():
            if key.endswith(("o_proj.weight", "down_proj.weight")):
                columns, _ = rows_of(shape[::-1], rank.rank, world)
                here[key] = bytes_of((shape[0], columns))
                room += here[key]
            elif len(shape) == 1 or "_a_proj" in key:
                here[key] = bytes_of(shape)
                room += here[key]
            else:
                rows, most = rows_of(shape, rank.rank, world)
                here[key] = bytes_of(shape, rows)
                room += bytes_of(shape, most)  # a part of rows lies in room for the largest
        assert rank.bytes_of("parameters") == room
        assert {each.name: each.nbytes for each in rank.held["parameters"]} == here
        # DTensor leaves the gradient of an embedding that is cut by its vocabulary whole on every rank
        grads = here | {"embed_tokens.weight": bytes_of(whole["embed_tokens.weight"])}
        assert {each.name: each.storage for each in rank.held["gradients"]} == grads
        assert rank.bytes_of("optimizer_states") == 2 * sum(here.values()) + 4 * len(here)


@in_worlds("expert")
def test_expert_ranks_hold_their_experts_and_all_else(runs, name, world):
    for rank in runs[name, world].ranks:
        here = {
            key: bytes_of(shape) // (world if ".experts." in key else 1) for key, shape in shapes(TINY_LATENT).items()
        }
        for kind in ("parameters", "gradients"):
            assert {each.name: each.storage for each in rank.held[kind]} == here
        assert rank.bytes_of("optimizer_states") == 2 * sum(here.values()) + 4 * len(here)
    assert sum(rank.beside["rows of experts"] for rank in runs[name, world].ranks) == world * 2 * 16 * 2


@in_worlds("ddp", "zero1", "zero3", "mixture")
def test_the_formulas_of_a_rank_at_rest_are_its_ledger(runs, name, world):
    run, asked = runs[name, world], {"sharding": runs[name, world].sharding}
    for rank in run.ranks:
        asked["rank"] = rank.rank
        formula = {
            "parameters": rank_parameters(run.arch, run.work, **asked),
            "gradients": rank_gradients(run.arch, run.work, TRAINING, **asked),
            "optimizer_states": rank_states(run.arch, run.work, TRAINING, **asked),
        }
        assert {kind: sum(held.values()) for kind, held in formula.items()} == {
            kind: rank.bytes_of(kind) for kind in formula
        }


# ---- Peaks -----------------------------------------------------------------------------------------------------------


@in_worlds("ddp", "zero1")
def test_ddp_peaks_where_one_device_does_with_its_buckets_beside(runs, name, world):
    step = training_footprint(UNEVEN, **BATCH)
    for rank in runs[name, world].ranks:
        states = rank.bytes_of("optimizer_states") - sum(
            step.parts[part] for part in ("optimizer_states", "step_counts")
        )
        bucket = rank.bytes_of("gradients")
        peaks = {phase: step.phases[phase] + bucket + states for phase in ("forward", "backward")}
        assert {phase: rank.peaks[phase] for phase in peaks} == peaks
        assert rank.ledger.by_category("forward")["gradient"] == bucket


def units(config, world):
    """{"layers.0": bytes of what is gathered at once, ..., "root": of the rest}, with what parts are filled up to."""
    found = {}
    for key, shape in shapes(config).items():
        unit = ".".join(key.split(".")[:2]) if key.startswith("layers.") else "root"
        found[unit] = found.get(unit, 0) + world * bytes_of(shape, rows_of(shape, 0, world)[1])
    return found


def gathered(config, world, zero):
    """Forward's peak under FSDP2 from the instants of one device: parts and states in the place of the whole, beside
    them what is gathered at each instant, and the buffer that it came in."""
    step, unit = training_footprint(config, **BATCH), units(config, world)
    layers = [each for each in unit if each != "root"]
    kept = ("weights", "optimizer_states", "step_counts")
    totals, before, normed = [], None, 2 * 16 * (64 * 2 + 4)
    for name, parts in itertools.takewhile(lambda item: item[0] != "end of forward", step.instants.items()):
        rest = sum(size for part, size in parts.items() if part not in kept)
        layer = next((layer for layer in layers if name.startswith(f"{layer}.")), None)
        if layer:
            done = layers[: layers.index(layer)] if zero == 2 else []
            now = unit["root"] + unit[layer] + sum(unit[each] for each in done)
            if layer != before:  # it is gathered ahead of its norm, while the last one's buffer still is there
                totals.append(rest - normed + now + unit[layer] + unit[before or "root"])
            totals.append(rest + now + unit[layer])
            before = layer
        else:
            now = unit["root"] + (sum(unit[each] for each in layers) if before and zero == 2 else 0)
            inside = name == "embed_tokens" or name in ("norm", "lm_head")
            totals.append(rest + now + (unit[before or "root"] if inside else 0))
    return totals


@in_worlds("zero2", "zero3", "mixture")
def test_fsdp2s_forward_peaks_to_the_byte(runs, name, world):
    config, degrees, _ = JOBS[name]
    totals = gathered(config, world, degrees["zero"])
    for rank in runs[name, world].ranks:
        assert rank.peaks["forward"] == max(totals) + rank.bytes_of("parameters") + rank.bytes_of("optimizer_states")


@in_worlds("tensor")
def test_tensor_ranks_share_out_what_lies_between_a_cut_by_columns_and_one_by_rows(runs, name, world):
    cut = ("query", "key", "value", "attention_out", "logsumexp", "gate", "gate_activated", "up", "gated")
    parts = training_footprint(JOBS["tensor"][0], **BATCH).at("forward")
    rest = {part: size for part, size in parts.items() if part not in ("weights", "optimizer_states", "step_counts")}
    for rank in runs[name, world].ranks:
        own = rank.bytes_of("parameters") + rank.bytes_of("optimizer_states")
        assert rank.peaks["forward"] == own + sum(size // world if part in cut else size for part, size in rest.items())


@in_worlds("zero2", "zero3", "mixture")
def test_one_rank_alone_on_fake_tensors_is_that_rank(runs, name, world):
    """Backward apart: threads of gloo free its buffers when they come to it."""
    real = runs[name, world]
    (fake,) = fake_rank(real.arch, real.work, real.sharding, TRAINING, rank=world - 1).ranks
    rank = real.ranks[world - 1]
    for kind in ("parameters", "gradients", "optimizer_states"):
        assert fake.bytes_of(kind) == rank.bytes_of(kind)
    for phase in ("forward", "optimizer step"):
        assert fake.peaks[phase] == rank.peaks[phase]
    assert abs(fake.peaks["backward"] - rank.peaks["backward"]) <= max(units(JOBS[name][0], world).values())


def test_one_rank_of_256_peaks_at_the_same_byte_every_time():
    asked = {"sharding": {"data": 256, "zero": 3}, "rank": 255, **BATCH}
    one_layer = TINY | {"num_hidden_layers": 1}
    first, again = fake_rank(one_layer, **asked), fake_rank(one_layer, **asked)
    assert first.ranks[0].peaks == again.ranks[0].peaks and first.loss is None
    assert "rank 255 alone on fake tensors" in str(first)
    # every tensor has room for one row, and the last rank has a row of none
    held = first.ranks[0].held["parameters"]
    assert {each.nbytes for each in held} == {0}
    assert [each.storage for each in held] == [bytes_of(each.shape, 1) for each in held]


# ---- The same training ----------------------------------------------------------------------------------------------


@in_worlds(*JOBS)
def test_the_loss_is_that_of_one_process(runs, name, world):
    run = runs[name, world]
    model = build_model(run.arch, weights="bf16", device="cpu")
    job = Job(run.arch, run.work, TRAINING, run.sharding, run.engine)
    losses = []
    for replica in range(run.sharding.data):
        tokens = tokens_of(job, replica * run.sharding.tensor)
        step = TrainingStep(copy.deepcopy(model), tokens, TRAINING, "bf16", "fused")
        losses.append(step.run().item())
    exact = name not in ("tensor", "uneven tensor", "latent", "expert")  # there sums are rounded in another order
    assert run.loss == pytest.approx(sum(losses) / len(losses), rel=1e-6 if exact else 1e-2)


# ---- The front door --------------------------------------------------------------------------------------------------


def test_one_call_gives_a_table_and_ledgers_by_rank(runs):
    run = runs["zero3", 4]
    table = run.table()
    assert table.column("rank") == [0, 1, 2, 3]
    assert table.column("parameters") == [rank.bytes_of("parameters") for rank in run.ranks]
    assert "data 4 (zero 3)" in str(run) and "stage 3" in repr(run)
    assert run.ranks[0].ledger.timeline().live_bytes.max() == run.ranks[0].ledger.peak_bytes
    assert "layers.0.mlp.up_proj.weight" in repr(run.ranks[3].tensors())


def test_what_is_not_run_on_ranks_is_refused(refuses):
    refuses(lambda: run_ranks(TINY, sharding={"pipeline": 2}), "pipeline=2", "tensor")
    refuses(lambda: run_ranks(TINY, sharding={"tensor": 4, "data": 2}), "tensor=4", "data=2")
    refuses(lambda: run_ranks(TINY_LATENT, sharding=2), "tensor=2", "mixture")
    refuses(lambda: run_ranks(TINY, sharding=2, training={"lora_rank": 4}), "lora_rank=4")
    refuses(lambda: run_ranks(TINY, sharding={"data": 2}, batch=[1, 2]), "batch")
    refuses(lambda: run_ranks(TINY, sharding={"data": 2, "zero": 1}, training="muon"), "optimizer", "muon")
    refuses(lambda: compare_ranks(TINY, shardings=[2, 4]), "shardings", 2, 4)
    refuses(lambda: fake_rank(TINY, sharding={"data": 2}), "ddp", "fsdp2")
    refuses(lambda: fake_rank(TINY, sharding={"data": 2, "zero": 3}, rank=2), "rank=2")
