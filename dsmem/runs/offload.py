"""Accelerate's offload: a checkpoint spread over GPU, host memory and disk under stated limits, and what that costs.

The library does it: `init_empty_weights` builds a model without weights, `load_checkpoint_and_dispatch` places them and
hangs hooks on the modules that fetch what is not on the main device right before it is used. Here is what it placed
where, what was alive at the peak, whether the answer is the same, and the time of a pass beside the link's own.
"""

import contextlib
import dataclasses
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from dsmem.memory.ledger import Ledger
from dsmem.model.devices import TORCH_DTYPES
from dsmem.model.hub import quiet, require_transformers
from dsmem.model.small import small_path
from dsmem.table import Table
from dsmem.units import format_bytes, format_name, one_of, parse_bytes, whole_number

PASSES = 5
SHARD_BYTES = 600_000
"""Bytes of one file of the small model's checkpoint: six files, as a large model has many."""


@dataclasses.dataclass(frozen=True, repr=False)
class OffloadRun:
    """One model under limits. device_map: Accelerate's, {module: place}, a place being "disk", "cpu" or a GPU's number.

    placed: {place: bytes of the parameters that the map puts there}. found: {place: bytes that are there}: of tensors
    in memory, and of files in the offload folder. resident_bytes: on the main device before a pass, buffers and all.
    peak_bytes: the most alive there in a pass, by the ledger; where the CPU is the main device, a tensor that is being
    fetched stands there twice, as its mapped file and as its copy. largest_bytes: of the one module whose weights are
    fetched that takes most. crossing_bytes: what a pass fetches.
    equal: whether logits are those of the same model in one place, bit for bit. seconds: {"in one place", "offloaded"},
    medians of a pass. read_bytes_per_s: of the offload folder's files, read in the same run.
    """

    name: str
    limits: dict[Any, int]
    device_map: dict[str, Any]
    placed: dict[str, int]
    found: dict[str, int]
    resident_bytes: int
    peak_bytes: int
    largest_bytes: int
    crossing_bytes: int
    equal: bool
    seconds: dict[str, float]
    read_bytes_per_s: float

    @property
    def floor_seconds(self) -> float:
        """The least that a pass can take: all that is fetched, at the speed that it can be read."""
        return self.crossing_bytes / self.read_bytes_per_s

    def table(self) -> Table:
        """What lives where, as a `Table`."""
        total = sum(self.placed.values())
        rows = [(place, size, self.found.get(place, 0), size, size / total) for place, size in self.placed.items()]
        columns = {"place": None, "by the map": ",", "found": ",", "size": format_bytes, "share": ".1%"}
        return Table(columns, rows, f"{self}.")

    def __str__(self) -> str:
        limits = ", ".join(f"{place}: {format_bytes(size)}" for place, size in self.limits.items())
        same = "the same" if self.equal else "another"
        return (
            f"{self.name} under {limits}: {format_bytes(self.crossing_bytes)} cross at every pass, the peak is "
            f"{format_bytes(self.peak_bytes)}, and the answer is {same} as in one place"
        )

    def __repr__(self) -> str:
        return repr(self.table())

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()


def run_offload(
    limits: dict, source: Any = None, seq_len: int = 16, dtype: Any = "bf16", offload_buffers: bool = True
) -> OffloadRun:
    """Load a checkpoint with `device_map="auto"` under `limits`, run passes of `seq_len` tokens, and say what it took.

    limits: {place: bytes, or a text with a unit}, as Accelerate's max_memory: "cpu", and GPUs by number; what does not
    fit goes to disk. Without a GPU the CPU is the main device. source: a folder that transformers can load, by default
    the small trained model; its weights are first written anew in several files, into a temporary folder. dtype: of the
    weights. offload_buffers: as in Accelerate, whose default is False: then buffers of modules on disk are never read,
    the biases of DeepSeek-V3's routers stay zero, and other experts are chosen without a word. Raises ValueError
    without transformers, for limits that are none or leave all on disk, and for a folder without a config.

    Those biases stay in FP32, as `from_pretrained` keeps them: a model built in BF16 would round them while it loads.
    """
    require_transformers("offload")
    if not (isinstance(limits, dict) and limits):
        raise ValueError(f"limits={limits!r} names no place; it must be a dict such as {{'cpu': '1 GiB'}}")
    sizes = {place: _limit(place, size) for place, size in limits.items()}
    source, seq_len = Path(source or small_path()), whole_number("seq_len", seq_len)
    dtype = TORCH_DTYPES[one_of("dtype", format_name(dtype), TORCH_DTYPES, "a format of weights")]
    if not (source / "config.json").is_file():
        raise ValueError(f"source={str(source)!r} has no config.json; it must be a folder that transformers can load")
    with quiet(), _no_bars(), tempfile.TemporaryDirectory(prefix="dsmem-offload-") as folder, torch.no_grad():
        files, offload = Path(folder, "checkpoint"), Path(folder, "offload")
        tokens, *alone = _in_one_place(source, dtype, seq_len, files)
        try:
            model = dispatched(source, files, sizes, offload, dtype, offload_buffers)
        except SafetensorError:  # how Accelerate ends where its map has no place but the disk
            raise ValueError(f"limits={limits!r} leave every module on disk; one at least must fit a device") from None
        return OffloadRun(
            source.name, sizes, dict(model.hf_device_map), **_seen(model, tokens, _main(sizes), alone, offload)
        )


def dispatched(
    source: Path, files: Path, limits: dict, offload: Path, dtype: torch.dtype, offload_buffers: bool = True
) -> torch.nn.Module:
    """The model of `source`'s config with the weights in `files`, placed by Accelerate; arguments as in `run_offload`.

    offload: the folder for what goes to disk.
    """
    from accelerate import init_empty_weights, load_checkpoint_and_dispatch
    from transformers import AutoConfig, AutoModelForCausalLM

    with init_empty_weights():
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(source), dtype=dtype)
        for module in model.modules():
            for name, buffer in list(module.named_buffers(recurse=False)):
                if name in (getattr(model, "_keep_in_fp32_modules_strict", None) or ()):
                    setattr(module, name, buffer.float())
    offload.mkdir(exist_ok=True)
    return load_checkpoint_and_dispatch(
        model,
        str(files),
        device_map="auto",
        max_memory=limits,
        no_split_module_classes=list(model._no_split_modules),
        offload_folder=str(offload),
        offload_buffers=offload_buffers,
    ).eval()


def save_sharded(model: torch.nn.Module, folder: Path, shard_bytes: int = SHARD_BYTES) -> None:
    """Write a model's weights as safetensors files of at most `shard_bytes` each, with their index."""
    from huggingface_hub import save_torch_state_dict

    folder.mkdir(parents=True, exist_ok=True)
    save_torch_state_dict(model.state_dict(), str(folder), max_shard_size=shard_bytes)


def read_bytes_per_s(folder: Path) -> float:
    """How fast the files of a folder are read, once the system has been asked to forget them."""
    files, total = sorted(folder.glob("*.dat")), 0
    for file in files:
        with open(file, "rb") as opened, contextlib.suppress(AttributeError):  # not on every system
            os.fsync(opened.fileno())
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    start = time.perf_counter()
    for file in files:
        total += len(file.read_bytes())
    return total / (time.perf_counter() - start) if total else float("inf")


def unrecognized(name: str = "deepseek-ai/DeepSeek-R1") -> str:
    """What `AutoModelForCausalLM.from_config` says to a name in the place of a config: its error's first line."""
    require_transformers("from_config")
    from transformers import AutoModelForCausalLM

    try:
        AutoModelForCausalLM.from_config(name)
    except (ValueError, AttributeError) as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0]}"
    return f"{name} was taken for a config"


def _in_one_place(source, dtype, seq_len, files):
    """Token ids, the logits and seconds of a pass of the model in one place; its weights lie in `files` then."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(source, dtype=dtype).eval()
    save_sharded(model, files)
    tokens = torch.randint(model.config.vocab_size, (1, seq_len), generator=torch.Generator().manual_seed(0))
    return tokens, *_timed(model, tokens)


def _seen(model, tokens, main, alone, offload):
    """The fields of an `OffloadRun` of passes on the device `main`. alone: logits and seconds in one place."""
    (expected, before), tokens, fetched = alone, tokens.to(main), _fetched(model)
    resident = sum(t.nbytes for t in (*model.parameters(), *model.buffers()) if str(t.device) == main)
    with Ledger(model) as ledger:
        logits = model(tokens, use_cache=False).logits
    return {
        "placed": _placed(model),
        "found": _found(model, offload),
        "resident_bytes": resident,
        "peak_bytes": ledger.by_device()[main],
        "largest_bytes": max(fetched.values(), default=0),
        "crossing_bytes": sum(fetched.values()),
        "equal": torch.equal(logits.cpu(), expected),
        "seconds": {"in one place": before, "offloaded": _timed(model, tokens)[1]},
        "read_bytes_per_s": read_bytes_per_s(offload),
    }


def _limit(place, size):
    if place != "cpu" and (isinstance(place, bool) or not isinstance(place, int)):
        raise ValueError(f"limits has the place {place!r}; it must be 'cpu' or the number of a GPU")
    if place != "cpu" and not 0 <= place < torch.cuda.device_count():
        raise ValueError(f"limits has the GPU {place}, and this machine has {torch.cuda.device_count()} of them")
    return whole_number(f"limits[{place!r}]", parse_bytes(size, f"limits[{place!r}]"), what="bytes")


def _main(limits):
    return next((f"cuda:{place}" for place in limits if place != "cpu"), "cpu")


def _timed(model, tokens):
    """(logits, median seconds of a pass)."""
    seconds = []
    for _ in range(PASSES + 1):
        start = time.perf_counter()
        logits = model(tokens, use_cache=False).logits.cpu()
        seconds.append(time.perf_counter() - start)
    return logits, statistics.median(seconds[1:])


def _place(device_map, name):
    """Where the map puts a tensor: the entry of the longest prefix of its name."""
    entries = [entry for entry in device_map if entry == "" or name == entry or name.startswith(f"{entry}.")]
    return str(device_map[max(entries, key=len)])


def _placed(model):
    placed = {}
    for name, parameter in model.named_parameters():
        place = _place(model.hf_device_map, name)
        placed[place] = placed.get(place, 0) + parameter.nbytes
    return placed


def _found(model, offload):
    """Bytes of parameters in memory by place, and of the files on disk."""
    found = {}
    for parameter in model.parameters():
        if parameter.device.type != "meta":
            place = str(parameter.device).removeprefix("cuda:")
            found[place] = found.get(place, 0) + parameter.nbytes
    index = offload / "index.json"
    names = json.loads(index.read_text()) if index.exists() else {}
    own = {name for name, _ in model.named_parameters()}
    found["disk"] = sum((offload / f"{name}.dat").stat().st_size for name in names if name in own)
    return {place: size for place, size in found.items() if size}


def _fetched(model):
    """{module: bytes of its own parameters} of the modules whose weights come before each use."""
    found = {}
    for name, parameter in model.named_parameters():
        if parameter.device.type == "meta":
            module = name.rpartition(".")[0]
            found[module] = found.get(module, 0) + parameter.nbytes
    return found


@contextlib.contextmanager
def _no_bars() -> Iterator[None]:
    """Inside, neither transformers nor accelerate draws a bar for each file."""
    from accelerate.utils import modeling
    from transformers.utils import logging

    shown, asked = logging.is_progress_bar_enabled(), modeling.is_tqdm_available
    logging.disable_progress_bar()
    modeling.is_tqdm_available = lambda: False  # it has no switch, and in a notebook its bars are no text on stderr
    try:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
            yield
    finally:
        modeling.is_tqdm_available = asked
        if shown:
            logging.enable_progress_bar()
