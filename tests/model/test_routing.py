"""Distinct experts of a batch: formula, ten thousand random batches, and the router of the small trained model."""

import numpy as np
import pytest
import torch

from dsmem import formulas
from dsmem.model import load_model, routing, small_path, small_text


@pytest.fixture(scope="module")
def chosen():
    """What the three routers of the trained model choose while it reads 8 KiB of unseen text."""
    model = load_model(small_path(), weights="fp32")
    return routing.chosen_experts(model, torch.tensor(list(small_text()[: 16 * 512])).view(16, 512))


@pytest.mark.parametrize("tokens", [1, 2, 5, 16, 64])
@pytest.mark.parametrize(("experts", "top_k"), [(8, 2), (64, 6), (256, 8), (5, 5)])
def test_the_formula_is_the_mean_of_random_batches(experts, top_k, tokens):
    seen = routing.simulated_experts(experts, top_k, tokens, batches=10_000 if experts < 100 else 2_000)
    expected = formulas.touched_experts(experts, top_k, tokens)
    assert abs(seen.mean() - expected) <= 5 * seen.std() / len(seen) ** 0.5 + 5 / len(seen)
    assert seen.min() >= top_k and seen.max() <= min(experts, top_k * tokens)


def test_published_batches_touch_what_their_paper_says():
    # one token touches its k; a batch that is large enough touches all
    assert formulas.touched_experts(256, 8, 1) == pytest.approx(8)
    assert formulas.touched_experts(256, 8, 1024) == pytest.approx(256)


def test_random_choices_are_all_equally_likely():
    seen = routing.simulated_experts(6, 3, 1, batches=100)
    assert seen.tolist() == [3] * 100


def test_the_choices_are_those_of_the_routers_own_scores(chosen):
    model = load_model(small_path(), weights="fp32")
    tokens = torch.tensor(list(small_text()[:64]))[None]
    router, seen = model.layers[1].mlp.gate, []
    router.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    found = routing.chosen_experts(model, tokens)["layers.1.mlp.gate"]
    scores = (seen[0] @ router.weight.T).sigmoid() + router.e_score_correction_bias
    groups = scores.view(-1, 4, 2)
    best = groups.sum(-1).topk(2).indices  # two of four groups, by their two best experts, which are all they have
    allowed = torch.zeros(len(scores), 4, dtype=torch.bool).scatter_(1, best, True).repeat_interleave(2, 1)
    wanted = scores.masked_fill(~allowed, -torch.inf).topk(2).indices
    assert np.array_equal(np.sort(found, 1), wanted.sort(1).values.numpy())


def test_the_trained_router_touches_nearly_what_chance_would(chosen):
    assert list(chosen) == [f"layers.{layer}.mlp.gate" for layer in (1, 2, 3)]
    for of_layer in chosen.values():
        for tokens in (1, 2, 4, 8, 16):
            seen = routing.routed_experts(of_layer, 8, tokens).mean()
            assert seen == pytest.approx(formulas.touched_experts(8, 2, tokens), rel=0.02)


def test_neighbours_in_a_text_share_experts(chosen):
    last = chosen["layers.3.mlp.gate"]
    together, apart = (routing.routed_experts(last, 8, 8, consecutive=how).mean() for how in (True, False))
    assert together < 0.98 * apart


def test_what_has_no_experts_is_refused(refuses):
    dense = torch.nn.Linear(2, 2)
    refuses(lambda: routing.chosen_experts(dense, torch.zeros(1, 1)), "model has no router")
    refuses(lambda: routing.simulated_experts(4, 5, 1), "num_experts_per_tok=5 is above n_routed_experts=4")
    refuses(lambda: routing.routed_experts(np.zeros((4, 2), int), 8, 5, consecutive=True), "tokens=5", "4")


def test_the_mean_over_routers_is_that_of_each(chosen):
    alone = [routing.routed_experts(each, 8, 4).mean() for each in chosen.values()]
    assert routing.mean_experts(chosen, 8, [4]) == pytest.approx([sum(alone) / 3])
    few, many = (routing.mean_experts(chosen, 8, [4], consecutive=how)[0] for how in (True, False))
    assert few < many
