"""The same pass in transformers' own code, where that library is installed: a model that nobody here wrote."""

import contextlib
import importlib.util
import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel

from dsmem.config.architecture import Architecture
from dsmem.config.source import DATA
from dsmem.config.workload import Workload
from dsmem.model.devices import TORCH_DTYPES, check_device, settled

if TYPE_CHECKING:
    from dsmem.model.decoder import Decoder

KERNELS = {"fused": "sdpa", "expanded": "sdpa", "eager": "eager"}
"""What transformers calls each attention; "sdpa" itself decides whether it widens keys and values first."""

SDPA_BACKENDS = (SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH)
"""What "sdpa" may run on a GPU, the first that can: cuDNN, which a Hopper GPU may prefer, has another workspace."""


def has_transformers() -> bool:
    """Is transformers installed? Looks, and imports nothing."""
    return importlib.util.find_spec("transformers") is not None


def prepare(arch: Any, work: Workload, device: Any, seed: int = 0) -> tuple[Callable, torch.nn.Module]:
    """A call that runs `work` on transformers' model of the shape of `arch`, and that model: as `runs.run.prepare`.

    arch: whatever `Architecture.of` takes, with the shape of a model in data/models, layers and vocabulary changed at
    most. work: a whole prefill in a float format. device: as in `devices.check_device`. seed: of the random weights.
    Raises ValueError for another shape, other work, or without transformers.

    A known difference from a GPU: eager attention takes its softmax in float32, for which a CPU and fake tensors copy
    FP16 scores and a GPU does not, so on fake tensors an FP16 pass counts 4 bytes a score too many. BF16 and FP32 do
    not differ.
    """
    arch, device = Architecture.of(arch), check_device(device)
    _require_transformers(f"arch={arch.name!r} runs")
    if work.phase != "prefill" or work.cached_tokens or work.weights not in TORCH_DTYPES:
        raise ValueError(
            f"work is a {work.phase} after {work.cached_tokens} tokens in weights={work.weights!r}, which is not run "
            f"in transformers' code; allowed: phase='prefill' after 0 with weights {', '.join(TORCH_DTYPES)} "
            "(code='dsmem' runs all)"
        )
    mode = FakeTensorMode() if device == "fake" else contextlib.nullcontext()
    torch.manual_seed(seed)
    with mode, torch.device("cpu" if device == "fake" else device), torch.no_grad():
        model = _build(arch, settled(arch, work, device))
        if device == "cuda":
            torch.cuda.empty_cache()  # what building left behind must not hold what the pass makes
        tokens = torch.randint(arch.vocab_size, (work.batch, work.seq_len))
    keep = {"logits_to_keep": 1} if work.logits == "last" else {}

    def forward():
        with mode, torch.no_grad(), pinned_attention(device):
            return model(tokens, **keep)

    return forward, model


def pinned_attention(device: str) -> AbstractContextManager:
    """A context in which torch's attention runs on `SDPA_BACKENDS` alone; without effect away from a GPU."""
    if device != "cuda":
        return contextlib.nullcontext()
    return sdpa_kernel(list(SDPA_BACKENDS))


def fetch(name: str, text: str) -> "tuple[Decoder, torch.Tensor]":
    """Our decoder with the published weights of `name`, "owner/model", and `text` as its tokens (1, length).

    Downloads the weights where they are not on this machine yet. Raises ValueError without transformers or a network,
    or for a name that the hub does not have.
    """
    _require_transformers(f"name={name!r} is fetched")
    from huggingface_hub import snapshot_download
    from transformers import AutoTokenizer

    from dsmem.model.checkpoint import load_model

    try:
        folder = snapshot_download(name, allow_patterns=["*.json", "*.safetensors"])
    except Exception as error:  # of many kinds: no network, no such name, a full disk
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"name={name!r} did not come from the hub; that needs a network and a name that it has: {reason}"
        ) from None
    tokens = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt").input_ids
    return load_model(folder), tokens


def _require_transformers(what):
    if not has_transformers():
        raise ValueError(f"{what} through transformers; install it with: pip install transformers")


def _build(arch, work):
    from transformers import AutoConfig, AutoModelForCausalLM

    config = _config_of(arch) | {"num_hidden_layers": arch.num_hidden_layers, "vocab_size": arch.vocab_size}
    config.pop("layer_types", None)
    config = AutoConfig.for_model(**config, attn_implementation=KERNELS[work.attention])
    return AutoModelForCausalLM.from_config(config, dtype=TORCH_DTYPES[work.weights]).eval()


def _config_of(arch):
    """The shipped config of `arch`, held against it: a name alone could stand for another shape."""
    path = DATA / "models" / f"{arch.name}.json"
    changed = {"num_hidden_layers": arch.num_hidden_layers, "vocab_size": arch.vocab_size}
    if not path.is_file() or Architecture.from_config(path).scaled(**changed) != arch:
        raise ValueError(
            f"arch={arch.name!r} is not the shape of a model in data/models; transformers' code runs those, with the "
            "layers and the vocabulary changed at most"
        )
    return json.loads(path.read_text(encoding="utf-8"))


def cached_numbers(path: Path, tokens: int = 10) -> int:
    """Numbers that transformers caches of one token in the first layer of the model whose `config.json` lies at `path`.

    path: of a model small enough to be built in memory. tokens: how many are run to find out. MLA's numbers are the
    latent and the rotated key from release 5.15.1 on, and keys and values of every head before.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(**json.loads(path.read_text(encoding="utf-8")))
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        layer = model(torch.zeros(1, tokens, dtype=torch.long), use_cache=True).past_key_values.layers[0]
    return (layer.keys.numel() + layer.values.numel()) // tokens
