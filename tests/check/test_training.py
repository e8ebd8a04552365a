"""Notebook 06's exercises: the right answers and the common mistakes, written as a reader would write them."""

import types

from exercises import checks_of

import dsmem


def batch_of(capacity, n_params, layers, h, a, vocab, s, states=16, scores=2, each=4):
    activations = layers * (16 * h * s + scores * a * s * s) + s * h + 2 * s * vocab
    return (capacity - states * n_params) / (each * activations)


def gpu(**slip):
    """The largest batch with one slip, by the arguments of a reader's function."""

    def answer(n_params, num_hidden_layers, hidden_size, num_attention_heads, vocab_size, seq_len, capacity_bytes):
        sizes = [n_params, num_hidden_layers, hidden_size, num_attention_heads, vocab_size, seq_len]
        sizes[1] = slip.get("layers", sizes[1])
        inside = {name: value for name, value in slip.items() if name in ("states", "scores", "each")}
        found = batch_of(capacity_bytes * slip.get("unit", 1), *sizes, **inside)
        return int(found) + slip.get("more", 0)

    return answer


def lora(arch, rank, base=2, each=16, layers=None):
    outs = (arch.num_attention_heads + arch.num_key_value_heads) * arch.head_dim
    numbers = rank * (2 * arch.hidden_size + outs) * (layers or arch.num_hidden_layers)
    return base * arch.n_params + each * numbers


def by_sizes(**slip):
    """The bytes of LoRA with one slip, by the arguments of a reader's function."""

    def answer(n_params, rank, num_hidden_layers, hidden_size, num_attention_heads, num_key_value_heads, head_dim):
        arch = types.SimpleNamespace(n_params=n_params, num_hidden_layers=num_hidden_layers, hidden_size=hidden_size)
        arch.num_attention_heads, arch.num_key_value_heads, arch.head_dim = (
            num_attention_heads,
            num_attention_heads if slip.get("wide") else num_key_value_heads,
            head_dim,
        )
        return lora(arch, rank, **{name: value for name, value in slip.items() if name != "wide"})

    return answer


def whole_matrices(n_params, rank, num_hidden_layers, hidden_size, num_attention_heads, num_key_value_heads, head_dim):
    numbers = hidden_size * head_dim * (num_attention_heads + num_key_value_heads)
    return 2 * n_params + 16 * num_hidden_layers * rank * numbers


RIGHT = {
    "optimizer_states_bytes": lambda n_params, moments, bits: n_params * moments * bits / 8,
    "gpt_block_saved_bytes": lambda batch, seq_len, hidden_size, num_attention_heads: (
        34 * seq_len * batch * hidden_size + 5 * num_attention_heads * seq_len**2 * batch
    ),
    "largest_training_batch": gpu(),
    "lora_training_bytes": by_sizes(),
}

WRONG = {
    "optimizer_states_bytes": {
        "2 × 2 × 2: factors in place of a sum": lambda n_params, moments: n_params * (8 if moments == 2 else 4),
        "one average only": lambda n_params, bits: n_params * bits / 8,
        "master copy counted in": lambda n_params, moments, bits: n_params * (moments * bits / 8 + 4),
        "gradients counted in": lambda n_params, moments, bits: n_params * (moments * bits / 8 + bits / 8),
        "`bits` ignored, always 2 bytes": lambda n_params, moments: 2 * n_params * moments,
        "`bits // 8` too early": lambda n_params, moments, bits: n_params * moments * (bits // 8),
    },
    "gpt_block_saved_bytes": {
        "one hidden state": lambda batch, seq_len, hidden_size: batch * seq_len * hidden_size * 2,
        "two hidden states": lambda batch, seq_len, hidden_size: 2 * batch * seq_len * hidden_size * 2,
        "scores left out": lambda batch, seq_len, hidden_size: 34 * batch * seq_len * hidden_size,
        "scores of one head": lambda batch, seq_len, hidden_size: batch * seq_len * (34 * hidden_size + 5 * seq_len),
        "length only once in the scores": lambda batch, seq_len, hidden_size, num_attention_heads: (
            batch * seq_len * (34 * hidden_size + 5 * num_attention_heads)
        ),
        "masks of two bytes": lambda batch, seq_len, hidden_size, num_attention_heads: (
            batch * seq_len * (36 * hidden_size + 6 * num_attention_heads * seq_len)
        ),
        "all layers": lambda batch, seq_len, hidden_size, num_attention_heads, num_hidden_layers: (
            num_hidden_layers * batch * seq_len * (34 * hidden_size + 5 * num_attention_heads * seq_len)
        ),
        "batch forgotten": lambda seq_len, hidden_size, num_attention_heads: (
            seq_len * (34 * hidden_size + 5 * num_attention_heads * seq_len)
        ),
    },
    "largest_training_batch": {
        "GiB in place of GB": gpu(unit=2**30 / 1e9),
        "states left out": gpu(states=0),
        "weights alone beside the activations": gpu(states=4),
        "gradients forgotten": gpu(states=12),
        "scores forgotten": gpu(scores=0),
        "one layer only": gpu(layers=1),
        "rounded up": gpu(more=1),
        "16 bit": gpu(states=8, each=2),
    },
    "lora_training_bytes": {
        "base left out": by_sizes(base=0),
        "rank times the whole matrix": whole_matrices,
        "values as wide as queries": by_sizes(wide=True),
        "gradients and averages of the base, too": by_sizes(base=16),
        "the adapters' weights alone": by_sizes(each=4),
        "one layer only": by_sizes(layers=1),
    },
}

test_a_mistake_is_refused_and_named, test_the_right_answer_and_all_mistakes_stand_apart = checks_of(RIGHT, WRONG)


def test_gpt2_xl_trains_with_three_sequences_of_1024_tokens_in_80_gb():
    # Stanford's CS336 asks for it in its first assignment: AdamW, all in FP32
    exercise = dsmem.check.largest_training_batch
    xl = dsmem.Architecture.of("gpt2-xl")
    assert exercise.cases[0]["n_params"] == xl.n_params == 1_557_611_200
    assert RIGHT["largest_training_batch"](**exercise.cases[0]) == 3


def test_an_adapter_case_by_the_model_itself():
    arch = dsmem.Architecture.of("deepseek-r1-distill-qwen-7b")
    case = dsmem.check.lora_training_bytes.cases[0]
    assert RIGHT["lora_training_bytes"](**case) == lora(arch, 8)
