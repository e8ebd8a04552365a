"""Read a decoder's shape from its Hugging Face `config.json`, and count its parameters by name."""

import dataclasses
import json
from pathlib import Path

_PACKAGE = Path(__file__).parent
DATA = _PACKAGE / "data" if (_PACKAGE / "data").is_dir() else _PACKAGE.parent / "data"


@dataclasses.dataclass(frozen=True)
class Architecture:
    """The shape of one decoder: frozen, hashable, every field spelled as in `config.json` where it has one.

    Widths are in elements. `qkv_bias`, `o_bias`, `mlp_bias` say which projections carry a bias, `qk_norm` whether
    queries and keys pass an RMSNorm per head (Qwen3). Build one with `Architecture.from_config`.
    """

    name: str
    model_type: str
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    tie_word_embeddings: bool = False
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10_000.0
    rope_scaling: tuple = ()
    sliding_window: int | None = None

    def __post_init__(self):
        for field in _POSITIVE:
            _positive_int(field, getattr(self, field))
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads={self.num_attention_heads} does not divide into "
                f"num_key_value_heads={self.num_key_value_heads}; it must be a multiple of it"
            )
        if self.head_dim % 2:
            raise ValueError(f"head_dim={self.head_dim} is odd; rotary positions turn pairs, so it must be even")

    @classmethod
    def from_config(cls, source):
        """The architecture that `source` describes.

        source: a `config.json` as dict, a path to one (or to its folder), a transformers config object, or the
        name of a model in `data/models` ("deepseek-r1-distill-qwen-7b", hub spelling welcome).
        Raises ValueError for a family that is not read, a missing or impossible number, a damaged file.

        >>> Architecture.from_config("deepseek-ai/DeepSeek-R1-Distill-Qwen-7B").n_params
        7615616512
        """
        name, config = _load(source)
        family = config.get("model_type")
        if family not in _FAMILIES:
            raise ValueError(f"model_type={family!r} is not read; allowed: {', '.join(_FAMILIES)}")
        config = _DEFAULTS.get(family, {}) | config
        return cls(name=name, model_type=family, **_common(config), **_FAMILIES[family](config))

    @property
    def query_width(self):
        """Elements of one token's queries: heads x head_dim."""
        return self.num_attention_heads * self.head_dim

    @property
    def kv_width(self):
        """Elements of one token's keys (or values): key-value heads x head_dim."""
        return self.num_key_value_heads * self.head_dim

    def census(self):
        """Parameters by named part, all layers together.

        A tied head is the embedding used a second time, so it has no row of its own.

        >>> census = Architecture.from_config("deepseek-r1-distill-qwen-7b").census()
        >>> census["embed_tokens"], sum(census.values())
        (544997376, 7615616512)
        """
        layers = {part: self.num_hidden_layers * count for part, count in self._layer_census().items() if count}
        head = {} if self.tie_word_embeddings else {"lm_head": self.vocab_size * self.hidden_size}
        embedding = {"embed_tokens": self.vocab_size * self.hidden_size}
        return embedding | layers | {"norm": self.hidden_size} | head

    def linears(self):
        """The linear layers of one decoder layer, in order: {name: (in_features, out_features, has a bias)}."""
        hidden, inter, q, kv = self.hidden_size, self.intermediate_size, self.query_width, self.kv_width
        return {
            "q_proj": (hidden, q, self.qkv_bias),
            "k_proj": (hidden, kv, self.qkv_bias),
            "v_proj": (hidden, kv, self.qkv_bias),
            "o_proj": (q, hidden, self.o_bias),
            "gate_proj": (hidden, inter, self.mlp_bias),
            "up_proj": (hidden, inter, self.mlp_bias),
            "down_proj": (inter, hidden, self.mlp_bias),
        }

    def _layer_census(self):
        norms = {"input_layernorm": self.hidden_size, "post_attention_layernorm": self.hidden_size}
        norms |= dict.fromkeys(("q_norm", "k_norm"), self.qk_norm * self.head_dim)
        linears = {name: n_in * n_out + bias * n_out for name, (n_in, n_out, bias) in self.linears().items()}
        return norms | linears

    @property
    def n_params(self):
        """All parameters, a tied head counted once."""
        return sum(self.census().values())

    @property
    def n_active_params(self):
        """Parameters that one token passes through; in a dense model, all of them."""
        return self.n_params

    def scaled(self, **changes):
        """The same architecture with some fields changed: `arch.scaled(num_hidden_layers=2)`."""
        return dataclasses.replace(self, **changes)


def model_names():
    """Names in `data/models` that `Architecture.from_config` takes, in alphabetical order."""
    return sorted(path.stem for path in (DATA / "models").glob("*.json"))


_POSITIVE = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "intermediate_size",
    "vocab_size",
)


def _positive_int(field, value):
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{field}={value!r} is not a size; it must be a whole number of at least 1")


def _load(source):
    """Name and config dict behind any of the forms that `from_config` takes."""
    if hasattr(source, "to_dict"):
        source = source.to_dict()
    if isinstance(source, dict):
        return str(source.get("_name_or_path") or source.get("model_type") or "model"), source
    if not isinstance(source, (str, Path)):
        raise ValueError(
            f"source={source!r} is no config; it must be a dict, a path, or a known model: {', '.join(model_names())}"
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


def _required(config, field):
    value = config.get(field)
    if value is None:
        raise ValueError(f"{field} is missing from the config; it must be a whole number of at least 1")
    _positive_int(field, value)
    return value


def _common(config):
    """What every family spells alike."""
    if config.get("hidden_act", "silu") != "silu":
        raise ValueError(f"hidden_act={config['hidden_act']!r} is not read in this family; allowed: silu")
    hidden, heads = _required(config, "hidden_size"), _required(config, "num_attention_heads")
    head_dim = config.get("head_dim")
    if head_dim is None:
        if hidden % heads:
            raise ValueError(
                f"hidden_size={hidden} does not divide by num_attention_heads={heads}; "
                "it must, or the config must give head_dim"
            )
        head_dim = hidden // heads
    kv_heads = config.get("num_key_value_heads")
    return {
        "hidden_size": hidden,
        "num_hidden_layers": _required(config, "num_hidden_layers"),
        "num_attention_heads": heads,
        "num_key_value_heads": heads if kv_heads is None else kv_heads,
        "head_dim": head_dim,
        "intermediate_size": _required(config, "intermediate_size"),
        "vocab_size": _required(config, "vocab_size"),
        "tie_word_embeddings": bool(config.get("tie_word_embeddings", False)),
        "rms_norm_eps": float(config.get("rms_norm_eps", 1e-6)),
    } | _rope(config)


def _rope(config):
    """Rotary base and scaling: transformers 5 writes `rope_parameters`, earlier releases two keys side by side."""
    scaling = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    theta = scaling.pop("rope_theta", None) or config.get("rope_theta") or 10_000.0
    kind = scaling.pop("rope_type", None) or scaling.pop("type", None) or "default"
    scaling.pop("type", None)
    # lists become tuples, for an architecture is hashable
    rest = ((name, tuple(value) if isinstance(value, list) else value) for name, value in sorted(scaling.items()))
    return {"rope_theta": float(theta), "rope_scaling": () if kind == "default" else (("rope_type", kind), *rest)}


def _llama(config):
    bias = bool(config.get("attention_bias", False))
    return {"qkv_bias": bias, "o_bias": bias, "mlp_bias": bool(config.get("mlp_bias", False))}


def _mistral(config):
    return {"sliding_window": config.get("sliding_window")}


def _qwen2(config):
    # transformers gives every Qwen2 layer a bias on q, k and v, whatever the config says
    return {"qkv_bias": True, "sliding_window": _optional_window(config)}


def _qwen3(config):
    bias = bool(config.get("attention_bias", False))
    return {"qkv_bias": bias, "o_bias": bias, "qk_norm": True, "sliding_window": _optional_window(config)}


def _optional_window(config):
    return config.get("sliding_window") if config.get("use_sliding_window") else None


# what transformers' config classes put in place of an absent key, where that is not "as many as heads"
_DEFAULTS = {
    "mistral": {"num_key_value_heads": 8, "sliding_window": 4096},
    "qwen2": {"num_key_value_heads": 32},
    "qwen3": {"num_key_value_heads": 32, "head_dim": 128},
}
_FAMILIES = {"llama": _llama, "mistral": _mistral, "qwen2": _qwen2, "qwen3": _qwen3}
