"""Find and read the `config.json` behind a name, a path, a dict or a config object; where the kit keeps its data."""

import functools
import json
from pathlib import Path
from typing import Any

_PACKAGE = Path(__file__).parents[1]
DATA = _PACKAGE / "data" if (_PACKAGE / "data").is_dir() else _PACKAGE.parent / "data"


def model_names() -> list[str]:
    """Names in `data/models` that `Architecture.from_config` takes, in alphabetical order."""
    return sorted(path.stem for path in (DATA / "models").glob("*.json"))


@functools.cache
def published_weights(name: str) -> str:
    """The format in which the makers of a model of `data/models` publish most of its weights; "" where it is 16 bit.

    >>> published_weights("gpt-oss-20b"), published_weights("qwen2.5-7b"), published_weights("not of the kit")
    ('mxfp4', '', '')
    """
    path = DATA / "models" / f"{name}.json"
    return _read_json(path).get("_published_weights", "") if name in model_names() else ""


def load(source: Any) -> tuple[str, dict[str, Any]]:
    """Name and config dict behind any of the forms that `Architecture.from_config` takes; errors: see there."""
    if hasattr(source, "to_dict"):
        source = source.to_dict()
    if isinstance(source, dict):
        return str(source.get("_name_or_path") or source.get("model_type") or "model"), source
    if not isinstance(source, (str, Path)):
        raise ValueError(
            f"source={source!r} is not a config; it must be a dict, a path or a known model: {', '.join(model_names())}"
        )
    path = Path(source)
    path = path / "config.json" if path.is_dir() else path
    if path.is_file():
        name = path.parent.resolve().name if path.name == "config.json" else path.stem
    else:
        name = str(source).rsplit("/", 1)[-1].lower()
        path = DATA / "models" / f"{name}.json"
        if not path.is_file():
            raise ValueError(
                f"source={str(source)!r} is neither a file nor a known model; known: {', '.join(model_names())}"
            )
    return name, _read_json(path)


def _read_json(path):
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"source={str(path)!r} is damaged; it must be a config.json ({error})") from None
    if not isinstance(config, dict):
        raise ValueError(f"source={str(path)!r} holds a {type(config).__name__}; it must hold a JSON object")
    return config
