"""The files of a checkpoint: which belong together, which are missing, and what their headers say."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

from dsmem.config.source import load
from dsmem.footprint.checkpoints.headers import StoredTensor, gguf_header, safetensors_header

INDEX, CONFIG = "model.safetensors.index.json", "config.json"
_PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")
_PICKLES = (".bin", ".pt", ".pth")


@dataclasses.dataclass
class Files:
    """The tensors of a checkpoint's files, and what was found on the way to them.

    tensors: empty for an index alone. names: of all tensors. total_bytes: of the tensors, None where no file says it.
    file_bytes: None without files. config: the `config.json` beside them, {} without one. notes: oddities, in words.
    predicted: whether a config says so, and no file.
    """

    path: Path
    tensors: list[StoredTensor]
    names: list[str]
    total_bytes: int | None
    file_bytes: int | None
    config: dict[str, Any]
    notes: list[str]
    predicted: bool = False


def find_files(path: str | Path) -> Files:
    """The `Files` of the checkpoint at `path`: a folder, a file, or an index. Raises ValueError, in one sentence."""
    if not isinstance(path, str | Path):
        raise ValueError(f"path={path!r} is not a path; it must be one of a folder, a file or an index")
    path = Path(path)
    if path.is_dir():
        return _folder(path)
    if not path.is_file():
        raise ValueError(
            f"path={str(path)!r} is not there; it must be a folder, a safetensors or GGUF file, or an index"
        )
    if path.name.endswith(".index.json"):
        return _index(path)
    if path.suffix == ".safetensors":
        return _weighed(path, [path])
    if path.suffix == ".gguf":
        return _weighed(path, _gguf_parts(path))
    raise ValueError(
        f"path={str(path)!r} is a kind of file whose header is not read; allowed: .safetensors, .gguf, .index.json, or "
        "their folder, or a config.json"
    )


def has_files(path: Path) -> bool:
    """Whether a folder holds files of tensors, of any kind, or an index of them."""
    return any(file.suffix in (".safetensors", ".gguf", *_PICKLES) or file.name == INDEX for file in path.iterdir())


def _folder(path):
    if (path / INDEX).is_file():
        return dataclasses.replace(_index(path / INDEX), path=path)
    tensors, ggufs = sorted(path.glob("*.safetensors")), sorted(path.glob("*.gguf"))
    if tensors:
        return _weighed(path, tensors)
    if ggufs:
        parts = _gguf_parts(ggufs[0])
        if len(parts) < len(ggufs):
            names = ", ".join(file.name for file in ggufs)
            raise ValueError(f"path={str(path)!r} holds more than one GGUF model; give one of its files: {names}")
        return _weighed(path, parts)
    pickles = next((file.name for file in sorted(path.iterdir()) if file.suffix in _PICKLES), None)
    what = f"only pickled tensors ({pickles}), which cannot be weighed unread" if pickles else "no tensors"
    raise ValueError(f"path={str(path)!r} holds {what}; it must hold safetensors or GGUF files, or an index of them")


def _index(path):
    """What an index says, and the files it names; without any of them, what it says alone."""
    _, index = load(path)
    files, said = index.get("weight_map"), (index.get("metadata") or {}).get("total_size")
    if not isinstance(files, dict) or not all(isinstance(file, str) for file in files.values()):
        raise ValueError(f"path={str(path)!r} has no weight_map; it must be the index of a checkpoint's files")
    said = int(said) if isinstance(said, int | float) else None
    shards = sorted({path.parent / file for file in files.values()})
    missing = [shard.name for shard in shards if not shard.is_file()]
    if len(missing) == len(shards):
        note = f"an index alone: {len(files):,} tensors in {len(shards)} files; formats, shapes and parts are not known"
        return Files(path, [], list(files), said, None, config_in(path.parent), [note])
    if missing:
        raise ValueError(
            f"path={str(path)!r} names {len(shards)} files, of which {len(missing)} are missing, {missing[0]} the "
            "first; fetch them, or weigh the index alone in a folder of its own"
        )
    found = _weighed(path, shards)
    _check_map(path, files, found.tensors)
    if said not in (None, found.total_bytes):
        found.notes.append(f"the index says total_size {said:,}; the headers say {found.total_bytes:,}, which counts")
    others = sorted({file.name for file in path.parent.glob("*.safetensors")} - {shard.name for shard in shards})
    if others:
        found.notes.append(f"not counted, for the index does not name them: {', '.join(others)}")
    return found


def _check_map(path, files, tensors):
    """Raise ValueError where an index names a tensor that its file does not hold; say what it leaves out."""
    held = {tensor.name: tensor.file for tensor in tensors}
    for name, file in files.items():
        if held.get(name) != file:
            where = f"{held[name]} holds it" if name in held else "no file holds it"
            raise ValueError(f"path={str(path)!r} says that {name!r} is in {file}, but {where}; fetch both again")


def _weighed(path, files):
    """The tensors of several files together."""
    tensors, homes = [], {}
    for file in files:
        header = gguf_header if file.suffix == ".gguf" else safetensors_header
        for tensor in header(file):
            if tensor.name in homes:
                raise ValueError(
                    f"path={str(path)!r} holds the tensor {tensor.name!r} twice, in {homes[tensor.name]} and in "
                    f"{tensor.file}; give one of the files, or an index of those that belong together"
                )
            homes[tensor.name] = tensor.file
            tensors.append(tensor)
    sizes = sum(tensor.nbytes for tensor in tensors), sum(file.stat().st_size for file in files)
    config = config_in(path if path.is_dir() else path.parent)
    return Files(path, tensors, list(homes), *sizes, config, _shard_note(path, files))


def _shard_note(path, files):
    found = re.search(r"-(\d{5})-of-(\d{5})\.safetensors$", path.name)
    return [f"one file of {int(found[2])}: the others are not counted"] if found and len(files) == 1 else []


def _gguf_parts(path):
    """All parts of a GGUF model that is cut into files, in order."""
    found = _PART.fullmatch(path.name)
    if not found:
        return [path]
    parts = [path.with_name(f"{found[1]}-{part + 1:05}-of-{found[3]}.gguf") for part in range(int(found[3]))]
    missing = [part.name for part in parts if not part.is_file()]
    if missing:
        raise ValueError(
            f"path={str(path)!r} is one part of {len(parts)}, of which {len(missing)} are missing, {missing[0]} the "
            "first; fetch them"
        )
    return parts


def config_in(folder: Path) -> dict[str, Any]:
    """The `config.json` in a folder, with what a file of its own says of the quantization; {} without one."""
    found = load(folder / CONFIG)[1] if (folder / CONFIG).is_file() else {}
    for name in ("hf_quant_config.json", "quantize_config.json", "quant_config.json"):
        if "quantization_config" not in found and (folder / name).is_file():
            said = json.loads((folder / name).read_text(encoding="utf-8"))
            found = found | {"quantization_config": said.get("quantization", said)}
    return found
