"""Train the small model of this folder a little longer, with and without rounding in the loop, and store it rounded.

python data/small-r1/qat.py

Quantization-aware training (arXiv 1712.05877, section 3): every product in training uses the weights as they will be
stored, and the gradient goes straight through the rounding to weights in FP32. torchao's fake quantizer does it here,
in the layers and experts that the kit's `int8` and `int4` round, with the same scales: one for an output channel in
INT8, one for up to 128 numbers of it in INT4, which is a whole channel in all matrices but one. Embedding, head,
routers and norms are not rounded. Each run starts from the weights in `model.safetensors`. A seed picks the text, so
that runs of one seed see the same; "float" trains as long with no rounding, and "none" not at all. At the end the
kit's own formats store the weights.

Appends to `qat.csv`, for each run, the loss on the whole held-out text as stored in FP32 and rounded.
"""

import argparse
import csv
import datetime
import importlib.metadata
import math
import time
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file
from torch.nn.utils import parametrize
from tqdm import tqdm
from train import HERE, balance, decay_groups, learning_rate, new_model, random_batch, read_texts, watch_routers

from dsmem.model import checkpoint, small
from dsmem.model.quantize import LAYERS, QuantizedLinear, QuantizedStack
from dsmem.model.quantize.int4 import GROUP
from dsmem.runs.libraries import quiet

KINDS = {"none": ("fp32", "int8", "int4"), "float": ("fp32", "int8", "int4"), "int8": ("int8",), "int4": ("int4",)}
"""What is rounded while training, and the formats in which the outcome is stored and measured."""
COLUMNS = (
    "date training seed steps batch context lr stored heldout_loss bits_per_byte seconds device threads torch torchao"
    " transformers"
).split()


def trained_model():
    """transformers' model with the weights of this folder, in FP32."""
    model = new_model(transformers.DeepseekV3Config.from_pretrained(HERE))
    model.load_state_dict(load_file(HERE / "model.safetensors"))
    return model


class Rounding(torch.nn.Module):
    """A weight as the kit will store it: torchao's fake quantizer on the scales and zero points of the kit's own layer.

    Its own would differ: in INT8 its scale is the largest number over 127.5, the kit's over 127; and torchao 0.18 cuts
    the zero point of an asymmetric group, a fraction there, to a whole number, which is 0 for weights.
    """

    def __init__(self, kind, weight):
        from torchao.quantization.qat import IntxFakeQuantizeConfig, IntxFakeQuantizer

        super().__init__()
        rows, width = weight.flatten(0, -2).shape  # experts one below the other
        self.layer = LAYERS[kind](width, rows, bias=False, dtype=torch.float32, device="cpu")
        formats = {"int8": (torch.int8, width), "int4": (torch.uint4, min(GROUP, width))}
        dtype, group_size = formats[kind]
        config = IntxFakeQuantizeConfig(dtype, group_size=group_size, is_symmetric=kind == "int8", is_dynamic=False)
        self.quantizer = IntxFakeQuantizer(config)

    def forward(self, weight):
        rows = weight.flatten(0, -2)
        with torch.no_grad():
            self.layer.set_weight(rows)
        self.quantizer.scale = self.layer.scale.float()
        zero_point = getattr(self.layer, "zero_point", torch.zeros_like(self.layer.scale))
        self.quantizer.zero_point = zero_point.int()
        return self.quantizer(rows).view_as(weight)


def rounded_places(model, kind):
    """Where the kit rounds: modules of transformers' `model`, each with the name of its weight."""
    ours = checkpoint.load_model(HERE, weights=kind, activations="fp32")
    for name, part in ours.named_modules():
        if isinstance(part, QuantizedLinear):
            yield model.get_submodule(f"model.{name}"), "weight"
        if isinstance(part, QuantizedStack):
            experts, _, stack = f"model.{name}".rpartition(".")
            yield model.get_submodule(experts), stack


def tune(model, text, seed, args):
    """Train in place for `args.steps` steps, as train.py does."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(decay_groups(model, 0.1), betas=(0.9, 0.95), foreach=True)
    routers = watch_routers(model)
    for step in tqdm(range(args.steps), unit="step", mininterval=5, leave=False):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, args.steps, args.lr, warmup=args.warmup)
        inputs = random_batch(text, args.batch, args.context, generator)
        with parametrize.cached():  # experts are rounded once a step, not once for each of them
            model(inputs, labels=inputs).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        balance(routers)


def tuned_weights(kind, text, seed, args):
    """The weights after training, by name and in FP32, and the seconds that it took."""
    torch.manual_seed(seed)
    model = trained_model()
    places = list(rounded_places(model, kind)) if kind in LAYERS else []
    for module, name in places:
        parametrize.register_parametrization(module, name, Rounding(kind, getattr(module, name)), unsafe=True)
    began = time.perf_counter()
    if kind != "none":
        tune(model, text, seed, args)
    seconds = time.perf_counter() - began
    for module, name in places:
        parametrize.remove_parametrizations(module, name, leave_parametrized=False)
    return model.state_dict(), seconds


def stored_loss(state, stored, windows):
    """Held-out loss in nats per byte of the weights `state`, stored as `stored` and multiplied in FP32."""
    model = checkpoint.load_model(HERE, weights=stored, activations="fp32")
    checkpoint.fill_from(model, state)
    return small.heldout_loss(model, windows=windows)


def run(kind, text, seed, args):
    """One training run; yields a row of the table for each format in which its outcome is stored."""
    state, seconds = tuned_weights(kind, text, seed, args)
    known = {"date": datetime.date.today().isoformat(), "training": kind, "seconds": round(seconds, 1), "device": "CPU"}
    known |= {"batch": args.batch, "context": args.context, "lr": args.lr, "threads": args.threads}
    known |= {"seed": "" if kind == "none" else seed, "steps": 0 if kind == "none" else args.steps}
    known |= {name: importlib.metadata.version(name) for name in ("torch", "torchao", "transformers")}
    for stored in KINDS[kind]:
        loss = stored_loss(state, stored, args.windows)
        bits = round(loss / math.log(2), 5)
        yield known | {"stored": stored, "heldout_loss": round(loss, 5), "bits_per_byte": bits}


def append(rows, path):
    """Append rows to the table at `path`, with a head line if it is new."""
    new = not path.exists()
    with open(path, "a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerows(rows)


def arguments():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--training", nargs="+", choices=KINDS, default=list(KINDS), help="what to round in training")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--warmup", type=int, default=20, help="steps in which the learning rate rises")
    parser.add_argument("--batch", type=int, default=8, help="windows in one step")
    parser.add_argument("--context", type=int, default=256, help="bytes in one window")
    parser.add_argument("--lr", type=float, default=6e-4, help="the highest learning rate")
    parser.add_argument("--windows", type=int, help="held-out windows of 512 bytes to measure on; left out, all")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=HERE / "qat.csv", help="the table to append to")
    return parser.parse_args()


def main():
    """Every kind of training with every seed; each run's rows are written as soon as it is done."""
    args = arguments()
    torch.set_num_threads(args.threads)
    text, _ = read_texts(HERE)
    runs = [(kind, seed) for seed in args.seeds for kind in args.training if kind != "none" or seed == args.seeds[0]]
    progress = tqdm(runs, unit="run")
    for kind, seed in progress:
        progress.set_description(f"training {kind}, seed {seed}")
        with quiet():  # torchao warns when it is imported, and transformers imports it
            rows = list(run(kind, text, seed, args))
        append(rows, args.out)
        for row in rows:
            progress.write(f"training {kind:<6} seed {seed}, stored {row['stored']}: {row['heldout_loss']} nats a byte")


if __name__ == "__main__":
    main()
