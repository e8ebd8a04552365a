"""Pictures of the allocator's memory: what they show is what the replay says, and sliders move them."""

import itertools

import numpy as np
import pytest
from matplotlib.figure import Figure

import dsmem
from dsmem.memory.replay import replay
from dsmem.plots.segments import SegmentsPicture, part_of, plot_reserved, plot_segments

MIB = 2**20
EVENTS = [
    (1, MIB, "kv_cache"),
    (2, 9 * MIB, "activation"),
    (3, 3 * MIB, "layers.0 mm"),
    (2, -9 * MIB, "activation"),
    (4, 11 * MIB, "kv_cache"),
    (4, -11 * MIB, "kv_cache"),
]


@pytest.fixture
def ax():
    return Figure(layout="constrained").subplots()


def booked(ax):
    sums = dict.fromkeys((part for part, _, _ in ax.dsmem_data), 0)
    for part, _, nbytes in ax.dsmem_data:
        sums[part] += nbytes
    return sums


def drawn_bytes(ax):
    """Bytes covered by the filled patches, by part."""
    areas = {}
    for patch in ax.patches:
        vertices = patch.get_path().vertices.reshape(-1, 5, 2)
        areas[patch.get_label()] = round(float(sum(box[2, 0] - box[0, 0] for box in vertices)))
    return areas


@pytest.mark.parametrize("row_bytes", [None, 4 * MIB])
@pytest.mark.parametrize("step", [0, 2, 3, 4])
def test_the_map_covers_every_reserved_byte_once(ax, row_bytes, step):
    replayed = replay(EVENTS)
    plot_segments(replayed, step, row_bytes=row_bytes, ax=ax)
    drawn = drawn_bytes(ax)
    total = sum(nbytes for part, nbytes in drawn.items() if part in booked(ax))
    assert total == replayed.reserved_bytes[step] == sum(booked(ax).values())
    assert {part: n for part, n in drawn.items() if part in booked(ax)} == booked(ax)
    assert drawn.get("free", 0) == replayed.reserved_bytes[step] - replayed.allocated_bytes[step]


def test_the_title_says_how_much_is_in_use(ax):
    plot_segments(replay(EVENTS), 3, ax=ax)  # 1 MiB in a segment of 2, 3 MiB in one of 20
    assert ax.get_title(loc="left") == "22.00 MiB reserved in 2 segments, 18% in use"


def test_a_name_is_written_into_its_block_where_it_fits(ax):
    plot_segments([[(MIB, "a"), (MIB, "kv_cache"), (9 * MIB, "")], [(100, "b"), (20 * MIB, "c")]], ax=ax)
    assert [text.get_text() for text in ax.texts] == ["a", "c"]  # kv_cache is in the legend, b is too narrow


def test_rows_are_named_but_not_all_of_many(ax):
    plot_segments([[(MIB, "kv_cache")]] * 100, ax=ax)
    assert 5 < len(ax.get_yticks()) <= 14


@pytest.mark.parametrize(("label", "part"), [("kv_cache", "kv_cache"), ("", "free"), ("5", "tensor")])
def test_a_label_stands_for_a_component_or_for_some_tensor(label, part):
    assert part_of(label) == part


def test_reserved_is_the_sum_of_what_is_stacked(ax):
    replayed = replay(EVENTS)
    plot_reserved(replayed, ax=ax)
    rows = {
        part: [n for name, _, n in ax.dsmem_data if name == part]
        for part in ("allocated", "largest_free", "other_free")
    }
    assert np.array_equal(np.sum(list(rows.values()), axis=0), replayed.reserved_bytes)
    assert "34.00 MiB reserved for 16.00 MiB allocated" in ax.get_title(loc="left").replace("\n", " ")


def test_every_setting_under_sliders_shows_what_a_replay_says():
    streams = {"one": EVENTS, "other": EVENTS[:3]}
    limits = ["no limit", 32]
    explorer = dsmem.explore_settings(
        streams,
        row_bytes=4 * MIB,
        progress=range(0, 101, 20),
        expandable_segments=False,
        max_split_size_mb=limits,
    )
    for stream, progress, expandable, limit in itertools.product(streams, (0, 60, 100), (False, True), limits):
        explorer.set(stream=stream, progress=progress, expandable_segments=expandable, max_split_size_mb=limit)
        settings = {} if isinstance(limit, str) else {"max_split_size_mb": limit}
        run = replay(streams[stream], expandable_segments=expandable, **settings)
        reserved = run.reserved_bytes[max(len(streams[stream]) * progress // 100 - 1, 0)]
        assert explorer.error is None
        assert sum(nbytes for _, _, nbytes in explorer.figure.axes[0].dsmem_data) == reserved


def test_a_picture_is_moved_and_not_drawn_again(ax):
    picture = SegmentsPicture(["kv_cache", "free"], ax, row_bytes=MIB)
    artists = ax.get_children()
    words = [picture([[(MIB, "kv_cache"), (count * MIB, "")]]) for count in (1, 5)]
    assert ax.get_children() == artists
    assert words[1] == "6.00 MiB reserved in 1 segment, 17% in use; free 5.00 MiB, kv_cache 1.00 MiB."


def test_bad_input_is_refused_in_a_sentence(refuses, ax):
    refuses(lambda: plot_segments([], ax=ax), "segments", "[]", "at least one")
    refuses(lambda: plot_segments(replay(EVENTS), row_bytes=0, ax=ax), "row_bytes", "0", "at least 1")
    refuses(lambda: plot_reserved(replay([]), ax=ax), "replayed", "[]", "at least one event")
