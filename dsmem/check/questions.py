"""The twenty questions of the quiz, each answered somewhere in the series."""

from typing import NamedTuple


class Question(NamedTuple):
    """One question. options: the answers "a" to "d". right: the letter. why: in a sentence. notebook: its number."""

    text: str
    options: tuple[str, str, str, str]
    right: str
    why: str
    notebook: str


QUESTIONS = (
    Question(
        "R1-Distill-Qwen-7B has 7.6 billion parameters. How much memory do they take in BF16?",
        ("7.1 GiB", "14.2 GiB", "15.2 GiB", "28.4 GiB"),
        "b",
        "Two bytes each are 15.2 GB, and that is 14.2 GiB.",
        "01",
    ),
    Question(
        "R1 has 671 billion parameters, and a token uses 37 billion. How many must be in memory to serve it?",
        ("37 billion", "74 billion", "all 671 billion", "it depends on the prompt"),
        "c",
        "Which experts a token needs is known only when it arrives.",
        "01",
    ),
    Question(
        "bitsandbytes stores the 7B in INT8 in 8.1 GiB, not 7.1. What makes most of the difference?",
        ("embedding and head, left in 16 bit", "scales", "biases", "zero points"),
        "a",
        "Its tools leave both alone: 1.09 billion numbers, two bytes each.",
        "04",
    ),
    Question(
        "The 7B reads 4 prompts of 1,024 tokens and keeps all logits. When is most memory in use?",
        ("in attention", "in the MLP", "at the head", "at the embedding"),
        "c",
        "Logits are 152,064 numbers for each token, more than any other tensor.",
        "02",
    ),
    Question(
        "With a fused attention kernel, how does a prompt's working memory grow with its length?",
        ("not at all", "in proportion", "with its square", "with its logarithm"),
        "b",
        "Scores are never stored, so only tensors of one row a token are left.",
        "02",
    ),
    Question(
        "A model gets twice as many layers. What does the working memory of inference do, without weights and cache?",
        ("it doubles", "it grows by half", "it stays", "it halves"),
        "c",
        "A layer's tensors are gone before the next layer makes its own.",
        "02",
    ),
    Question(
        "Beside Llama-2-7B, how much cache does R1 need for a token, at the same precision?",
        ("96 times as much", "as much", "about a seventh", "none"),
        "c",
        "R1 caches one latent of 576 numbers a layer for all heads: 70,272 bytes against 524,288.",
        "03",
    ),
    Question(
        "Which field of config.json sets the size of a KV cache with grouped attention?",
        ("num_key_value_heads", "num_attention_heads", "hidden_size", "vocab_size"),
        "a",
        "Several query heads share each head that is cached.",
        "03",
    ),
    Question(
        "A cache grows by `torch.cat` at each token. How much of it is in memory at the worst moment?",
        ("twice the whole", "three times the whole", "the whole, once", "the whole, and one layer's once more"),
        "d",
        "Each layer's new tensor stands beside its old one, and then the old one goes.",
        "03",
    ),
    Question(
        "Contiguous caches hold tokens in 20 to 38% of their memory. And paged ones, as vLLM's?",
        ("about half", "70%", "96%", "all of it"),
        "c",
        "On average half a page of each sequence is empty.",
        "03",
    ),
    Question(
        "A weight-only INT8 kernel multiplies. What stands in memory beside the INT8 weight?",
        ("a 16-bit copy of this layer's weight", "nothing", "an FP32 copy of all weights", "the next layer"),
        "a",
        "It is made again for each layer, 129.5 MiB for one matrix of the 7B.",
        "04",
    ),
    Question(
        "The first tensor of a process has 1,000 bytes. How much does PyTorch's allocator take from the GPU?",
        ("1,000 bytes", "1,024 bytes", "64 KiB", "2 MiB"),
        "d",
        "Small tensors come from segments of 2 MiB.",
        "05",
    ),
    Question(
        "nvidia-smi shows more than torch's `memory_reserved`. What is the rest, mostly?",
        ("a leak", "free blocks", "the KV cache", "the CUDA context"),
        "d",
        "Each process has one, from a tenth of a GiB to about half of one, before its first tensor.",
        "05",
    ),
    Question(
        "How many bytes a parameter are AdamW's states in FP32?",
        ("2", "4", "8", "16"),
        "c",
        "Two running averages of 4 bytes; they add up and do not multiply.",
        "06",
    ),
    Question(
        "What does activation checkpointing make smaller?",
        ("what forward keeps for backward", "optimizer states", "gradients", "weights"),
        "a",
        "It keeps a layer's input and computes the rest once more.",
        "06",
    ),
    Question(
        "A 7B in FP32 under BF16 autocast, 1 × 2,048 tokens, AdamW as torch has it on a GPU. When is the peak?",
        ("in forward", "in backward", "in the optimizer's step", "while loading"),
        "c",
        "The foreach kernel makes temporaries as large as all parameters.",
        "06",
    ),
    Question(
        "LoRA trains 0.1% of a 7B whose full training takes 121.8 GB before activations. What is left of that?",
        ("0.12 GB", "1.2 GB", "15.4 GB", "60.9 GB"),
        "c",
        "The frozen weights stay: 15.2 GB.",
        "06",
    ),
    Question(
        "R1 is cut over 8 GPUs by tensor parallelism. How much of its latent cache does each hold?",
        ("an eighth", "a quarter", "half", "all of it"),
        "d",
        "All heads share one latent, so every rank needs it whole.",
        "07",
    ),
    Question(
        "R1 in FP8 on 8 H100 of 80 GB: does it fit?",
        ("with room to spare", "its weights do, a useful cache does not", "half of its weights do", "only in BF16"),
        "b",
        "626.9 GiB of weights leave next to nothing of 8 × 79.2 GiB.",
        "08",
    ),
    Question(
        "A GPU reads 4.8 TB a second. How long does a token of the 7B in BF16 take at least, at batch 1?",
        ("0.3 ms", "3.2 ms", "32 ms", "320 ms"),
        "b",
        "All 15.2 GB are read for each token.",
        "09",
    ),
)
