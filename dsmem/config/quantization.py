"""What a config says of how its weights are stored: `quantization_config`, read as data."""

from typing import Any


def packed_bits(config: dict[str, Any]) -> int | None:
    """Bits of one number in words of 32 bits, as `quantization_config` says them; None where it says none, or several.

    config: a `config.json` as dict; AutoGPTQ's and AutoAWQ's own small file is read, too.

    >>> packed_bits({"quantization_config": {"quant_method": "awq", "bits": 4}})
    4
    """
    said = config.get("quantization_config") or config.get("compression_config") or config
    groups = said.get("config_groups")
    groups = [group.get("weights") for group in groups.values()] if isinstance(groups, dict) else []
    values = [said.get("bits", said.get("w_bit"))] + [group.get("num_bits") for group in groups if group]
    found = {bits for bits in values if isinstance(bits, int) and bits in (2, 3, 4, 8)}
    return found.pop() if len(found) == 1 else None
