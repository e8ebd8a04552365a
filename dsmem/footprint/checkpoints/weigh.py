"""Weigh a checkpoint by its headers: the bytes of every tensor, by format and by part, and nothing loaded."""

import functools
from collections import Counter
from pathlib import Path

from dsmem.config.quantization import packed_bits
from dsmem.footprint.checkpoints.files import CONFIG, Files, find_files, has_files
from dsmem.footprint.checkpoints.names import numbers_in, part_of
from dsmem.footprint.checkpoints.predicted import predict
from dsmem.table import Table
from dsmem.units import format_bytes, whole_number

CLAIM = "bytes as stored, by the headers; nothing is claimed beyond: no cache, no activations, no copies of a kernel"


def checkpoint(path: str | Path) -> "Checkpoint":
    """The `Checkpoint` at `path`, weighed by its headers; no tensor is loaded, and torch is not needed.

    path: a folder with safetensors or GGUF files, one such file, or a `model.safetensors.index.json` (alone it says a
    total and names). Of a GGUF file in several parts, any part stands for all; GGUF needs the package `gguf`. Of a
    `config.json`, or a folder with nothing else, what its files would hold is predicted, and said to be: see `predict`.
    Raises ValueError, one sentence, for what is missing, damaged, cut short, or stored twice.

    >>> from dsmem.config.source import DATA
    >>> checkpoint(DATA / "small-r1")
    <Checkpoint small-r1: 1,368,576 parameters in 2,737,248 bytes of tensors (2.61 MiB)>
    """
    where = Path(path) if isinstance(path, str | Path) else None
    if where and where.is_dir() and (where / CONFIG).is_file() and not has_files(where):
        where = where / CONFIG
    return Checkpoint(predict(where) if where and where.is_file() and where.name == CONFIG else find_files(path))


class Checkpoint:
    """What the headers of a checkpoint's files say.

    tensors: every `StoredTensor`, as stored. total_bytes: of all of them; header_bytes: what the files hold beside
    (headers and padding); file_bytes: both. n_params: numbers of the model, packed ones unpacked, without scales,
    tables and buffers; None where a packed format's bits are not known. notes: what is odd or not known, in words.
    predicted: whether all this was read from a config instead.
    """

    def __init__(self, files: Files):
        self.path, self.name, self.notes = files.path, files.path.resolve().name, list(files.notes)
        self.tensors, self.config = files.tensors, files.config
        self.predicted = files.predicted
        self.total_bytes, self.file_bytes = files.total_bytes, files.file_bytes
        self.header_bytes = None if self.file_bytes is None else self.file_bytes - self.total_bytes
        if self.n_params is None and self.tensors:
            self.notes.append("parameters are not known, for no quantization_config says the bits of what is packed")

    @functools.cached_property
    def _numbers(self):
        beside, bits = {tensor.name: tensor.element for tensor in self.tensors}, packed_bits(self.config)
        return [numbers_in(tensor, beside, bits) for tensor in self.tensors]

    @functools.cached_property
    def n_params(self) -> int | None:
        """Numbers of the model that are stored, or None where that is not known."""
        counts = [count for count, _ in self._numbers]
        return sum(counts) if counts and None not in counts else None

    @functools.cached_property
    def by_format(self) -> dict[str, int]:
        """{format: bytes}, the largest first: "bf16", "q4_K", "int4 in int32", as the files store them."""
        return _sums((what, t.nbytes) for t, (_, what) in zip(self.tensors, self._numbers, strict=True))

    @functools.cached_property
    def by_part(self) -> dict[str, int]:
        """{part of the model: bytes}, the largest first, by the tensors' names: see `names.PARTS`."""
        layers = self.config.get("num_hidden_layers")
        return _sums((part_of(t.name, layers), t.nbytes) for t in self.tensors)

    def largest(self, most: int = 10) -> Table:
        """The largest tensors as a `Table`: name, shape, format and bytes."""
        whole_number("most", most)
        found = sorted(self.tensors, key=lambda tensor: -tensor.nbytes)[:most]
        columns = {"tensor": None, "shape": None, "format": None, "bytes": ",", "size": format_bytes}
        rows = [(t.name, " × ".join(f"{n:,}" for n in t.shape), t.element, t.nbytes, t.nbytes) for t in found]
        return Table(columns, rows, f"the {len(rows)} largest of {len(self.tensors):,} tensors in {self.name}")

    def table(self) -> Table:
        """The bytes as a `Table`: by part, by format, then all, header and files."""
        rows = [("part", part, nbytes) for part, nbytes in self.by_part.items()]
        rows += [("format", what, nbytes) for what, nbytes in self.by_format.items()]
        rows += [("", "all tensors", self.total_bytes)]
        rows = [(by, what, n, n, n / self.total_bytes if self.total_bytes else None) for by, what, n in rows]
        beside = {"headers and padding": self.header_bytes, "files": self.file_bytes}
        rows += [("", what, nbytes, nbytes, None) for what, nbytes in beside.items()]
        columns = {"by": None, "what": None, "bytes": ",", "size": format_bytes, "share": ".1%"}
        return Table(columns, rows, "\n".join([str(self), *self.notes, *[CLAIM] * (not self.predicted)]))

    def __str__(self) -> str:
        params = "" if self.n_params is None else f"{self.n_params:,} parameters in "
        if self.total_bytes is None:
            return f"{self.name}: {params}bytes that are not known"
        how = "predicted from its config, " if self.predicted else ""
        return f"{self.name}: {params}{self.total_bytes:,} bytes of tensors ({how}{format_bytes(self.total_bytes)})"

    def __repr__(self) -> str:
        return f"<Checkpoint {self}>"

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()


def _sums(pairs):
    sums = Counter()
    for name, nbytes in pairs:
        sums[name] += nbytes
    return dict(sums.most_common())
