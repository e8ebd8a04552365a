"""What a part of memory looks like in every plot: one colour for a family, one hatch for each of its members."""

import zlib
from collections.abc import Iterable
from pathlib import Path

from matplotlib.style import library

from dsmem.units import format_name

STYLE = ("petroff10", Path(__file__).with_name("dsmem.mplstyle"))

# A hue is a family of parts, a hatch tells its members apart: "name=other_name:hatch". Without a hatch: the plain ones.
FAMILIES = {
    "#3f90da": r"weights=weight=tensor=allocated lm_head:\\\ embed_tokens:... weights_int8:/// weight_scales:+++ "
    r"master_weights:xxx weights_fp8:||| weights_int4:---",
    "#ffa90e": r"kv_cache:... latent_cache:xxx indexer_cache:ooo cache_scales:+++ slot_mapping:/// cache_grown:\\\ ",
    "#bd1f01": r"gradients=gradient:---",
    "#94a4a2": r"buffers=buffer:+++ token_ids=input:ooo rope_tables:/// causal_mask:\\\ ",
    "#832db6": r"scores=attention:xxx attention_weights=probabilities:+++ attention_out=o_proj:---"
    r" attention_projected:/- attention_by_head:\- query=q_proj:/// query_rotated=query_normed=query_by_head=q_norm:|||"
    r" key=k_proj:... key_expanded=keys_read=k_norm:ooo value=v_proj:\\\ value_expanded=values_read:*** logsumexp:/o"
    r" latents=kv_a_proj_with_mqa:.+ latents_read:.x kv_expanded=kv_b_proj:.- value_padded:.o attention_padded:-o"
    r" scores_wide:x| attention_weights_wide:+|"
    r" query_latent=q_a_proj:+x query_absorbed=q_b_proj:-x query_key_value=qkv_proj:/.",
    "#a96b59": r"residual=activation:/// residual_mid:... residual_out:xxx normed=norm:\\\ input_layernorm:+++"
    r" post_attention_layernorm:--- inverse_rms=norm_statistics:||| position_rows=embed_positions:o. position_ids:x.",
    "#e76300": r"logits:||| loss:---",
    "#b9ac70": r"temporary:xxx workspace:--- working:o. weight_copy=dequantized:/// int32_product:\\\ "
    r"float32_product:||| weight_unpacked:xxo input_int8:... input_scales:+++ input_scaled:ooo",
    "#717581": r"optimizer=optimizer_state=optimizer_states:\\\ first_moment:/// second_moment:... context:++",
    "#92dadd": r"gated=mlp gate=gate_proj:/// gate_activated=up_activated:xxx up=up_proj:--- mlp_out=down_proj:\\\ "
    r"experts=expert_rows:... shared_experts=shared_out:+++ router=router_logits:||| expert_gate_up:/. "
    r"expert_gated:x. expert_out=experts_out:-. expert_activated:|. routing:o.",
    "#f2f2f2": r"other free=other_free:// rounding:\\\ largest_free:.. padding:xx beside_tensors:/",
}
DARK = ("#3f90da", "#bd1f01", "#832db6", "#a96b59", "#717581")  # under a white hatch; the others are under a dark one
LOOKS = {
    name: (color, hatch)
    for color, parts in FAMILIES.items()
    for names, _, hatch in (part.partition(":") for part in parts.split())
    for name in names.split("=")
}
SPARE_HATCHES = ("//oo", "..oo", "xxoo", "--oo", "++oo", "||oo", "**oo")
LINESTYLES = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1)), (0, (9, 2)), (0, (3, 1, 1, 1, 1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P")
INK = "#222222"
FORMATS = {  # a number format's colour, dashes and marker, the same in every plot of lines or markers
    "fp32": ("#717581", (0, (9, 2)), "P"),
    "bf16": ("#ffa90e", (0, (12, 1.5)), "h"),
    "fp16": ("#3f90da", "-", "o"),
    "int8": ("#bd1f01", (0, (5, 1.5)), "s"),
    "int8_w8a8": ("#e76300", (0, (5, 1, 1, 1)), "D"),
    "fp8": ("#832db6", (0, (1, 1)), "^"),
    "int4": ("#a96b59", (0, (3, 1, 1, 1, 1, 1)), "v"),
    "nf4": ("#b9ac70", (0, (3, 1.5)), "<"),
    "nf4_double": ("#b9ac70", (0, (9, 2, 1, 2)), ">"),
}


def look(part: str) -> dict:
    """The colours and the hatch of a component, ready for a bar or an area; an unknown name always gets the same ones.

    >>> look("weight") == look("weights")
    True
    """
    number = zlib.crc32(part.encode())  # unlike hash(), the same in every session
    spare = list(FAMILIES)[number % 10], SPARE_HATCHES[number // 10 % len(SPARE_HATCHES)]
    color, hatch = LOOKS.get(part, spare)
    return {"facecolor": color, "edgecolor": "white" if color in DARK else INK, "hatch": hatch, "linewidth": 0.5}


def line_looks(names: Iterable[str]) -> dict[str, dict]:
    """{name: colour, linestyle and marker} of lines that share a picture, no two alike.

    A number format ("INT8", `torch.float16`, "int8, measured") looks as `FORMATS` says; a component has its own colour;
    any other name takes the next look that is free. The colours are values, so they last when the style has ended.

    >>> line_looks(["int8", "other"])["int8"] == line_looks(["INT8"])["INT8"]
    True
    """
    names = list(dict.fromkeys(names))
    known = {name: FORMATS[format_of(name)] for name in names if format_of(name)}
    known |= {name: (LOOKS[name][0], None, None) for name in names if name in LOOKS and name not in known}
    cycle = library["petroff10"]["axes.prop_cycle"].by_key()["color"]
    free = [color for color in cycle if color not in {color for color, *_ in known.values()}] or cycle
    others = [name for name in names if name not in known]
    known |= {name: (free[number % len(free)], None, None) for number, name in enumerate(others)}
    spare = [dashes for dashes in LINESTYLES if dashes not in {dashes for _, dashes, _ in known.values()}] or LINESTYLES
    plain = [name for name in names if known[name][1] is None]
    looks = {}
    for name in names:
        color, dashes, marker = known[name]
        number = plain.index(name) if dashes is None else 0
        looks[name] = {
            "color": color,
            "linestyle": dashes or spare[number % len(spare)],
            "marker": marker or MARKERS[number % len(MARKERS)],
        }
    return looks


def format_of(name: str) -> str | None:
    """The number format that a label begins with, or None.

    >>> format_of("INT8"), format_of("fp16, measured"), format_of("kv_cache")
    ('int8', 'fp16', None)
    """
    first = str(name).replace(",", " ").split()[:1]
    spelled = format_name(first[0]) if first else ""
    return spelled if spelled in FORMATS else None
