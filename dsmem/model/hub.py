"""The same pass in transformers' own code, where that library is installed: a model that nobody here wrote."""

import contextlib
import importlib.util
import json

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from dsmem.config.architecture import Architecture
from dsmem.config.families import DATA
from dsmem.model.decoder import TORCH_DTYPES, check_device

KERNELS = {"fused": "sdpa", "expanded": "sdpa", "eager": "eager"}


def available():
    """Is transformers installed? Looks, and imports nothing."""
    return importlib.util.find_spec("transformers") is not None


def prepare(arch, work, device, seed=0):
    """A call that runs `work` on transformers' model of the shape of `arch`, and that model: as `runs.run.prepare`.

    arch: as its file in data/models says; only prefills in a float format are run. Raises ValueError for other work.
    """
    check_device(device)
    if work.phase != "prefill" or work.weights not in TORCH_DTYPES:
        raise ValueError(f"work={work!r} is not run in transformers' code; allowed: a prefill in {list(TORCH_DTYPES)}")
    mode = FakeTensorMode() if device == "fake" else contextlib.nullcontext()
    where = "cpu" if device == "fake" else device
    torch.manual_seed(seed)
    with mode, torch.device(where), torch.no_grad():
        model = _build(arch, work)
        tokens = torch.randint(arch.vocab_size, (work.batch, work.seq_len))
    keep = {"logits_to_keep": 1} if work.logits == "last" else {}

    def forward():
        with mode, torch.no_grad():
            return model(tokens, **keep)

    return forward, model


def fetch(name, text):
    """Our decoder with the published weights of `name`, "owner/model", and `text` as its tokens (1, length).

    Downloads the weights where they are not on this machine yet. Raises ValueError without transformers or a network,
    or for a name that the hub does not have.
    """
    if not available():
        raise ValueError(f"name={name!r} is fetched through transformers; install it with: pip install transformers")
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


def cached_numbers(path, tokens=10):
    """Numbers that transformers caches of one token in the first layer of the model whose `config.json` lies at `path`.

    MLA's are the latent and the rotated key from release 5.15.1 on, and keys and values of every head before.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(**json.loads(path.read_text(encoding="utf-8")))
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        layer = model(torch.zeros(1, tokens, dtype=torch.long), use_cache=True).past_key_values.layers[0]
    return (layer.keys.numel() + layer.values.numel()) // tokens
