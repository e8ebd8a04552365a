"""A share of `hostile`'s mutated configs: each is counted as transformers counts it, or refused in one sentence."""

import collections

import hostile
import pytest


@pytest.mark.parametrize("first", range(0, 150, 30))
def test_a_mutated_config_is_counted_as_transformers_does_or_refused_in_a_sentence(first):
    verdicts = [hostile.verdict(seed) for seed in range(first, first + 30)]
    assert [found for found in verdicts if found[0] not in hostile.RIGHT] == []
    kinds = collections.Counter(kind for kind, *_ in verdicts)
    assert kinds["counted"] >= 5 and kinds["refused"] >= 5


@pytest.mark.parametrize("name", hostile.bases())
def test_a_config_without_a_mutation_is_counted(name):
    assert hostile.judge(hostile.bases()[name], set())[0] == "counted"


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (lambda config: 7, "wrong"),
        (lambda config: "something is wrong", "not a sentence about it"),
        (lambda config: "vocab_size=3\nis not right", "not a sentence about it"),
        (lambda config: "vocab_size=3 is not right", "refused"),
        (lambda config: {}["vocab_size"], "error"),
    ],
)
def test_the_judge_sees_what_is_amiss(answer, kind, monkeypatch):
    monkeypatch.setattr(hostile, "ours", answer)
    assert hostile.judge(hostile.bases()["llama-2-7b"], {"vocab_size"})[0] == kind
