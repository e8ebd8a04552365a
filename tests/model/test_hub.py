"""Published weights from the hub, which the tests never ask: its client and the tokenizer are stood in for."""

from types import SimpleNamespace

import pytest
import torch

from dsmem import Architecture
from dsmem.model import hub
from dsmem.model.small import small_path

NAME = "owner/model"


def stand_in(monkeypatch, download):
    """Has huggingface_hub fetch through `download`, and every letter be a token."""
    library, transformers = (pytest.importorskip(name) for name in ("huggingface_hub", "transformers"))
    monkeypatch.setattr(library, "snapshot_download", download)
    monkeypatch.setattr(
        transformers.AutoTokenizer,
        "from_pretrained",
        lambda folder: lambda text, return_tensors: SimpleNamespace(input_ids=torch.tensor([list(text.encode())])),
    )


def test_weights_and_tokens_come_from_the_folder_that_the_hub_gives(monkeypatch):
    asked = []
    stand_in(monkeypatch, lambda name, allow_patterns: asked.append((name, allow_patterns)) or small_path())
    model, tokens = hub.fetch(NAME, "It is")
    assert asked == [(NAME, ["*.json", "*.safetensors"])]
    assert model.arch.n_params == 1_368_576 and tokens.tolist() == [[73, 116, 32, 105, 115]]
    assert model(tokens).shape == (1, 5, 256)


def test_without_a_network_one_sentence_says_so(monkeypatch, refuses):
    def fail(name, allow_patterns):
        raise ConnectionError("Name or service not known\nand more")

    stand_in(monkeypatch, fail)
    refuses(lambda: hub.fetch(NAME, "x"), "name", NAME, "network", "not known")


def test_without_transformers_it_says_how_to_install_it(monkeypatch, refuses):
    monkeypatch.setattr(hub, "has_transformers", lambda: False)
    refuses(lambda: hub.fetch(NAME, "x"), "name", "pip install transformers")


def test_the_small_model_is_cached_by_transformers_as_its_release_does():
    transformers = pytest.importorskip("transformers")
    found = hub.cached_numbers(small_path("config.json"))
    arch = Architecture.from_config(small_path("config.json"))
    both = [sum(heads * width for heads, width in arch.cache_rows(kind).values()) for kind in ("latent", "expanded")]
    release = tuple(int(part) for part in transformers.__version__.split(".")[:2])
    assert found == both[release < (5, 15)], transformers.__version__
