"""Where stored prefixes lie: a folder of files, or a Redis server. Each has `get` and `put`: bytes out, bytes in.

A store raises whatever goes wrong and does not check the bytes: `prefix.fetch_or_compute` deals with both. Not here:
clusters of servers, and a limit to what a folder holds.
"""

import uuid
from pathlib import Path

PIECE_BYTES = 2**20
"""The longest value sent to Redis, which takes no more than 512 MiB in one. Longer ones were no quicker to read."""


class FileStore:
    """Payloads as `KEY.safetensors` in a folder.

    folder: a path; it is made when the first payload is stored.

    >>> FileStore("prefixes").path("abc").name
    'abc.safetensors'
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)

    def __str__(self):
        return f"the folder {self.folder}"

    def path(self, key: str) -> Path:
        """Where the payload of `key` lies, or would lie."""
        return self.folder / f"{key}.safetensors"

    def get(self, key: str) -> bytes | None:
        """The payload stored under `key`, or None. Raises OSError."""
        try:
            return self.path(key).read_bytes()
        except FileNotFoundError:
            return None

    def put(self, key: str, payload: bytes) -> None:
        """Store `payload` under `key`, whole or not at all. Raises OSError."""
        self.folder.mkdir(parents=True, exist_ok=True)
        # under another name first, so that nobody ever reads half a file
        unfinished = self.folder / f"{uuid.uuid4().hex}.unfinished"
        try:
            unfinished.write_bytes(payload)
            unfinished.replace(self.path(key))
        finally:
            unfinished.unlink(missing_ok=True)


class RedisStore:
    """Payloads in a Redis server, each a list of pieces. Needs the package `redis`, and connects when first used.

    url: "redis://[[user]:password@]host[:port][/database]", also "rediss://" (encrypted) and "unix://path".
    timeout_s: the longest wait in seconds, for a connection or for the next bytes. keep_s: whole seconds after which
    the server forgets a payload; None means never.
    """

    def __init__(self, url: str = "redis://localhost:6379/0", timeout_s: float = 5.0, keep_s: int | None = None):
        self.url, self.timeout_s, self.keep_s = url, timeout_s, keep_s

    def __str__(self):
        return f"the Redis server at {self.url.partition('?')[0].rpartition('@')[2]}"  # without a password

    def answers(self) -> bool:
        """Whether a Redis server answers at this address now."""
        try:
            with self._client() as client:
                return client.ping() is True
        except Exception:  # whatever answers there need not be Redis, and can make the client raise anything
            return False

    def get(self, key: str) -> bytes | None:
        """The payload stored under `key`, or None. Raises what redis-py raises."""
        name, payload = f"dsmem:prefix:{key}", bytearray()
        with self._client() as client:
            for index in range(client.llen(name)):
                payload += client.lindex(name, index)
        return bytes(payload) or None

    def put(self, key: str, payload: bytes) -> None:
        """Store `payload` under `key`, whole or not at all. Raises what redis-py raises."""
        name, unfinished = f"dsmem:prefix:{key}", f"dsmem:prefix:{key}:{uuid.uuid4().hex}"
        with self._client() as client:
            for start in range(0, len(payload), PIECE_BYTES):
                client.rpush(unfinished, payload[start : start + PIECE_BYTES])
                client.expire(unfinished, 60)  # so that a writer that fails leaves nothing for long
            client.rename(unfinished, name)
            client.persist(name) if self.keep_s is None else client.expire(name, self.keep_s)

    def _client(self):
        import redis

        return redis.Redis.from_url(self.url, socket_timeout=self.timeout_s, socket_connect_timeout=self.timeout_s)
