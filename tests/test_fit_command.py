"""python -m dsmem fit: sentence, table, JSON and exit codes; a thousand odd command lines end in one sentence."""

import contextlib
import io
import json
import random

import pytest

from dsmem.__main__ import main

MODEL = "qwen2.5-0.5b"


def run(*words):
    """(exit code, what it printed, what it complained of)"""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(["fit", *words])
        except SystemExit as ended:  # argparse, which prints its usage first
            code = ended.code
    return code, out.getvalue(), err.getvalue()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ((MODEL, "--gpu", "T4"), 0, "qwen2.5-0.5b in fp16 fits T4 (14.57 GiB)"),
        ((MODEL, "--gpu", "T4", "--weights", "int8", "--kv-cache", "fp8", "--batch", "4"), 0, "in int8 fits"),
        (("llama-2-7b", "--gpu", "T4", "--train"), 1, "a training step of llama-2-7b in bf16 does not fit T4"),
        ((MODEL, "--memory", "1 GiB", "--seq-len", "4096"), 1, "does not fit 1 GiB"),
        (("deepseek-r1", "--gpu", "RTX 4090", "--count", "2", "--weights", "fp8"), 1, "2 × RTX 4090"),
        (("deepseek-r1-distill-llama-8b", "--gpu", "A10G", "--engine", "vllm"), 0, "a pool of"),
        (("deepseek-r1-distill-llama-8b", "--gpu", "RTX 3060", "--engine", "llama.cpp"), 0, "left for compute buffers"),
        ((MODEL, "--gpu", "2 x T4", "--pipeline", "2"), 0, "with pipeline=2"),
    ],
)
def test_the_sentence_comes_first_and_the_exit_code_is_the_answer(words, code, said):
    found, out, err = run(*words)
    assert (found, err) == (code, "") and said in out.splitlines()[0] and len(out.splitlines()) > 5


def test_json_is_for_scripts():
    code, out, err = run(MODEL, "--gpu", "T4", "--json", "--seq-len", "512")
    found = json.loads(out)
    assert code == 0 and found["fits"] and found["context"] == 512 and found["depth"] == "formula"
    assert found["needed_bytes"] == found["peak_bytes"] + sum(most for _, most in found["overhead"].values())
    for engine in ("vllm", "llama.cpp"):
        code, out, err = run("deepseek-r1-distill-qwen-7b", "--gpu", "RTX 4090", "--json", "--engine", engine)
        assert json.loads(out)["name"] == engine and json.loads(out)["fits"] == (code == 0)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("nothing", "--gpu", "T4"), "source='nothing'"),
        ((MODEL, "--gpu", "T5"), "gpu='T5'"),
        ((MODEL, "--gpu", "T4", "--memory", "9 GB"), "memory='9 GB'"),
        ((MODEL, "--gpu", "2 x T4", "--engine", "vllm", "--pipeline", "2"), "field='pipeline'"),
        ((MODEL, "--gpu", "T4", "--engine", "llama.cpp", "--cache", "none"), "field='cache'"),
        ((MODEL, "--gpu", "T4", "--batch", "0"), "batch=0"),
        ((MODEL, "--gpu", "T4", "--lora-rank", "8"), "--train"),
        ((MODEL, "--gpu", "T4", "--memory", "lots"), "lots"),
        ((MODEL, "--memory", "24"), "memory='24' is not a size"),
        ((MODEL, "--gpu", "RTX 4060"), "gpu='RTX 4060' is not a known GPU"),
        ((MODEL, "--gpu", "24G"), "gpu='24G' is a size"),
        ((MODEL, "--gpu", "T4", "--tensor", "3"), "sharding has 3 ranks"),
        ((MODEL, "--gpu", "T4", "--engine", "vllm", "--train"), "--train"),
    ],
)
def test_nonsense_is_one_sentence_and_two(words, said):
    code, out, err = run(*words)
    assert (code, out) == (2, "") and said in err and err.startswith("dsmem fit: ") and err.count("\n") == 1


ODD = [
    "0",
    "-1",
    "7",
    "1e9",
    "nan",
    "",
    "x",
    "99999999999999999999",
    "None",
    "fp16",
    "int8",
    "q8_0",
    "T4",
    "8 x H100",
    "2",
]
ODD += [
    "24 GiB",
    "decode",
    "prefill",
    "last",
    "none",
    "paged",
    "eager",
    "adamw",
    "full",
    "here",
    "p4d.24xlarge",
    "0 x T4",
]
OPTIONS = ["gpu", "memory", "count", "batch", "seq-len", "cached-tokens", "phase", "weights", "kv-cache", "attention"]
OPTIONS += ["logits", "cache", "mla-cache", "optimizer", "checkpointing", "precision", "tensor", "pipeline", "data"]
OPTIONS += ["engine", "utilization", "lora-rank", "optimizer-kernel", "expert", "zero"]
MODELS = [MODEL, "gpt2", "deepseek-v2-lite", "deepseek-r1", "", "no-such", "data", "."]


def odd_line(seed):
    draw = random.Random(seed)
    words = [draw.choice(MODELS)] if draw.random() < 0.95 else []
    for option in draw.sample(OPTIONS, draw.randint(0, 5)):
        words += [f"--{option}={draw.choice(ODD)}"]
    if draw.random() < 0.6:
        words += ["--gpu=T4"]
    return words + ["--train"] * (draw.random() < 0.15) + ["--json"] * (draw.random() < 0.2)


def judged(seed):
    """Whether an odd line has an answer, or one sentence on why not."""
    code, out, err = run(*odd_line(seed))
    if code in (0, 1):
        return bool(out) and not err
    return code == 2 and not out and err.strip().count("\n") <= 40 and "Traceback" not in err


@pytest.mark.parametrize("first", range(0, 120, 40))
def test_odd_command_lines_have_an_answer_or_a_sentence(first):
    assert [odd_line(seed) for seed in range(first, first + 40) if not judged(seed)] == []
