"""Where stored prefixes lie: a folder of files, or a Redis server. Two methods, `get` and `put`: bytes out, bytes in.

A store says what went wrong in one sentence, as a `StoreError`. It promises nothing about the bytes: whoever reads them
checks them (`prefix.unpack`). Left out: clusters of servers, a limit to what a folder holds, and clearing away
pieces that a writer with another `piece_bytes` left under the same key.
"""

import contextlib
import os
import re
import tempfile
from pathlib import Path

MAX_PIECE_BYTES = 512 * 2**20
"""The longest value that Redis takes, unless its server is told otherwise (`proto-max-bulk-len`)."""

_SCHEMES = ("redis://", "rediss://", "unix://")


class StoreError(Exception):
    """A store could not be used; the message is one sentence that says why."""


class Damaged(StoreError):
    """What a store holds under a key is refused: damaged, incomplete, or of another prefix."""


class FileStore:
    """Payloads as `DIGEST.safetensors` in a folder, which is made when it is first needed."""

    def __init__(self, folder):
        self.folder = Path(folder)

    def path(self, key):
        """Where the payload of `key` lies, or would lie."""
        return self.folder / f"{key.digest}.safetensors"

    def get(self, key):
        """The payload stored under `key`, or None. Raises `StoreError`."""
        with _failing(f"folder {self.folder}", OSError):
            try:
                return self.path(key).read_bytes()
            except FileNotFoundError:
                return None

    def put(self, key, payload):
        """Store `payload` under `key`, whole or not at all. Raises `StoreError`."""
        with _failing(f"folder {self.folder}", OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            # under another name first, so that nobody ever reads half a file
            descriptor, unfinished = tempfile.mkstemp(dir=self.folder, suffix=".unfinished")
            try:
                with open(descriptor, "wb") as file:
                    file.write(payload)
                os.replace(unfinished, self.path(key))
            except BaseException:
                Path(unfinished).unlink(missing_ok=True)
                raise


class RedisStore:
    """Payloads in a Redis server, in pieces, since one value has a longest length. Needs the package `redis`.

    url: "redis://[[user]:password@]host[:port][/database]", also "rediss://" (encrypted) and "unix://path". timeout_s:
    the longest wait for a connection, or for the next bytes. piece_bytes: the longest value; each costs
    a round trip, and redis-py reads values of many MiB several times slower than those of one. keep_s: seconds after
    which the server forgets a payload; left out, it never does by itself. Raises ValueError for an impossible argument;
    that no server is there is no error before it is asked.
    """

    def __init__(self, url="redis://localhost:6379/0", timeout_s=5.0, piece_bytes=2**20, keep_s=None):
        if not url.startswith(_SCHEMES):
            raise ValueError(f"url begins with {url[:9]!r}, which no Redis server has; allowed: {', '.join(_SCHEMES)}")
        if not 1 <= piece_bytes <= MAX_PIECE_BYTES:
            raise ValueError(f"piece_bytes={piece_bytes!r} is out of range; allowed: 1 to {MAX_PIECE_BYTES}")
        self.url, self.timeout_s, self.piece_bytes, self.keep_s = url, timeout_s, piece_bytes, keep_s

    def answers(self):
        """Whether a Redis server answers at this address now."""
        with contextlib.suppress(StoreError), self._client() as client:
            return client.ping() is True
        return False

    def get(self, key):
        """The payload stored under `key`, or None. Raises `Damaged` if pieces are missing, and `StoreError`."""
        with self._client() as client:
            label = client.get(_name(key))
            if label is None:
                return None
            count, nbytes = _read_label(label)
            pieces, room = [], nbytes
            for index in range(count):
                pieces.append(client.get(_name(key, index)))
                room -= len(pieces[-1] or b"")
                if not pieces[-1] or room < 0:
                    raise Damaged(f"piece {index + 1} of {count} is {'too long' if pieces[-1] else 'missing'}")
        return b"".join(pieces)

    def put(self, key, payload):
        """Store `payload` under `key`; what was there before goes first. Raises `StoreError`."""
        starts = range(0, len(payload), self.piece_bytes)
        with self._client() as client:
            done = [isinstance(client.delete(_name(key)), int)]
            for index, start in enumerate(starts):
                piece = payload[start : start + self.piece_bytes]
                done.append(client.set(_name(key, index), piece, ex=self.keep_s) is True)
            # last, so that a writer that dies on the way leaves nothing that looks stored
            done.append(client.set(_name(key), f"{len(starts)} {len(payload)}", ex=self.keep_s) is True)
            if not all(done):
                raise ValueError("its answers are not those of Redis")

    @contextlib.contextmanager
    def _client(self):
        where = self.url.partition("?")[0].rpartition("@")[2]  # without a password
        # whatever answers there need not be Redis, and can make the client raise anything
        with _failing(f"the Redis server at {where}", Exception):
            import redis
            from redis.backoff import NoBackoff
            from redis.retry import Retry

            once = {"protocol": 2, "retry": Retry(NoBackoff(), 0)}
            waits = {"socket_timeout": self.timeout_s, "socket_connect_timeout": self.timeout_s}
            with redis.Redis.from_url(self.url, **once, **waits) as client:
                yield client


def _name(key, index=None):
    return f"dsmem:prefix:{key.digest}" + ("" if index is None else f":{index}")


def _read_label(label):
    match = re.fullmatch(rb"(\d{1,9}) (\d{1,15})", label) if isinstance(label, bytes) else None
    if not match:
        raise Damaged("its label is none of ours")
    return int(match[1]), int(match[2])


@contextlib.contextmanager
def _failing(what, errors):
    """Turn `errors` into a `StoreError` of one sentence about `what`."""
    try:
        yield
    except StoreError:
        raise
    except errors as error:
        raise StoreError(f"{what} cannot be used ({type(error).__name__}: {one_line(error)})") from None


def one_line(error):
    """An error's text as part of a sentence.

    >>> one_line(OSError("Error 111. Connection refused."))
    'Error 111, connection refused'
    """
    text = " ".join(str(error).split()).rstrip(".")
    return re.sub(r"[.!?]\s+(\w)", lambda match: ", " + match[1].lower(), text)
