"""transformers and the hub: whether and which it is, kept quiet and its errors in a sentence; published weights."""

import contextlib
import importlib.metadata
import importlib.util
import json
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

if TYPE_CHECKING:
    from dsmem.model.decoder import Decoder

SDPA_BACKENDS = (SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH)
"""What "sdpa" may run on a GPU, the first that can: cuDNN, which a Hopper GPU may prefer, has another workspace."""


def has_transformers() -> bool:
    """Is transformers installed? Looks, and imports nothing."""
    return importlib.util.find_spec("transformers") is not None


def require_transformers(what: str) -> None:
    """Raise ValueError where transformers is not installed. what: the sentence's subject and verb, "x runs"."""
    if not has_transformers():
        raise ValueError(f"{what} through transformers; install it with: pip install transformers")


def version() -> str:
    """transformers and its release, "transformers 5.23.0": its code is another in each."""
    return f"transformers {importlib.metadata.version('transformers')}"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No warnings and no log lines from inside.

    Libraries report, at import and at a first call, GPU kernels that a CPU build has no use for; a reader would take
    these lines for errors.
    """
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)  # fake tensors log what they then raise
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@contextlib.contextmanager
def explained(what: str) -> Iterator[None]:
    """Whatever the library raises inside becomes one sentence: ValueError, "`what`: Type: its first sentence"."""
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # of any kind: it is another's code on a config that nobody has tried
        words = re.split(r"[.!?]\s", " ".join(str(error).split()))[0][:300]
        raise ValueError(f"{what}: {type(error).__name__}: {words}") from error


def pinned_attention(device: str) -> AbstractContextManager:
    """A context in which torch's attention runs on `SDPA_BACKENDS` alone; without effect away from a GPU."""
    if device != "cuda":
        return contextlib.nullcontext()
    return sdpa_kernel(list(SDPA_BACKENDS))


@contextlib.contextmanager
def unpacked() -> Iterator[None]:
    """Inside, transformers takes each row of tokens for one sequence, as our rows are.

    Where there is no cache it looks for rows that hold several. Fake tensors cannot be asked, and it would then mask.
    """
    from transformers import masking_utils

    look = getattr(masking_utils, "find_packed_sequence_indices", None)

    def looked(position_ids):
        if (found := look(position_ids)) is not None:
            (found[:, -1] == 0).all()  # what it asks of real tensors

    if look:
        masking_utils.find_packed_sequence_indices = looked
    try:
        yield
    finally:
        if look:
            masking_utils.find_packed_sequence_indices = look


def fetch(name: str, text: str) -> "tuple[Decoder, torch.Tensor]":
    """Our decoder with the published weights of `name`, "owner/model", and `text` as its tokens (1, length).

    Downloads the weights where they are not on this machine yet. Raises ValueError without transformers or a network,
    or for a name that the hub does not have.
    """
    require_transformers(f"name={name!r} is fetched")
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
