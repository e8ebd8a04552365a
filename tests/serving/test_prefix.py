"""A stored prefix comes back to the bit or not at all; a store that fails costs a computation and nothing else."""

import dataclasses
import importlib.util
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save

import dsmem
from dsmem import formulas
from dsmem.serving.prefix import (
    Damaged,
    FileStore,
    Key,
    RedisStore,
    StoreError,
    fetch_or_compute,
    model_fingerprint,
    pack,
    prefix_key,
    unpack,
)

ARCH = dsmem.Architecture.from_config("deepseek-r1-distill-qwen-7b").scaled(num_hidden_layers=2)
TOKENS = list(range(40))
FORMATS = (torch.float32, torch.float16, torch.bfloat16, torch.int8, torch.float8_e4m3fn, torch.float8_e5m2)
KEY = prefix_key(TOKENS, "a model", "static fp16")
OTHER = prefix_key([*TOKENS[:-1], 99], "a model", "static fp16")


def cache(dtype=torch.float16, tokens=40, seed=0):
    """Keys and values of every layer; any bits, the patterns that are no number among them."""
    generator = torch.Generator().manual_seed(seed)
    shape = (1, tokens, ARCH.num_key_value_heads, ARCH.head_dim * dtype.itemsize)
    return {
        f"layers.{layer}.{name}": torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator).view(dtype)
        for layer in range(ARCH.num_hidden_layers)
        for name in ("keys", "values")
    }


def same(one, other):
    """Whether names, formats, shapes and every bit agree."""
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype
        and one[name].shape == other[name].shape
        and torch.equal(one[name].contiguous().view(torch.uint8), other[name].contiguous().view(torch.uint8))
        for name in one
    )


def never():
    raise AssertionError("this was to be fetched, and is computed")


@pytest.fixture(scope="module")
def server():
    """Starts real Redis servers on free ports, which keep nothing on disk: `server()` returns (url, process)."""
    program, started = shutil.which("redis-server"), []
    if program is None or importlib.util.find_spec("redis") is None:
        missing = "redis-server is not on the PATH" if program is None else "the package redis is not installed"
        (pytest.fail if os.environ.get("DSMEM_REQUIRE_REDIS") else pytest.skip)(missing)

    def start(*options):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", *options]
        started.append(subprocess.Popen(command, stdout=subprocess.DEVNULL))
        url, deadline = f"redis://127.0.0.1:{port}/0", time.monotonic() + 20
        while not RedisStore(url).answers():
            assert started[-1].poll() is None and time.monotonic() < deadline, "redis-server does not start"
            time.sleep(0.05)
        return url, started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def shared_server(server):
    return server()[0]


@pytest.fixture
def pieces(shared_server):
    """An empty Redis store that cuts a payload of `cache()` into 17 pieces."""
    store = RedisStore(shared_server, piece_bytes=10_000)
    client(store).flushall()
    return store


@pytest.fixture(params=["file", "redis"])
def store(request, tmp_path):
    """Each kind of store, empty."""
    if request.param == "file":
        return FileStore(tmp_path / "made" / "when needed")
    return request.getfixturevalue("pieces")


def client(store):
    import redis

    return redis.Redis.from_url(store.url)


# ---- what comes back


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
def test_a_cache_comes_back_to_the_bit(store, dtype):
    tensors = cache(dtype)
    computed = fetch_or_compute(store, KEY, lambda: tensors)
    fetched = fetch_or_compute(store, KEY, never)
    assert (computed.source, fetched.source) == ("computed", "fetched")
    assert computed.stored and fetched.stored and same(fetched.tensors, tensors)


def test_views_of_one_buffer_scalars_and_empty_tensors_are_stored_alike(store):
    buffer = torch.arange(24.0).view(2, 12)
    tensors = {"a": buffer[:, :5], "b": buffer[:, 3:9], "c": buffer.t(), "step": torch.tensor(7), "none": buffer[:0]}
    tensors["bits"] = torch.nn.Parameter(buffer)
    fetch_or_compute(store, KEY, lambda: tensors)
    fetched = fetch_or_compute(store, KEY, never).tensors
    assert all(torch.equal(fetched[name], tensors[name]) for name in tensors)
    assert fetched["a"].untyped_storage().nbytes() == 2 * 5 * 4  # what is stored is the view, not what it looks into


def test_the_bytes_are_those_of_the_formula(store):
    result = fetch_or_compute(store, KEY, cache)
    assert result.nbytes == formulas.kv_cache_bytes(1, len(TOKENS), 2, ARCH.num_key_value_heads, ARCH.head_dim, 16)
    assert result.nbytes < result.payload_bytes < result.nbytes + 2000
    assert str(result).startswith("computed 160.00 KiB in ") and "nothing is stored" in str(result)
    assert str(fetch_or_compute(store, KEY, never)).startswith("fetched 160.00 KiB in ")


def test_seconds_are_booked_where_they_are_spent(store):
    result = fetch_or_compute(store, KEY, lambda: time.sleep(0.2) or cache())
    assert 0.2 <= result.compute_seconds < 0.2 + 2
    assert 0 < result.fetch_seconds < 0.2 and 0 < result.store_seconds
    fetched = fetch_or_compute(store, KEY, never)
    assert fetched.fetch_seconds > 0 and fetched.compute_seconds == fetched.store_seconds == 0


def test_another_prefix_is_computed(store):
    fetch_or_compute(store, KEY, cache)
    other = cache(seed=1)
    assert fetch_or_compute(store, OTHER, lambda: other).source == "computed"
    assert same(fetch_or_compute(store, OTHER, never).tensors, other)
    assert same(fetch_or_compute(store, KEY, never).tensors, cache())


def test_a_real_pass_goes_on_from_a_fetched_cache_as_from_its_own(store):
    import transformers

    shape = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = transformers.Qwen2Config(**shape, intermediate_size=96, vocab_size=101)
    model = transformers.Qwen2ForCausalLM(config).eval()
    tokens, following = torch.tensor([TOKENS]), torch.tensor([[7]])
    arch = dsmem.Architecture.from_config(config)
    key = prefix_key(tokens, model_fingerprint(arch, "fp32", model), "growing fp32")

    @torch.no_grad()
    def prefill():
        layers = model(tokens, use_cache=True).past_key_values.layers
        return {f"layers.{i}.{name}": getattr(layers[i], name) for i in range(2) for name in ("keys", "values")}

    @torch.no_grad()
    def after(tensors):
        full = transformers.DynamicCache()
        for i in range(2):
            full.update(tensors[f"layers.{i}.keys"], tensors[f"layers.{i}.values"], i)
        return model(following, past_key_values=full).logits

    computed, fetched = fetch_or_compute(store, key, prefill), fetch_or_compute(store, key, never)
    assert fetched.nbytes == formulas.kv_cache_bytes(1, len(TOKENS), 2, 2, 16, 32)
    assert torch.equal(after(fetched.tensors), after(computed.tensors))
    with torch.no_grad():
        whole = model(torch.cat([tokens, following], dim=1)).logits[:, -1:]
    torch.testing.assert_close(after(fetched.tensors), whole)


# ---- the key


def test_every_part_counts_in_the_key():
    finger = model_fingerprint(ARCH, "fp16", "a checkpoint")
    keys = [
        prefix_key(TOKENS, finger, "static fp16"),
        prefix_key(TOKENS[:-1], finger, "static fp16"),
        prefix_key([*TOKENS, 0], finger, "static fp16"),
        prefix_key(TOKENS[::-1], finger, "static fp16"),
        prefix_key([TOKENS], finger, "static fp16"),
        prefix_key([TOKENS[:20], TOKENS[20:]], finger, "static fp16"),
        prefix_key([2**32 + TOKENS[0], *TOKENS[1:]], finger, "static fp16"),
        prefix_key(TOKENS, finger, "static bf16"),
        prefix_key(TOKENS, finger + "s", "tatic fp16"),
        prefix_key(TOKENS, model_fingerprint(ARCH, "int8", "a checkpoint"), "static fp16"),
        prefix_key(TOKENS, model_fingerprint(ARCH, "fp16", "another"), "static fp16"),
    ]
    assert len({key.digest for key in keys}) == len(keys)
    assert [key.tokens for key in keys[:6]] == [40, 39, 41, 40, 40, 20]


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(dsmem.Architecture)])
def test_every_field_of_the_architecture_counts(field):
    value = getattr(ARCH, field)
    changed = dataclasses.replace(ARCH)
    object.__setattr__(changed, field, "another" if isinstance(value, str | tuple | None) else value + 1)
    assert model_fingerprint(changed, "fp16", "a name") != model_fingerprint(ARCH, "fp16", "a name")


@pytest.mark.parametrize("kind", [np.int32, np.int64, torch.int16, torch.int64, tuple], ids=str)
def test_the_form_of_the_token_ids_does_not_matter(kind):
    ids = torch.tensor(TOKENS, dtype=kind) if isinstance(kind, torch.dtype) else TOKENS
    ids = np.array(TOKENS, dtype=kind) if kind in (np.int32, np.int64) else tuple(ids) if kind is tuple else ids
    assert prefix_key(ids, "a model", "static fp16") == KEY


def test_weights_are_hashed_to_the_last_byte():
    module = torch.nn.Linear(8, 8)
    before = model_fingerprint(ARCH, "fp32", module)
    assert model_fingerprint(ARCH, "fp32", dict(module.state_dict())) == before
    with torch.no_grad():
        module.weight[-1, -1].view(torch.int32).bitwise_xor_(1)
    assert model_fingerprint(ARCH, "fp32", module) != before


def test_names_formats_and_shapes_of_weights_count():
    ones = torch.zeros(4, 2)
    variants = [{"a": ones}, {"b": ones}, {"a": ones.view(2, 4)}, {"a": ones.int()}, {"a": ones, "b": ones[:0]}]
    assert len({model_fingerprint(ARCH, "fp32", tensors) for tensors in variants}) == len(variants)


# ---- what is refused


def spots(payload):
    """Positions over all of a payload: length field, header and its digest, first and last byte of the data."""
    header = struct.unpack("<Q", payload[:8])[0]
    inside = [payload.index(word.encode()) for word in (KEY.digest, "sha256", "float16", "keys", "shape", "dsmem")]
    return [0, 1, 7, 8, *inside, 8 + header - 1, 8 + header, 8 + header + 1, len(payload) // 2, len(payload) - 1]


def test_a_flipped_bit_is_refused_wherever_it_is(store):
    good = pack(KEY, cache())
    for spot in spots(good):
        for bit in (0, 4):
            bad = bytearray(good)
            bad[spot] ^= 1 << bit
            store.put(KEY, bytes(bad))
            result = fetch_or_compute(store, KEY, cache)
            assert (result.source, result.stored) == ("computed", True), (spot, bit)
            assert "refused" in result.reason
    assert same(fetch_or_compute(store, KEY, never).tensors, cache())


def test_no_bit_of_a_payload_can_change_unseen():
    good = pack(KEY, {"keys": torch.tensor([1.5, -2.0], dtype=torch.bfloat16), "values": torch.tensor([3])})
    for position in range(8 * len(good)):
        bad = bytearray(good)
        bad[position // 8] ^= 1 << position % 8
        with pytest.raises(Damaged):
            unpack(KEY, bytes(bad))


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 100, 5000, -1])
def test_a_truncated_payload_is_refused(store, length):
    store.put(KEY, pack(KEY, cache())[:length])
    result = fetch_or_compute(store, KEY, cache)
    assert result.source == "computed" and same(fetch_or_compute(store, KEY, never).tensors, cache())


def foreign(**changes):
    """A sound safetensors file with a header like ours but for the changes."""
    tensors = cache()
    header = json.loads(pack(KEY, tensors)[8 : 8 + struct.unpack("<Q", pack(KEY, tensors)[:8])[0]])["__metadata__"]
    return save(tensors, metadata={name: value for name, value in (header | changes).items() if value is not None})


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (b"GIF89a and so on", "no prefix cache can be read"),
        (b"\x80\x05}q\x00.", "no prefix cache can be read"),  # a pickle
        (struct.pack("<Q", 2**63) + b"{}", "no prefix cache can be read"),
        (struct.pack("<Q", 10**5) + b"[" * 10**5, "no prefix cache can be read"),
        (save(cache()), "no prefix cache can be read"),
        (save(cache(), metadata={"format": "pt"}), "format is 'pt'"),
        (foreign(format="dsmem prefix 0"), "format is 'dsmem prefix 0'"),
        (foreign(tokens="41"), "wrong about tokens"),
        (foreign(dtypes="bfloat16"), "wrong about dtypes"),
        (foreign(sha256="0" * 64), "wrong about sha256"),
        (foreign(sha256=None), "wrong about sha256"),
        (foreign(more="1"), "wrong about more"),
        (pack(OTHER, cache(seed=1)), "wrong about key"),
        (pack(KEY, cache()) + b"\0", "no prefix cache can be read"),
    ],
)
def test_a_foreign_payload_is_refused_by_name(store, payload, words):
    store.put(KEY, payload)
    with pytest.raises(Damaged, match=words):
        unpack(KEY, payload)
    result = fetch_or_compute(store, KEY, cache)
    assert result.source == "computed" and words in result.reason and "\n" not in result.reason


def test_the_payload_is_a_file_that_others_can_read(tmp_path):
    store = FileStore(tmp_path)
    fetch_or_compute(store, KEY, cache)
    assert same(load_file(store.path(KEY)), cache())
    with safe_open(store.path(KEY), framework="pt") as file:
        header = file.metadata()
    assert header.pop("sha256") and header == {
        "format": "dsmem prefix 1",
        "key": KEY.digest,
        "tokens": "40",
        "dtypes": "float16",
    }


def test_a_cache_renamed_to_another_key_is_refused(tmp_path):
    store = FileStore(tmp_path)
    store.put(OTHER, pack(OTHER, cache(seed=1)))
    store.path(OTHER).rename(store.path(KEY))
    assert "wrong about key" in fetch_or_compute(store, KEY, cache).reason


def test_what_cannot_be_a_key_or_a_cache_is_refused_in_a_sentence(refuses, tmp_path):
    store = FileStore(tmp_path)
    for ids in ([], [[]], [-1], [1.5], [True], ["a"], 5, [[[1]]], [[1, 2], [3]], [2**70], np.array([2**63], np.uint64)):
        refuses(lambda ids=ids: prefix_key(ids, "a", "b"), "token_ids", "(batch, tokens)")
    refuses(lambda: prefix_key(TOKENS, "", "b"), "fingerprint", "''")
    refuses(lambda: prefix_key(TOKENS, "a", None), "cache", "None")
    refuses(lambda: model_fingerprint("r1", "fp16", "a"), "arch", "str")
    refuses(lambda: model_fingerprint(ARCH, 16, "a"), "weights", "16")
    refuses(lambda: model_fingerprint(ARCH, "fp16", ""), "source", "''")
    refuses(lambda: model_fingerprint(ARCH, "fp16", {}), "source", "at least one tensor")
    refuses(lambda: Key("../../etc/passwd", 3), "digest", "passwd", "64")
    for wrong in (None, {}, {"a": [1]}, {1: torch.zeros(1)}, {"a": torch.zeros(1, device="meta")}):
        refuses(lambda wrong=wrong: fetch_or_compute(store, KEY, lambda: wrong), "compute", "must")
    with torch._subclasses.FakeTensorMode():
        fake = {"a": torch.zeros(1)}
    refuses(lambda: fetch_or_compute(store, KEY, lambda: fake), "FakeTensor", "real tensors")
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_compute_is_the_callers(store):
    with pytest.raises(ZeroDivisionError):
        fetch_or_compute(store, KEY, lambda: 1 / 0)
    assert store.get(KEY) is None


def test_a_format_that_the_file_cannot_hold_is_computed_and_said(tmp_path, monkeypatch):
    def cannot(tensors, metadata):
        raise KeyError("torch.quint4x2")

    monkeypatch.setattr("dsmem.serving.prefix.save", cannot)
    result = fetch_or_compute(FileStore(tmp_path), KEY, cache)
    assert (result.source, result.stored) == ("computed", False) and "quint4x2" in result.reason


class Broken:
    """A store that nothing can be read from; writing to it would be a mistake."""

    def get(self, key):
        raise StoreError("the line is dead")

    def put(self, key, payload):
        raise AssertionError("a store that is gone was waited for a second time")


def test_a_store_that_is_gone_is_asked_once():
    result = fetch_or_compute(Broken(), KEY, cache)
    assert (result.source, result.stored, result.reason) == ("computed", False, "the line is dead")


# ---- files


def test_a_file_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    store, seen = FileStore(tmp_path), []
    store.put(KEY, b"old")
    replace = os.replace

    def looking(source, target):
        seen.append((store.get(KEY), Path(source).read_bytes()))
        replace(source, target)

    monkeypatch.setattr(os, "replace", looking)
    store.put(KEY, b"new")
    assert seen == [(b"old", b"new")] and store.get(KEY) == b"new"
    assert list(tmp_path.iterdir()) == [store.path(KEY)]


def test_a_write_that_fails_leaves_the_old_file_and_no_rest(tmp_path, monkeypatch):
    def full(source, target):
        raise OSError(28, "No space left on device")

    store = FileStore(tmp_path)
    store.put(KEY, b"old")
    monkeypatch.setattr(os, "replace", full)
    result = fetch_or_compute(store, KEY, cache)
    assert (result.source, result.stored, result.payload_bytes) == ("computed", False, 0)
    assert "refused" in result.reason and "No space left" in result.reason
    assert store.get(KEY) == b"old" and list(tmp_path.iterdir()) == [store.path(KEY)]


def test_a_folder_that_is_none_is_said_and_computed(tmp_path):
    (tmp_path / "file").write_text("")
    result = fetch_or_compute(FileStore(tmp_path / "file"), KEY, cache)
    assert (result.source, result.stored) == ("computed", False) and "cannot be used" in result.reason


# ---- Redis


def unharmed(result, *words):
    """The cache is computed and right, nothing is stored, and the reason is one line with the words in it."""
    assert (result.source, result.stored) == ("computed", False) and same(result.tensors, cache())
    assert [word for word in ("Redis", *words) if word not in result.reason] == [], result.reason
    assert "\n" not in result.reason


def test_a_payload_longer_than_a_piece_is_cut(pieces):
    store, payload = RedisStore(pieces.url, piece_bytes=60_000), pack(KEY, cache())
    store.put(KEY, payload)
    names = sorted(name.decode().rpartition(KEY.digest)[2] for name in client(store).keys())
    assert names == ["", ":0", ":1", ":2"] and store.get(KEY) == payload
    assert pieces.get(KEY) == payload  # whoever reads need not know how it was cut


@pytest.mark.parametrize("piece", [0, 7, 16])
def test_a_missing_piece_is_computed_again(pieces, piece):
    fetch_or_compute(pieces, KEY, cache)
    assert client(pieces).delete(f"dsmem:prefix:{KEY.digest}:{piece}") == 1
    result = fetch_or_compute(pieces, KEY, cache)
    assert result.source == "computed" and result.stored and f"piece {piece + 1} of 17 is missing" in result.reason
    assert fetch_or_compute(pieces, KEY, never).source == "fetched"


@pytest.mark.parametrize(
    ("change", "words"),
    [(b"", "missing"), (b"short", "refused"), (b"x" * 10_001, "too long"), (b"x" * 4408, "refused")],
)
def test_a_changed_piece_is_computed_again(pieces, change, words):
    fetch_or_compute(pieces, KEY, cache)
    client(pieces).set(f"dsmem:prefix:{KEY.digest}:16", change)
    result = fetch_or_compute(pieces, KEY, cache)
    assert result.source == "computed" and words in result.reason


@pytest.mark.parametrize("label", [b"", b"17", b"17 x", b"-1 5", b"99999999999 5", b"0 0", b"\xff\xfe"])
def test_a_changed_label_is_computed_again(pieces, label):
    fetch_or_compute(pieces, KEY, cache)
    client(pieces).set(f"dsmem:prefix:{KEY.digest}", label)
    result = fetch_or_compute(pieces, KEY, cache)
    assert result.source == "computed" and "refused" in result.reason and result.stored


def test_a_writer_that_dies_on_the_way_leaves_nothing_that_looks_stored(server, monkeypatch):
    url, process = server()
    store = RedisStore(url, piece_bytes=10_000, timeout_s=5)
    fetch_or_compute(store, KEY, cache)
    import redis

    real, written = redis.Redis.set, []

    def dying(self, *args, **kwargs):
        written.append(args[0])
        if len(written) == 3:
            raise redis.ConnectionError("the line is cut")
        return real(self, *args, **kwargs)

    monkeypatch.setattr(redis.Redis, "set", dying)
    with pytest.raises(StoreError, match="the line is cut"):
        store.put(KEY, pack(KEY, cache(seed=1)))
    assert store.get(KEY) is None


def test_a_server_that_dies_between_two_pieces(server, monkeypatch):
    url, process = server()
    store = RedisStore(url, piece_bytes=10_000, timeout_s=5)
    fetch_or_compute(store, KEY, cache)
    import redis

    real, asked = redis.Redis.get, []

    def killing(self, name):
        asked.append(name)
        if len(asked) == 4:
            process.kill()
            process.wait()
        return real(self, name)

    monkeypatch.setattr(redis.Redis, "get", killing)
    unharmed(fetch_or_compute(store, KEY, cache), "cannot be used")
    assert len(asked) == 4


def test_a_server_that_hangs_is_waited_for_once(server):
    url, process = server()
    store = RedisStore(url, timeout_s=0.5)
    fetch_or_compute(store, KEY, cache)
    os.kill(process.pid, 19)  # SIGSTOP
    start = time.monotonic()
    unharmed(fetch_or_compute(store, KEY, cache), "Timeout")
    assert time.monotonic() - start < 3
    os.kill(process.pid, 18)  # SIGCONT
    assert fetch_or_compute(store, KEY, never).source == "fetched"


def test_a_full_server_says_so(server):
    url, _ = server("--maxmemory", "3mb", "--maxmemory-policy", "noeviction")
    tensors = cache(tokens=2000)
    result = fetch_or_compute(RedisStore(url), KEY, lambda: tensors)
    assert (result.source, result.stored) == ("computed", False) and "maxmemory" in result.reason


def test_a_server_forgets_what_it_was_to_keep_for_a_while(pieces):
    store = RedisStore(pieces.url, keep_s=100)
    fetch_or_compute(store, KEY, cache)
    times = [client(store).ttl(name) for name in client(store).keys()]
    assert len(times) == 2 and all(0 < seconds <= 100 for seconds in times)


def test_a_wrong_password_is_not_told(server):
    url, process = server()
    client(RedisStore(url)).config_set("requirepass", "right")
    result = fetch_or_compute(RedisStore(url.replace("//", "//:wrong@")), KEY, cache)
    unharmed(result, "Authentication")
    assert "wrong" not in result.reason.replace("wrong about", "")


def test_an_address_where_nobody_answers_costs_a_computation():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    store = RedisStore(f"redis://someone:secret@127.0.0.1:{port}/0", timeout_s=2)
    assert not store.answers()
    result = fetch_or_compute(store, KEY, cache)
    unharmed(result, f"127.0.0.1:{port}", "refused")
    assert "secret" not in result.reason


@pytest.mark.parametrize(
    "answer",
    [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x00\xff\xfe\x80\r\n", b":abc\r\n", b":5\r\n", b"*-7\r\n", b"$5\r\nab"]
    + [b"*1\r\n" * 2000, b"-ERR no\r\n", b"-\xff\xfe\r\n", b"+OK\r\n", b"$3\r\n1 5\r\n", b"x" * 100_000],
)
def test_a_server_that_is_not_redis_costs_a_computation(answer):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_answer, args=(listener, answer), daemon=True)
        thread.start()
        store = RedisStore(f"redis://127.0.0.1:{listener.getsockname()[1]}/0", timeout_s=0.3)
        assert not store.answers()
        result = fetch_or_compute(store, KEY, cache)
    assert (result.source, result.stored) == ("computed", False) and same(result.tensors, cache())
    assert "\n" not in result.reason and "Redis" in result.reason


def _answer(listener, answer):
    """Give the same answer to whatever is asked, connection after connection, until the listener is closed."""
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection:
            connection.settimeout(1)
            try:
                while connection.recv(65536):
                    connection.sendall(answer)
                    if not answer:
                        break
            except OSError:
                pass


def test_an_impossible_address_is_refused_in_a_sentence(refuses):
    refuses(lambda: RedisStore("http://a:secret@host"), "url", "'http://a:'", "redis://")
    refuses(lambda: RedisStore(piece_bytes=0), "piece_bytes", "0")
    refuses(lambda: RedisStore(piece_bytes=2**30), "piece_bytes", 2**29)
    unharmed(fetch_or_compute(RedisStore("redis://localhost:port"), KEY, cache), "Port")


def test_without_the_package_redis_the_cache_is_computed(monkeypatch):
    monkeypatch.setitem(sys.modules, "redis", None)
    unharmed(fetch_or_compute(RedisStore(), KEY, cache), "ModuleNotFoundError")
    assert not RedisStore().answers()
