"""A step of training as people run it: forward and loss, backward, optimizer; of any module, fake or real.

A step is told who watches it: where a phase begins, and what the optimizer keeps. The model's own code is not changed:
what a layer keeps for backward is decided around its forward.
"""

import contextlib
import itertools
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensor

from dsmem.config.training import Training
from dsmem.model.checkpointing import attention_again, keep_less
from dsmem.model.devices import TORCH_DTYPES
from dsmem.model.optimizers import make_optimizer
from dsmem.units import FLOATS, format_name, one_of, whole_number

IGNORED = -100
"""The label of a position that has no next token; torch's cross entropy leaves it out."""

PHASES = ("forward", "backward", "optimizer step")


class TrainingStep:
    """One step of training a module, as often as wanted: `run()`.

    module: our `Decoder`, or a model of transformers; on fake, CPU or GPU tensors. It is put into training mode, all
    its parameters want gradients (with a lora_rank those alone that do already), and layers are wrapped where
    `training.checkpointing` says so. tokens: ids, (batch, seq_len). training: as in `Training.of`. activations: the
    format that torch.autocast computes in, where the precision is "autocast". attention: of our decoder, as in its
    call; a model of transformers was built with its own. around: makes a context that each run is to be in. optimizer:
    makes the optimizer, as `make_optimizer` does.
    The optimizer has its states before the first `run`, so every one is like the second step of a training.
    loss: a call that takes the tokens and gives the loss; may be replaced before a run.
    observer: None, or whoever is told of a run, such as a `Ledger`: `mark(phase)` as each of `PHASES` begins,
    `book(tensors, "optimizer")` for what the optimizer holds beside the parameters.
    """

    observer: Any = None

    def __init__(
        self,
        module: torch.nn.Module,
        tokens: torch.Tensor,
        training: Any = True,
        activations: Any = "bf16",
        attention: str = "auto",
        around: Callable = contextlib.nullcontext,
        optimizer: Callable = make_optimizer,
    ):
        self._around, self.module, self.training = around, module, Training.of(training)
        self.activations = one_of("activations", format_name(activations), FLOATS)
        self._trained = _prepared(module, self.training)
        first = self._trained[0]
        # a parameter that is cut over ranks wraps a fake one, and is none itself
        mode = getattr(module, "fake_mode", None) or getattr(first, "fake_mode", None)
        self._mode = mode or contextlib.nullcontext()
        self._device = first.device.type
        self._tokens = mode.from_tensor(tokens) if mode and not isinstance(tokens, FakeTensor) else tokens
        self.loss = loss_of(module, self.training, attention)
        keep_less(module, self.training)
        if hasattr(module, "arch"):
            module.dropout = self.training.dropout  # of our GPT block; other families have none
        scales = self._device == "cuda" and self.activations == "fp16" and self.training.precision == "autocast"
        self._scaler = torch.amp.GradScaler("cuda") if scales else None
        self._optimizers, self._clock = self._with_states(optimizer), None

    def run(self) -> torch.Tensor:
        """Forward and loss, backward, optimizer, and gradients let go; returns the loss, a number without a graph."""
        with self._around(), self._mode, torch.enable_grad(), self._hooks(), self._selected():
            self._tell_states()
            self._begin("forward")
            with self._autocast():
                loss = self.loss(self._tokens)
            self._begin("backward")
            (self._scaler.scale(loss) if self._scaler else loss).backward()
            loss = loss.detach()
            self._tell_gradients()
            self._begin("optimizer step")
            self._step()
            self._begin(None)
            self._tell_states()
        return loss

    def forward(self) -> torch.Tensor:
        """The loss alone, with its graph."""
        with self._around(), self._mode, torch.enable_grad(), self._selected(), self._autocast():
            return self.loss(self._tokens)

    def seconds(self, times: int = 3) -> dict[str, float]:
        """Median seconds of each phase over so many runs after one more, for warmth; on real tensors."""
        rows = []
        for _ in range(whole_number("times", times) + 1):
            self._clock = []
            self.run()
            rows.append([end - start for start, end in itertools.pairwise(self._clock)])
        self._clock = None
        medians = map(statistics.median, zip(*rows[1:], strict=True))
        return dict(zip(PHASES, medians, strict=True))

    def optimizer_tensors(self) -> list[torch.Tensor]:
        """What the optimizer holds beside the model's parameters: its states, and a copy of them that it steps."""
        own = {id(parameter) for parameter in self.module.parameters()}
        held = [tensor for optimizer in self._optimizers for tensor in optimizer_tensors(optimizer)]
        return [tensor for tensor in held if id(tensor) not in own]

    def states_of(self, parameter: torch.Tensor) -> list[torch.Tensor]:
        """The optimizer's states of one parameter; none of one that is not trained."""
        states = [optimizer.state.get(parameter, {}) for optimizer in self._optimizers]
        return [value for state in states for value in state.values() if isinstance(value, torch.Tensor)]

    def _with_states(self, make):
        """The optimizers, one of each parameter where it steps inside backward, after a step without gradients."""
        named = [(name, p) for name, p in self.module.named_parameters() if p.requires_grad]
        groups = [[pair] for pair in named] if self.training.step_in_backward else [named]
        optimizers = []
        with self._mode, torch.no_grad():
            for group in groups:
                if (optimizer := make(self.training, group)) is not None:
                    for _, parameter in group:
                        parameter.grad = torch.zeros_like(parameter)
                    optimizer.step()
                    optimizer.zero_grad(set_to_none=True)
                    optimizers.append(optimizer)
                for _, parameter in group:
                    parameter.grad = None
        return optimizers

    def _step(self):
        if not self.training.step_in_backward:
            for optimizer in self._optimizers:
                if self._scaler:
                    for each in getattr(optimizer, "optimizers", [optimizer]):
                        self._scaler.step(each)
                else:
                    optimizer.step()
            if self._scaler and self._optimizers:
                self._scaler.update()
        for optimizer in self._optimizers:
            optimizer.zero_grad(set_to_none=True)
        for parameter in self._trained:
            parameter.grad = None

    @contextlib.contextmanager
    def _hooks(self):
        """Inside, with step_in_backward, a gradient is used and let go as soon as it is there."""
        pairs = zip(self._trained, self._optimizers, strict=True) if self.training.step_in_backward else ()
        with contextlib.ExitStack() as hooks:
            for parameter, optimizer in pairs:
                hooks.callback(parameter.register_post_accumulate_grad_hook(_stepping(optimizer)).remove)
            yield

    def _selected(self):
        return contextlib.nullcontext() if hasattr(self.module, "arch") else attention_again(self.training)

    def _autocast(self):
        used = self.training.precision == "autocast"
        return torch.autocast(self._device, TORCH_DTYPES[self.activations], enabled=used)

    def _begin(self, phase):
        if self._clock is not None:
            if self._device == "cuda":
                torch.cuda.synchronize()
            self._clock.append(time.perf_counter())
        if phase and hasattr(self.observer, "mark"):
            self.observer.mark(phase)

    def _tell_states(self):
        if self.observer is not None:
            self.observer.book(self.optimizer_tensors(), "optimizer")

    def _tell_gradients(self):
        """Those that an FP32 copy of the parameters has; a ledger knows the parameters' own."""
        if self.observer is not None:
            grads = [tensor.grad for tensor in self.optimizer_tensors() if tensor.is_leaf and tensor.grad is not None]
            self.observer.book(grads, "gradient")


def loss_of(module: torch.nn.Module, training: Training, attention: str = "auto") -> Callable:
    """A call that takes tokens (batch, seq_len) and gives the mean loss of each next token, in float32.

    Arguments as in `TrainingStep`.
    """
    ours = hasattr(module, "arch")
    if training.loss_chunk is not None:
        states, head = (our_states(module, attention), module.head) if ours else library_states(module)
        return lambda tokens: chunked_loss(states(tokens), tokens, head, training.loss_chunk)
    if ours:
        return lambda tokens: next_token_loss(module(tokens, attention=attention), tokens)
    return lambda tokens: module(input_ids=tokens, labels=tokens, use_cache=False).loss


def next_token_loss(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Mean cross entropy of each next token in float32, as transformers takes it: labels are shifted, not logits.

    logits: (batch, seq_len, vocab_size). tokens: (batch, seq_len).
    """
    return F.cross_entropy(logits.float().flatten(0, 1), shifted(tokens).flatten(), ignore_index=IGNORED)


def chunked_loss(states: torch.Tensor, tokens: torch.Tensor, head: Callable, chunk: int) -> torch.Tensor:
    """The same with the logits of `chunk` tokens a sequence at a time: each chunk's are made again in backward.

    states: what the head is given, (batch, seq_len, hidden_size). head: gives the logits.
    """

    def part(states, labels):
        logits = head(states).float().flatten(0, 1)
        return F.cross_entropy(logits, labels.flatten(), ignore_index=IGNORED, reduction="sum")

    again = {"use_reentrant": False, "preserve_rng_state": False}
    pairs = zip(states.split(chunk, 1), shifted(tokens).split(chunk, 1), strict=True)
    total = sum(torch.utils.checkpoint.checkpoint(part, *pair, **again) for pair in pairs)
    return total / (tokens.shape[0] * (tokens.shape[1] - 1))


def shifted(tokens: torch.Tensor) -> torch.Tensor:
    """Each position's next token, (batch, seq_len); the last has none."""
    return F.pad(tokens[:, 1:], (0, 1), value=IGNORED)


def our_states(module: torch.nn.Module, attention: str) -> Callable:
    """A call that gives the normed states of our decoder, (batch, seq_len, hidden_size), from tokens."""
    return lambda tokens: module(tokens, attention=attention, logits="none")


def library_states(module: torch.nn.Module) -> tuple[Callable, Callable]:
    """The same of a model of transformers, and its head."""
    head = module.get_output_embeddings()
    if head is None or module.base_model is module:
        raise ValueError(f"loss_chunk is not run on {type(module).__name__}, which has no head apart; leave it out")
    return lambda tokens: module.base_model(input_ids=tokens, use_cache=False).last_hidden_state, head


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    """The tensors that an optimizer steps, and those of its states."""
    stepped = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    states = [value for state in optimizer.state.values() for value in state.values()]
    return stepped + [value for value in states if isinstance(value, torch.Tensor)]


def _prepared(module, training):
    """The module in training mode; the parameters that are trained, each once."""
    module.train()
    if training.lora_rank is None:
        module.requires_grad_(True)
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if not trained:
        raise ValueError("module has no parameter to train; with a lora_rank it must have its adapters already")
    return trained


def _stepping(optimizer):
    def hook(parameter):
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        parameter.grad = None

    return hook
