"""A stored prefix comes back to the bit or not at all; a store that fails costs a computation and nothing else."""

import dataclasses
import importlib.util
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save

import dsmem
from dsmem import formulas
from dsmem.serving.prefix import Damaged, fetch_or_compute, from_payload, model_fingerprint, prefix_key, to_payload
from dsmem.serving.stores import FileStore, RedisStore

ARCH = dsmem.Architecture.from_config("deepseek-r1-distill-qwen-7b").scaled(num_hidden_layers=2)
TOKENS = list(range(40))
KEY, OTHER = (prefix_key([*TOKENS[:-1], last], "a model", "static fp16") for last in (39, 99))
SMALL = {"keys": torch.tensor([1.5, -2.0], dtype=torch.bfloat16), "values": torch.tensor([3])}


def cache(dtype=torch.float16, tokens=40, seed=0):
    """Keys and values of every layer, of any bits, so that some patterns are not numbers."""
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
        (x.dtype, x.shape) == (other[name].dtype, other[name].shape)
        and torch.equal(x.contiguous().view(-1).view(torch.uint8), other[name].reshape(-1).view(torch.uint8))
        for name, x in one.items()
    )


def never():
    raise AssertionError("this was to be fetched, and is computed")


def unharmed(result, *words, stored=False):
    """The cache is computed and right, and the reason is one line with the words in it."""
    assert (result.source, result.stored) == ("computed", stored) and same(result.tensors, cache())
    assert [word for word in words if word not in result.reason] == [] and "\n" not in result.reason, result.reason


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
def shared_url(server):
    return server()[0]


@pytest.fixture
def pieces(shared_url, monkeypatch):
    """An empty Redis store that cuts a payload of `cache()` into 17 pieces."""
    monkeypatch.setattr("dsmem.serving.stores.PIECE_BYTES", 10_000)
    client(shared_url).flushall()
    return RedisStore(shared_url, timeout_s=2)


@pytest.fixture(params=["file", "redis"])
def store(request, tmp_path):
    """Each kind of store, empty."""
    return FileStore(tmp_path / "made" / "later") if request.param == "file" else request.getfixturevalue("pieces")


def client(url):
    import redis

    return redis.Redis.from_url(url)


# ---- what comes back


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int8", "float8_e4m3fn", "float8_e5m2"])
def test_a_cache_comes_back_to_the_bit(store, dtype):
    dtype = getattr(torch, dtype)
    computed = fetch_or_compute(store, KEY, lambda: cache(dtype))
    fetched = fetch_or_compute(store, KEY, never)
    assert (computed.source, fetched.source, computed.stored, fetched.stored) == ("computed", "fetched", True, True)
    assert same(fetched.tensors, cache(dtype)) and fetched.nbytes == computed.nbytes
    assert fetch_or_compute(store, OTHER, lambda: cache(dtype, seed=1)).source == "computed"
    assert same(fetch_or_compute(store, KEY, never).tensors, cache(dtype))


def test_views_of_one_buffer_scalars_and_empty_tensors_are_stored_alike(store):
    buffer = torch.arange(24.0).view(2, 12)
    tensors = {"a": buffer[:, :5], "b": buffer[:, 3:9], "c": buffer.t(), "all": buffer, "none": buffer[:0]}
    tensors["step"] = torch.tensor(7)
    fetch_or_compute(store, KEY, lambda: tensors | {"bits": torch.nn.Parameter(buffer)})
    fetched = fetch_or_compute(store, KEY, never).tensors
    assert same(fetched, tensors | {"bits": buffer})
    assert fetched["a"].untyped_storage().nbytes() == 2 * 5 * 4  # what is stored is the view, not its whole buffer


def test_bytes_are_those_of_the_formula_and_seconds_those_of_the_work(tmp_path):
    store = FileStore(tmp_path)
    result = fetch_or_compute(store, KEY, lambda: time.sleep(0.2) or cache())
    assert result.nbytes == formulas.kv_cache_bytes(1, len(TOKENS), 2, ARCH.num_key_value_heads, ARCH.head_dim, 16)
    assert result.nbytes < store.path(KEY).stat().st_size < result.nbytes + 2000
    assert str(result).startswith("computed 160.00 KiB in 0.2") and "nothing is stored" in str(result)
    fetched = fetch_or_compute(store, KEY, never)
    assert str(fetched).startswith("fetched 160.00 KiB in ") and 0 < fetched.seconds < 0.2
    assert same(load_file(store.path(KEY)), cache())  # the file is one that others can read


@torch.no_grad()
def test_a_pass_goes_on_from_a_fetched_cache_as_from_its_own(store):
    arch = ARCH.scaled(hidden_size=64, head_dim=16, num_attention_heads=4, num_key_value_heads=2, intermediate_size=96)
    model = dsmem.build_model(arch.scaled(vocab_size=101), "fp32", "cpu")
    tokens, own, fetched = torch.tensor([TOKENS]), model.new_cache(1, 41), model.new_cache(1, 41)
    key = prefix_key(tokens, model_fingerprint(model.arch, "fp32", model), "growing fp32")
    model(tokens, cache=own)
    fetch_or_compute(store, key, own.tensors)
    fetched.load(fetch_or_compute(store, key, never).tensors)
    assert torch.equal(model(tokens[:, :1], cache=fetched), model(tokens[:, :1], cache=own))


# ---- the key


def test_every_part_counts_in_the_key():
    finger = model_fingerprint(ARCH, "fp16", "a checkpoint")
    others = (model_fingerprint(ARCH, "int8", "a checkpoint"), model_fingerprint(ARCH, "fp16", "another"), finger + "s")
    prefixes = (TOKENS, TOKENS[:-1], [*TOKENS, 0], TOKENS[::-1], [TOKENS], [TOKENS[:20], TOKENS[20:]], [2**32, *TOKENS])
    keys = {prefix_key(tokens, finger, "static fp16") for tokens in prefixes}
    keys |= {prefix_key(TOKENS, other, "tatic fp16") for other in others} | {prefix_key(TOKENS, finger, "static bf16")}
    assert len(keys) == len(prefixes) + len(others) + 1 and {len(key) for key in keys} == {64}
    for ids in (tuple(TOKENS), np.array(TOKENS, "int32"), np.array(TOKENS, "uint64"), torch.tensor(TOKENS).short()):
        assert prefix_key(ids, "a model", "static fp16") == KEY  # in whatever form they come


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(dsmem.Architecture)])
def test_every_field_of_the_architecture_counts(field):
    value, changed = getattr(ARCH, field), dataclasses.replace(ARCH)
    object.__setattr__(changed, field, "another" if isinstance(value, str | tuple | None) else value + 1)
    assert model_fingerprint(changed, "fp16", "a name") != model_fingerprint(ARCH, "fp16", "a name")


def test_every_bit_name_format_and_shape_of_the_weights_counts():
    module, zeros = torch.nn.Linear(8, 8), torch.zeros(4, 2)
    before = model_fingerprint(ARCH, "fp32", module)
    assert model_fingerprint(ARCH, "fp32", dict(module.state_dict())) == before
    with torch.no_grad():
        module.weight[-1, -1].view(torch.int32).bitwise_xor_(1)
    assert model_fingerprint(ARCH, "fp32", module) != before
    variants = [{"a": zeros}, {"b": zeros}, {"a": zeros.view(2, 4)}, {"a": zeros.int()}, {"a": zeros, "b": zeros[:0]}]
    assert len({model_fingerprint(ARCH, "fp32", tensors) for tensors in variants}) == len(variants)


# ---- what is refused


def test_no_bit_of_a_payload_can_change_or_be_missing_unseen():
    good = to_payload(KEY, SMALL)
    assert same(from_payload(KEY, good), SMALL)
    changed = (bytes([*good[:i], good[i] ^ 1 << bit, *good[i + 1 :]]) for i in range(len(good)) for bit in range(8))
    for bad in (*changed, *(good[:length] for length in range(len(good))), good + b"\0"):
        with pytest.raises(Damaged):
            from_payload(KEY, bad)


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (b"GIF89a and so on", "no prefix cache can be read"),
        (b"\x80\x05}q\x00.", "no prefix cache can be read"),  # a pickle
        (struct.pack("<Q", 2**63) + b"{}", "no prefix cache can be read"),
        (struct.pack("<Q", 10**5) + b"[" * 10**5, "no prefix cache can be read"),
        (save(SMALL), "no prefix cache can be read"),
        (save(SMALL, metadata={"format": "pt"}), "another key"),
        (save(SMALL, metadata={"key": KEY}), "another sha256"),
        (save(SMALL, metadata={"key": KEY, "sha256": "0" * 64}), "another sha256"),
        (to_payload(OTHER, cache()), "another key"),
        (to_payload(KEY, cache())[:-1], "no prefix cache can be read"),
    ],
)
def test_a_foreign_payload_is_refused_by_name_and_replaced(store, payload, words):
    store.put(KEY, payload)
    unharmed(fetch_or_compute(store, KEY, cache), "refused", words, stored=True)
    assert same(fetch_or_compute(store, KEY, never).tensors, cache())


def test_what_cannot_be_a_key_or_a_cache_is_refused_in_a_sentence(refuses, tmp_path):
    for ids in ([], [[]], [-1], [1.5], [True], ["a"], 5, [[[1]]], [[1, 2], [3]], [2**70], torch.zeros(1).bfloat16()):
        refuses(lambda ids=ids: prefix_key(ids, "a", "b"), "token_ids", "(batch, tokens)")
    refuses(lambda: prefix_key(TOKENS, "", "b"), "fingerprint", "''")
    refuses(lambda: prefix_key(TOKENS, "a", None), "cache", "None")
    refuses(lambda: model_fingerprint("r1", "fp16", "a"), "arch", "str")
    refuses(lambda: model_fingerprint(ARCH, 16, "a"), "weights", "16")
    refuses(lambda: model_fingerprint(ARCH, "fp16", ""), "source", "''")
    refuses(lambda: model_fingerprint(ARCH, "fp16", {}), "source", "at least one tensor")
    with torch._subclasses.FakeTensorMode():
        fake = {"a": torch.zeros(1)}
    for wrong in (None, {}, {"a": [1]}, {1: torch.zeros(1)}, {"a": torch.zeros(1, device="meta")}, fake):
        refuses(lambda wrong=wrong: fetch_or_compute(FileStore(tmp_path), KEY, lambda: wrong), "compute", "must")
    with pytest.raises(ZeroDivisionError):  # an error of compute is the caller's
        fetch_or_compute(FileStore(tmp_path), KEY, lambda: 1 / 0)
    assert list(tmp_path.iterdir()) == []


# ---- a store that fails


def test_any_error_of_a_store_is_one_line_and_it_is_not_asked_again(store, monkeypatch):
    class Broken:
        def get(self, key):
            raise RuntimeError("The line\nis dead. Try later.")

    result = fetch_or_compute(Broken(), KEY, cache)
    unharmed(result)
    assert result.reason.endswith("cannot be used (RuntimeError: The line is dead, try later)")
    monkeypatch.setattr("dsmem.serving.prefix.save", lambda tensors, metadata: {}["quint4x2"])
    unharmed(fetch_or_compute(store, KEY, cache), "nothing is stored", "not stored", "quint4x2")


def test_a_file_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    store, seen = FileStore(tmp_path), []
    store.put(KEY, b"old")

    def full(source, target):
        seen.append((from_payload(KEY, source.read_bytes()), store.get(KEY)))
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.replace", full)
        unharmed(fetch_or_compute(store, KEY, cache), "refused", "not stored", "No space left")
    assert len(seen) == 1 and same(seen[0][0], cache()) and seen[0][1] == b"old"
    assert store.get(KEY) == b"old" and list(tmp_path.iterdir()) == [store.path(KEY)]
    unharmed(fetch_or_compute(store, KEY, cache), "refused", stored=True)
    assert list(tmp_path.iterdir()) == [store.path(KEY)]
    unharmed(fetch_or_compute(FileStore(store.path(KEY)), KEY, cache), "the folder", "cannot be used")


def test_a_payload_in_redis_is_cut_in_pieces_and_each_one_counts(pieces):
    fetch_or_compute(pieces, KEY, cache)
    name = f"dsmem:prefix:{KEY}"
    assert client(pieces.url).llen(name) == 17 and client(pieces.url).ttl(name) == -1
    for piece in (0, 7, 16):
        for damage in (b"", b"short", b"x" * 10_001):
            client(pieces.url).lset(name, piece, damage)
            unharmed(fetch_or_compute(pieces, KEY, cache), "refused", stored=True)
    client(pieces.url).rpop(name)
    unharmed(fetch_or_compute(pieces, KEY, cache), "refused", stored=True)
    assert fetch_or_compute(pieces, KEY, never).source == "fetched"
    RedisStore(pieces.url, keep_s=1000).put(KEY, b"another")
    assert 900 < client(pieces.url).ttl(name) <= 1000


@pytest.mark.parametrize("command", ["lindex", "rpush", "rename"])
def test_a_line_that_is_cut_on_the_way_leaves_nothing_that_looks_stored(pieces, monkeypatch, command):
    import redis

    old, real, calls = to_payload(OTHER, cache()), getattr(redis.Redis, command), []
    pieces.put(KEY, old)

    def dying(self, *args):
        calls.append(args)
        if len(calls) == (1 if command == "rename" else 3):
            raise redis.ConnectionError("the line is cut")
        return real(self, *args)

    monkeypatch.setattr(redis.Redis, command, dying)
    unharmed(fetch_or_compute(pieces, KEY, cache), "the Redis server", "the line is cut")
    monkeypatch.undo()
    rest = [client(pieces.url).ttl(name) for name in client(pieces.url).keys() if not name.endswith(KEY.encode())]
    assert pieces.get(KEY) == old and all(0 < seconds <= 60 for seconds in rest)


def test_a_server_that_hangs_or_dies_is_waited_for_once(server):
    url, process = server()
    store = RedisStore(url, timeout_s=0.5)
    fetch_or_compute(store, KEY, cache)
    os.kill(process.pid, signal.SIGSTOP)
    start = time.monotonic()
    unharmed(fetch_or_compute(store, KEY, cache), "Timeout")
    assert time.monotonic() - start < 1
    os.kill(process.pid, signal.SIGCONT)
    assert fetch_or_compute(store, KEY, never).source == "fetched"
    process.kill()
    process.wait()
    store = RedisStore(url.replace("//", "//someone:secret@"))
    result = fetch_or_compute(store, KEY, cache)
    unharmed(result, url.removeprefix("redis://"), "refused")
    assert "secret" not in result.reason and not store.answers()


def test_a_full_server_and_a_wrong_password_are_said(server):
    url, _ = server("--maxmemory", "3mb", "--maxmemory-policy", "noeviction")
    result = fetch_or_compute(RedisStore(url), KEY, lambda: cache(tokens=2000))
    assert not result.stored and "maxmemory" in result.reason
    client(url).config_set("requirepass", "right")
    result = fetch_or_compute(RedisStore(url.replace("//", "//:wrong@")), KEY, cache)
    unharmed(result, "Authentication")
    assert "wrong@" not in result.reason


@pytest.mark.parametrize(
    "answer",
    [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x00\xff\xfe\x80\r\n", b":5\r\n", b":999999999\r\n", b"*-7\r\n"]
    + [b"*1\r\n" * 2000, b"-ERR no\r\n", b"-\xff\xfe\r\n", b"+OK\r\n", b"$3\r\n1 5\r\n", b"$5\r\nab", b"x" * 100_000],
)
def test_a_server_that_is_not_redis_costs_a_computation(answer):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=give_always, args=(listener, answer), daemon=True).start()
        store = RedisStore(f"redis://127.0.0.1:{listener.getsockname()[1]}/0", timeout_s=0.3)
        assert not store.answers()
        unharmed(fetch_or_compute(store, KEY, cache), "Redis")


def give_always(listener, answer):
    """Give the same answer to whatever is asked, connection after connection, until the listener is closed."""
    while True:
        try:
            with listener.accept()[0] as connection:
                connection.settimeout(1)
                while connection.recv(65536) and answer:
                    connection.sendall(answer)
        except OSError:
            if listener.fileno() < 0:
                return


def test_a_wrong_address_or_a_missing_package_costs_a_computation(monkeypatch):
    for url, words in (("http://a:secret@host", "scheme"), ("redis://localhost:port", "Port")):
        result = fetch_or_compute(RedisStore(url), KEY, cache)
        unharmed(result, "the Redis server at", words)
        assert "secret" not in result.reason
    monkeypatch.setitem(sys.modules, "redis", None)
    unharmed(fetch_or_compute(RedisStore(), KEY, cache), "ModuleNotFoundError")
    assert not RedisStore().answers()
