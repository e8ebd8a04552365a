"""The keys of one `config.json`: each is checked where it is read, and none that may move a byte stays unread."""

import sys
from collections.abc import Collection, Iterable, Mapping
from numbers import Real
from typing import Any

from dsmem.units import one_of, whole_number

REQUIRED = object()
LARGEST = sys.float_info.max  # an integer may be larger
LARGEST_SIZE = 2**31 - 1  # no model has a size beyond, and torch cannot make its tensors

HARMLESS = frozenset(
    # what a config says of itself, of the library, and of the way its files are loaded
    "architectures model_type auto_map transformers_version torch_dtype dtype quantization_config "
    "compression_config name_or_path unsloth_version unsloth_fixed ep_size use_bfloat16 tf_legacy_loss "
    "torchscript pruned_heads tie_encoder_decoder is_encoder_decoder is_decoder cross_attention_hidden_size "
    "add_cross_attention chunk_size_feed_forward "
    # training alone
    "attention_dropout hidden_dropout resid_pdrop embd_pdrop initializer_range aux_loss_alpha seq_aux "
    "output_router_logits router_aux_loss_coef router_jitter_noise pretraining_tp finetuning_task problem_type "
    "task_specific_params "
    # tokens, outputs and generation
    "bos_token_id eos_token_id pad_token_id sep_token_id unk_token_id decoder_start_token_id prefix id2label "
    "label2id num_labels tokenizer_class return_dict output_attentions output_hidden_states use_cache "
    "remove_invalid_values max_length min_length do_sample early_stopping num_beams num_beam_groups "
    "diversity_penalty temperature top_k top_p typical_p repetition_penalty length_penalty "
    "no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids num_return_sequences output_scores "
    "return_dict_in_generate forced_bos_token_id forced_eos_token_id exponential_decay_length_penalty "
    "suppress_tokens begin_suppress_tokens "
    # positions: they bound what is asked, and store nothing
    "max_position_embeddings original_max_position_embeddings max_sequence_length seq_length".split()
)
"""Keys that move no byte of a decoder, in every family."""


class Keys:
    """One config, its aliases resolved: every read is checked, and `finish` refuses what nobody read.

    values: the config as a dict. family: its model_type, for messages. aliases: {other spelling: the kit's name}, as in
    the config class's `attribute_map`. defaults: what the config class puts in place of an absent key. foreign: names
    of the kit that this family spells otherwise alone.
    """

    def __init__(
        self,
        values: dict[str, Any],
        family: str,
        aliases: Mapping[str, str],
        defaults: Mapping[str, Any],
        foreign: Collection[str] = (),
    ):
        self.family, self._values, self._read = family, dict(defaults), set()
        spelled = {}
        for key, value in values.items():
            if key in foreign:
                own = " or ".join(alias for alias, name in aliases.items() if name == key)
                raise ValueError(f"{key}={value!r} is spelled {own} in {family}; it must be, or not be there")
            name = aliases.get(key, key)
            other = spelled.setdefault(name, key)
            if other != key and values[other] != value:
                raise ValueError(
                    f"{key}={value!r} is another spelling of {other}={values[other]!r} in {family}; they must agree"
                )
            self._values[name] = value

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a key as it stands, or `default` where the key is absent."""
        self._read.add(key)
        return self._values.get(key, default)

    def whole(self, key: str, default: Any = REQUIRED, least: int = 1) -> int:
        """A whole number of at least `least`; `default` stands for an absent key, never for a null."""
        value = self.get(key, default)
        if default is REQUIRED and value in (REQUIRED, None):
            raise ValueError(f"{key} is missing from the config; it must be a whole number of at least {least}")
        size = whole_number(key, value, least, "a size")
        if size > LARGEST_SIZE:
            raise ValueError(f"{key}={size} is more than any model has; allowed: at most {LARGEST_SIZE}")
        return size

    def maybe_whole(self, key: str) -> int | None:
        """A whole number of at least 1, or None where the key is absent or null."""
        return None if self.get(key) is None else self.whole(key)

    def flag(self, key: str, default: bool = False) -> bool:
        """True or false."""
        value = self.get(key, default)
        if not isinstance(value, bool):
            raise ValueError(f"{key}={value!r} is not a switch; it must be true or false")
        return value

    def number(self, key: str, default: float) -> float:
        """A finite number above 0."""
        value = self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, Real) or not 0 < value <= LARGEST:
            raise ValueError(f"{key}={value!r} is not a number to compute with; it must be finite and above 0")
        return float(value)

    def choice(self, key: str, allowed: Iterable[str], default: str | None = None) -> str | None:
        """One of a few words."""
        value = self.get(key, default)
        return value if value == default else one_of(key, value, allowed, f"read in {self.family}")

    def only(self, key: str, *allowed: Any) -> None:
        """Refuse a value that would change the shape in a way that is not read; absent is fine, and a null is false."""
        value = self.get(key, allowed[0])
        if value not in allowed and not (value is None and not all(allowed)):
            words = ", ".join(map(repr, allowed))
            raise ValueError(f"{key}={value!r} is not read in {self.family}; allowed: {words}, or no such key")

    def finish(self, harmless: Collection[str] = ()) -> None:
        """Raise ValueError for the first key that nobody has read, unless it is harmless or switched off."""
        for key, value in self._values.items():
            if (
                value
                and key not in self._read
                and key not in HARMLESS
                and key not in harmless
                and not key.startswith("_")
            ):
                raise ValueError(
                    f"{key}={value!r} is a key that {self.family} is not known to have, and it may change "
                    "memory; take it out of the config if it does not"
                )
