"""Exercises of notebook 06: states of the optimizer, what backward needs, the largest batch, and adapters."""

from dsmem import formulas
from dsmem.check.cases import NO_BATCH, bits_mistakes, fields
from dsmem.check.exercise import Exercise, Mistake
from dsmem.units import GB, GIB


def _states_case(n_params, moments, bits):
    return {"n_params": n_params, "moments": moments, "bits": bits}


optimizer_states_bytes = Exercise(
    "optimizer_states_bytes",
    "Return the bytes of an optimizer's running averages: `moments` numbers of `bits` for each parameter.",
    formulas.optimizer_states_bytes,
    (
        _states_case(7_615_616_512, 2, 32),  # AdamW, as usual
        _states_case(7_615_616_512, 1, 32),  # Lion
        _states_case(671_026_404_352, 2, 16),  # AdamW as DeepSeek-V3 keeps it
        _states_case(1_557_611_200, 2, 4),  # 4-bit optimizers
    ),
    nudge="How many numbers does the optimizer keep for one parameter, and how wide is each?",
    mistakes=(
        Mistake(
            "2 × 2 × 2: factors in place of a sum",
            "The averages lie beside each other: their bytes are added, and only by luck 2 × 2 × 2 is 4 + 4.",
            lambda n_params, moments: n_params * 2**moments * 2,
        ),
        Mistake("one average only", "AdamW keeps two, of gradients and of their squares.", {"moments": 1}),
        Mistake(
            "master copy counted in",
            "The FP32 copy of the weights is a part of its own.",
            lambda n_params, moments, bits: n_params * moments * bits // 8 + 4 * n_params,
        ),
        Mistake(
            "gradients counted in",
            "Gradients are freed after each step; the optimizer's averages stay.",
            lambda n_params, moments, bits: n_params * (moments + 1) * bits // 8,
        ),
        *bits_mistakes(formulas.optimizer_states_bytes),
    ),
    notebook="06",
)


def _block_saved_bytes(batch, seq_len, hidden_size, num_attention_heads):
    return batch * seq_len * (34 * hidden_size + 5 * num_attention_heads * seq_len)


def _block_case(num_hidden_layers, hidden_size, num_attention_heads, batch, seq_len):
    sizes = {"num_hidden_layers": num_hidden_layers, "hidden_size": hidden_size}
    return sizes | {"num_attention_heads": num_attention_heads, "batch": batch, "seq_len": seq_len}


gpt_block_saved_bytes = Exercise(
    "gpt_block_saved_bytes",
    "Return the bytes that one GPT block keeps for backward in 16 bit, with dropout, its scores written out.",
    _block_saved_bytes,
    (
        _block_case(48, 1600, 25, 1, 1024),  # GPT-2 XL
        _block_case(32, 4096, 32, 16, 2048),
        _block_case(96, 12288, 96, 2, 2048),  # GPT-3
    ),
    nudge="Which tensors does each operation need again when its gradient is worked out? Count copies of the input.",
    mistakes=(
        Mistake(
            "one hidden state",
            "That is what a layer hands on; backward needs what each operation inside was given.",
            lambda batch, seq_len, hidden_size: 2 * batch * seq_len * hidden_size,
        ),
        Mistake(
            "two hidden states",
            "Training does not double what a forward pass holds: count what every operation keeps.",
            lambda batch, seq_len, hidden_size: 4 * batch * seq_len * hidden_size,
        ),
        Mistake(
            "scores left out",
            "Without a fused kernel, softmax and dropout keep numbers for each head and pair of tokens.",
            {"num_attention_heads": 0},
        ),
        Mistake("scores of one head", "Every head has scores of its own.", {"num_attention_heads": 1}),
        Mistake(
            "length only once in the scores",
            "Every token looks at every token, so there the length counts squared.",
            lambda batch, seq_len, hidden_size, num_attention_heads: (
                batch * seq_len * (34 * hidden_size + 5 * num_attention_heads)
            ),
        ),
        Mistake(
            "masks of two bytes",
            "Dropout's masks say yes or no: one byte a number.",
            lambda batch, seq_len, hidden_size, num_attention_heads: (
                batch * seq_len * (36 * hidden_size + 6 * num_attention_heads * seq_len)
            ),
        ),
        Mistake("all layers", "The task is about one block.", {"times": "num_hidden_layers"}),
        NO_BATCH,
    ),
    notebook="06",
)


def _largest_batch(n_params, num_hidden_layers, hidden_size, num_attention_heads, vocab_size, seq_len, capacity_bytes):
    states = 16 * n_params  # weights, gradients and two averages, 4 bytes each
    layer = 16 * hidden_size + 2 * num_attention_heads * seq_len
    sequence = 4 * seq_len * (num_hidden_layers * layer + hidden_size + 2 * vocab_size)
    return (capacity_bytes - states) // sequence


def _with(**replaced):
    """The largest batch with some of the inputs replaced: `states` are bytes a parameter, `scores` numbers a score."""

    def slip(n_params, num_hidden_layers, hidden_size, num_attention_heads, vocab_size, seq_len, capacity_bytes):
        how = {"states": 16, "scores": 2, "each": 4, "layers": num_hidden_layers, "up": 0} | replaced
        layer = 16 * hidden_size + how["scores"] * num_attention_heads * seq_len
        sequence = how["each"] * seq_len * (how["layers"] * layer + hidden_size + 2 * vocab_size)
        left = capacity_bytes - how["states"] * n_params
        return -(-left // sequence) if how["up"] else left // sequence

    return slip


_GPT = ("n_params", "num_hidden_layers", "hidden_size", "num_attention_heads", "vocab_size")


def _gpu_case(model, seq_len, gigabytes):
    return fields(model, *_GPT) | {"seq_len": seq_len, "capacity_bytes": gigabytes * GB}


largest_training_batch = Exercise(
    "largest_training_batch",
    "Return how many sequences fit beside weights, gradients and AdamW's two averages, all in FP32, where for each "
    "token a layer keeps 16 vectors of hidden_size and 2 numbers for each head and attended token, and the end of the "
    "model one vector more and 2 numbers for each word of the vocabulary.",
    _largest_batch,
    (_gpu_case("gpt2-xl", 1024, 80), _gpu_case("opt-6.7b", 256, 141), _gpu_case("qwen2.5-0.5b", 512, 24)),
    nudge="Split the bytes: what does not depend on the batch, and what does each sequence bring along?",
    mistakes=(
        Mistake(
            "GiB in place of GB",
            "A GB is 10**9 bytes, and the capacity comes in bytes.",
            lambda capacity_bytes, **inputs: _largest_batch(**inputs, capacity_bytes=capacity_bytes * GIB // GB),
        ),
        Mistake("states left out", "Weights, gradients and averages take their place first.", _with(states=0)),
        Mistake(
            "weights alone beside the activations",
            "Gradients and two averages are as large as the weights, each of them.",
            _with(states=4),
        ),
        Mistake("gradients forgotten", "They are alive when backward is done: 4 bytes a parameter.", _with(states=12)),
        Mistake("scores forgotten", "Each head and pair of tokens has 2 numbers.", _with(scores=0)),
        Mistake("one layer only", "In training every layer keeps its own until backward.", _with(layers=1)),
        Mistake("rounded up", "The last sequence does not fit whole.", _with(up=1)),
        Mistake("16 bit", "All is in FP32 here: 4 bytes a number.", _with(states=8, each=2)),
    ),
    unit="sequences",
    notebook="06",
)


def _lora_training_bytes(
    n_params, rank, num_hidden_layers, hidden_size, num_attention_heads, num_key_value_heads, head_dim
):
    queries = rank * (hidden_size + num_attention_heads * head_dim)
    values = rank * (hidden_size + num_key_value_heads * head_dim)
    return 2 * n_params + 16 * num_hidden_layers * (queries + values)


_ADAPTED = (*_GPT[:4], "num_key_value_heads", "head_dim")


def _lora_case(model, rank):
    return fields(model, *_ADAPTED) | {"rank": rank}


def _adapters(rank, num_hidden_layers, hidden_size, num_attention_heads, num_key_value_heads, head_dim):
    return _lora_training_bytes(
        0, rank, num_hidden_layers, hidden_size, num_attention_heads, num_key_value_heads, head_dim
    )


def _whole_matrices(n_params, rank, num_hidden_layers, hidden_size, num_attention_heads, num_key_value_heads, head_dim):
    width = (num_attention_heads + num_key_value_heads) * head_dim
    return 2 * n_params + 16 * num_hidden_layers * rank * hidden_size * width


lora_training_bytes = Exercise(
    "lora_training_bytes",
    "Return the bytes of weights, gradients and AdamW's averages when LoRA of `rank` trains q_proj and v_proj: the "
    "base is frozen in 16 bit, the adapters are in FP32.",
    _lora_training_bytes,
    (_lora_case("deepseek-r1-distill-qwen-7b", 8), _lora_case("llama-2-7b", 64), _lora_case("qwen2.5-0.5b", 16)),
    nudge="Two matrices stand beside each adapted layer: what is the shape of each? And what of the base stays?",
    mistakes=(
        Mistake(
            "base left out",
            "It is frozen, not gone: every forward pass reads it, 2 bytes a parameter.",
            _adapters,
        ),
        Mistake(
            "rank times the whole matrix",
            "A is rank × n_in, B is n_out × rank: r (n_in + n_out) numbers.",
            _whole_matrices,
        ),
        Mistake(
            "values as wide as queries",
            "Values have num_key_value_heads heads, which may be fewer.",
            {"num_key_value_heads": "num_attention_heads"},
        ),
        Mistake(
            "gradients and averages of the base, too",
            "What is frozen has none.",
            lambda n_params, **inputs: _adapters(**inputs) + 16 * n_params,
        ),
        Mistake(
            "the adapters' weights alone",
            "They are trained: gradients and two averages go with them, 16 bytes in all.",
            lambda n_params, **inputs: 2 * n_params + _adapters(**inputs) // 4,
        ),
        Mistake("one layer only", "Every layer has adapters of its own.", {"num_hidden_layers": 1}),
    ),
    notebook="06",
)
