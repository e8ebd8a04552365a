"""`python -m dsmem fit`: one sentence and a small table, or JSON; 0 where it fits, 1 where it does not."""

import argparse
import json
from typing import Any

from dsmem.config.devices import HERE
from dsmem.units import one_of, parse_bytes

EXAMPLES = """examples:
  python -m dsmem fit deepseek-r1-distill-qwen-7b --gpu T4 --weights int8 --seq-len 4096
  python -m dsmem fit path/to/config.json --gpu "8 x H200" --batch 16 --json
  python -m dsmem fit qwen2.5-1.5b --gpu "RTX 4090" --train --checkpointing full
  python -m dsmem fit deepseek-r1-distill-llama-8b --gpu A10G --engine vllm --utilization 0.9

exit code: 0 it fits, 1 it does not, 2 the question could not be read"""
WORK = (
    "batch",
    "seq_len",
    "cached_tokens",
    "phase",
    "weights",
    "kv_cache",
    "attention",
    "logits",
    "cache",
    "mla_cache",
)
TRAINING = ("optimizer", "optimizer_kernel", "precision", "checkpointing", "lora_rank")
SHARDING = ("tensor", "pipeline", "data", "expert", "zero")
_ENGINES = {"llama.cpp": ("batch", "seq_len", "weights", "kv_cache")}
_ENGINES["vllm"] = (*_ENGINES["llama.cpp"], "attention", "mla_cache")
_NUMBERS = ("batch", "seq_len", "cached_tokens", "lora_rank", *SHARDING)
_HELP = {
    "batch": "sequences",
    "seq_len": "tokens per sequence",
    "weights": "fp32, bf16, fp16, fp8, int8, int4, or stored alone: awq, gptq, nf4, q8_0, q4_k_m ...",
    "kv_cache": "format of the cache, such as fp8",
    "phase": "prefill or decode",
    "attention": "fused, expanded or eager; by default what PyTorch has on this GPU",
    "logits": "all or last",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give `parser` the options of the command; each is spelled as the field that it sets."""
    parser.formatter_class, parser.epilog = argparse.RawDescriptionHelpFormatter, EXAMPLES
    parser.add_argument("model", help="a name in data/models, a config.json, or a folder or file of a checkpoint")
    parser.add_argument("--gpu", default="here", help="a GPU's name, '8 x H200', 'p4d.24xlarge', or here (the default)")
    parser.add_argument("--memory", help="bytes of one device in place of a GPU's name: '24 GiB'")
    parser.add_argument("--count", type=int, default=1, help="how many of them")
    parser.add_argument("--train", action="store_true", help="a training step in place of a pass")
    for name in (*WORK, *TRAINING, *SHARDING):
        kind = int if name in _NUMBERS else str
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, default=None, help=_HELP.get(name))
    parser.add_argument("--engine", choices=("vllm", "llama.cpp"), help="what this engine would take, by formulas")
    parser.add_argument("--utilization", type=float, help="vLLM's --gpu-memory-utilization (0.9)")
    parser.add_argument("--json", action="store_true", help="the answer as JSON")


def answer(options: argparse.Namespace) -> tuple[str, int]:
    """The text of the answer, and the exit code. Raises ValueError, one sentence, for what cannot be answered."""
    if options.memory is not None and options.gpu != HERE:
        raise ValueError(f"memory={options.memory!r} stands in place of gpu={options.gpu!r}; give one of both")
    gpu = options.gpu if options.memory is None else {options.memory: parse_bytes(options.memory, "memory")}
    found = _engine(options, gpu) if options.engine else _fit(options, gpu)
    if options.json:
        text = json.dumps(found.to_dict(), indent=1)
    else:
        notes = "".join(f"\n{note}" for note in found.notes)
        text = f"{found.table()}{notes}"
    return text, 0 if found.fits else 1


def _fit(options, gpu):
    from dsmem.runs.fit import fit

    training = _given(options, TRAINING)
    if options.utilization is not None:
        raise ValueError("utilization is vLLM's alone; it goes with --engine vllm")
    if training and not options.train:
        raise ValueError(f"{next(iter(training))} is a choice of training; it goes with --train")
    sharding = _given(options, SHARDING) or None
    fields = _given(options, WORK)
    return fit(
        options.model, None, gpu, options.count, sharding, (training or True) if options.train else None, **fields
    )


def _engine(options, gpu):
    from dsmem.footprint.fit.engines import llama_cpp, vllm
    from dsmem.runs.fit import here

    if options.train or _given(options, TRAINING):
        raise ValueError(f"engine={options.engine!r} serves a model; --train does not go with it")
    fields = _given(options, (*WORK, *SHARDING))
    for name in fields:
        one_of("field", name, _ENGINES[options.engine], f"what --engine {options.engine} goes by")
    found = here(gpu, options.count)
    if options.engine == "vllm":
        return vllm(options.model, found, 0.9 if options.utilization is None else options.utilization, **fields)
    if options.utilization is not None:
        raise ValueError("utilization is vLLM's alone; it goes with --engine vllm")
    return llama_cpp(options.model, found, **fields)


def _given(options: argparse.Namespace, names: tuple) -> dict[str, Any]:
    """The fields that were asked for, by their names."""
    found = {name: getattr(options, name) for name in names}
    return {name: value for name, value in found.items() if value is not None}
