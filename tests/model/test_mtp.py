"""The modules that predict further tokens: their published size, and their outputs against those of transformers."""

import pytest
import torch
from decoders import CONFIGS, TOKENS, close
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.modeling_layers import MtpModel

import dsmem
from dsmem import Architecture, build_model
from dsmem.model import checkpoint
from dsmem.model.mtp import further_logits


def test_r1s_module_has_the_published_parameters():
    model = build_model(Architecture.from_config("deepseek-r1"), "bf16", "fake", mtp=True)
    assert sum(p.numel() for p in model.mtp.parameters()) == 11_610_067_968
    assert sum(p.numel() for p in model.parameters()) == 671_026_404_352 + 11_610_067_968


@pytest.mark.parametrize("modules", [1, 2])
@torch.no_grad()
def test_logits_are_those_of_transformers(modules):
    config = CONFIGS["v3"] | {"num_nextn_predict_layers": modules}
    torch.manual_seed(7)
    theirs = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config), dtype=torch.float32).eval()
    further = MtpModel(theirs, modules).eval()
    for module in (theirs, further.layers):
        for name, tensor in module.state_dict().items():  # MtpModel does not fill all of its own parameters
            tensor.copy_(("norm" in name) + (0.05 if "experts" in name else 0.2) * torch.randn_like(tensor))
    ours = build_model(Architecture.from_config(config), "fp32", "cpu", mtp=True)
    state = {f"mtp.{name}": tensor for name, tensor in further.layers.state_dict().items()}
    checkpoint.fill_from(ours, theirs.state_dict() | state)
    h = theirs.model(TOKENS).last_hidden_state
    for depth, logits in enumerate(further_logits(ours, TOKENS), start=1):
        places = torch.arange(h.shape[1] - 1)[None]
        h = further.forward_layer(depth - 1, h[:, :-1], places, None, input_ids=TOKENS[:, depth:])
        close(logits, theirs.lm_head(h))


def test_a_model_without_modules_and_too_short_a_text_are_refused(refuses):
    arch = Architecture.from_config(CONFIGS["v3"])
    refuses(lambda: further_logits(build_model(arch, "fp32", "cpu"), TOKENS), "mtp=True")
    refuses(lambda: further_logits(build_model(arch, "fp32", "cpu", mtp=True), TOKENS[:, :1]), "1 per", "at least 2")


@torch.no_grad()
def test_the_modules_count_as_weights_in_the_ledger():
    arch = Architecture.from_config(CONFIGS["v3"])
    model = build_model(arch, "fp16", "fake", mtp=True)
    with dsmem.Ledger(model) as ledger:
        model(TOKENS)
    assert ledger.by_category()["weight"] == 2 * sum(p.numel() for p in model.parameters())
