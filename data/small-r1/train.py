"""Train the small model of this folder from its text, on a CPU, in about twelve minutes.

python data/small-r1/train.py

Reads `config.json` and the two texts beside this file; writes `model.safetensors` (BF16), `loss.csv` and
`training.json` there, or into `--out`. A token is a byte. The method is DeepSeek-V3's own where this size allows it:
AdamW with weight decay 0.1 and betas 0.9 and 0.95, gradients clipped to 1, and experts balanced without an auxiliary
loss (DeepSeek-V3, arXiv:2412.19437, sections 2.1.2 and 4.2). Left out: multi-token prediction, YaRN, FP8.
"""

import argparse
import csv
import json
import lzma
import math
import time
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.torch import save_file
from tqdm import tqdm

HERE = Path(__file__).parent


def read_texts(folder):
    """The training text and the held-out text, as int64 tensors of bytes."""
    texts = lzma.decompress((folder / "train.txt.xz").read_bytes()), (folder / "heldout.txt").read_bytes()
    return [torch.from_numpy(np.frombuffer(text, np.uint8).astype(np.int64)) for text in texts]


def random_batch(text, batch, context, generator):
    """`batch` windows of `context` + 1 bytes from random places, so that each window asks for `context` predictions."""
    starts = torch.randint(len(text) - context, (batch, 1), generator=generator)
    return text[starts + torch.arange(context + 1)]


@torch.inference_mode()
def heldout_loss(model, text, context=512, windows=None, batch=16):
    """Mean loss in nats per byte over the first `windows` windows (None: all) of `context` bytes, none overlapping."""
    inputs = text.unfold(0, context + 1, context)[:windows]
    model.eval()
    losses = [model(part, labels=part).loss.item() * len(part) for part in inputs.split(batch)]
    model.train()
    return sum(losses) / len(inputs)


def learning_rate(step, steps, top, warmup=100):
    """A linear rise over `warmup` steps, then a cosine down to a tenth of `top`."""
    if step < warmup:
        return top * (step + 1) / warmup
    return top * (0.55 + 0.45 * math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def padded_attention(module, query, key, value, attention_mask, scaling=None, **_):
    """Causal attention with the values widened to the width of the keys, as torch's fused kernel needs them."""
    width = value.shape[-1]
    value = torch.nn.functional.pad(value, (0, query.shape[-1] - width))
    out = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling)
    return out[..., :width].transpose(1, 2), None


def new_model(config):
    """A model in FP32 with random weights, its attention and experts in the form that is fastest on a CPU."""
    transformers.AttentionInterface.register("padded", padded_attention)
    model = transformers.DeepseekV3ForCausalLM._from_config(config, dtype=torch.float32)
    model.set_attn_implementation("padded")
    model.set_experts_implementation("eager")
    return model


def watch_routers(model):
    """The routers of the model; after each pass every one carries `load`, the tokens that each expert received."""

    def count(router, inputs, output):
        router.load = output[2].flatten().bincount(minlength=router.num_experts)

    routers = [module for name, module in model.named_modules() if name.endswith("mlp.gate")]
    for router in routers:
        router.register_forward_hook(count)
    return routers


@torch.no_grad()
def balance(routers, speed=0.001):
    """Move each expert's bias down if it received more tokens than the mean, up if it received fewer."""
    for router in routers:
        load = router.load.float()
        router.e_score_correction_bias += speed * torch.sign(load.mean() - load)


def decay_groups(model, weight_decay):
    """Matrices with weight decay, norms without."""
    matrices = [weight for weight in model.parameters() if weight.dim() > 1]
    norms = [weight for weight in model.parameters() if weight.dim() == 1]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": norms, "weight_decay": 0.0}]


def train(model, texts, args):
    """Train in place; returns rows of step, training loss (mean since the row before), held-out loss (16 KiB of it)."""
    generator = torch.Generator().manual_seed(args.seed)
    optimizer = torch.optim.AdamW(decay_groups(model, 0.1), betas=(0.9, 0.95), foreach=True)
    routers, losses, rows = watch_routers(model), [], []
    progress = tqdm(range(1, args.steps + 1), unit="step", mininterval=5)
    for step in progress:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step - 1, args.steps, args.lr)
        inputs = random_batch(texts[0], args.batch, args.context, generator)
        loss = model(inputs, labels=inputs).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        balance(routers)
        losses.append(loss.item())
        if step % args.every == 0 or step == args.steps:
            rows.append([step, round(np.mean(losses), 4), round(heldout_loss(model, texts[1], windows=32), 4)])
            progress.set_postfix(train=rows[-1][1], heldout=rows[-1][2])
            losses.clear()
    return rows


def stored(model):
    """The tensors to store: BF16, but the routers' biases FP32, as in DeepSeek's own checkpoint."""
    keep = "e_score_correction_bias"
    return {name: value if name.endswith(keep) else value.bfloat16() for name, value in model.state_dict().items()}


def write(model, rows, record, out):
    """Write the weights, the losses and the record of the training into the folder `out`."""
    out.mkdir(parents=True, exist_ok=True)
    save_file(stored(model), out / "model.safetensors", metadata={"format": "pt"})
    with open(out / "loss.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([["step", "train_loss", "heldout_loss"], *rows])
    (out / "training.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def arguments():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch", type=int, default=8, help="windows in one step")
    parser.add_argument("--context", type=int, default=512, help="bytes in one window")
    parser.add_argument("--lr", type=float, default=6e-3, help="the highest learning rate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--every", type=int, default=50, help="steps between two rows of loss.csv")
    parser.add_argument("--out", type=Path, default=HERE, help="the folder to write to")
    return parser.parse_args()


def main():
    """Build, train, round to BF16, measure what is stored, write."""
    args = arguments()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    model = new_model(transformers.DeepseekV3Config.from_pretrained(HERE))
    texts = read_texts(HERE)
    began = time.perf_counter()
    rows = train(model, texts, args)
    seconds = round(time.perf_counter() - began)
    model.load_state_dict(stored(model))  # from here on the values are those in the file
    loss = heldout_loss(model, texts[1])
    record = {"heldout_loss": round(loss, 4), "bits_per_byte": round(loss / math.log(2), 4), "seconds": seconds}
    record |= {name: getattr(args, name) for name in ("steps", "batch", "context", "lr", "seed", "threads")}
    record |= {"torch": torch.__version__, "transformers": transformers.__version__}
    write(model, rows, record, args.out)
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
