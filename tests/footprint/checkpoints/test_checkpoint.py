"""Checkpoints weighed by their headers: real little files of safetensors, and R1's at full size, sparse."""

import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import save_file

import dsmem
from dsmem.__main__ import main
from dsmem.footprint.checkpoints.names import part_of
from dsmem.footprint.checkpoints.published import published_tensors

SAFETENSORS = {"fp8": ("F8_E4M3", 1), "bf16": ("BF16", 2), "fp32": ("F32", 4)}
INDEX = "model.safetensors.index.json"


def sparse(path, tensors):
    """A safetensors file of {name: (shape, format of safetensors, bytes)} at its full size, with nothing written."""
    header, place = {}, 0
    for name, (shape, element, nbytes) in tensors.items():
        header[name] = {"dtype": element, "shape": shape, "data_offsets": [place, place + nbytes]}
        place += nbytes
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    os.truncate(path, 8 + len(text) + place)


def arrays(*shapes, dtype=np.float16):
    return {f"model.layers.0.mlp.{i}.weight": np.ones(shape, dtype) for i, shape in enumerate(shapes)}


def shards(folder, *parts, total=None, **metadata):
    """Files of tensors, and the index that names them."""
    names = [f"model-{i + 1:05}-of-{len(parts):05}.safetensors" for i in range(len(parts))]
    for name, part in zip(names, parts, strict=True):
        save_file(part, folder / name)
    total = total or sum(array.nbytes for part in parts for array in part.values())
    homes = {name: file for file, part in zip(names, parts, strict=True) for name in part}
    index = {"metadata": {"total_size": total} | metadata, "weight_map": homes}
    (folder / INDEX).write_text(json.dumps(index), encoding="utf-8")
    return index


A, B = {"a.weight": np.ones((3, 5), np.float32)}, {"b.weight": np.ones((7,), np.float16), "c": np.ones(2, np.int8)}


# --- What is read -----------------------------------------------------------------------------------------------------


def test_r1_is_weighed_as_published(tmp_path):
    published = published_tensors("deepseek-r1", "fp8")
    stored = {
        name: (shape, SAFETENSORS[fmt][0], math.prod(shape) * SAFETENSORS[fmt][1])
        for name, (shape, fmt) in published.items()
    }
    sparse(tmp_path / "model.safetensors", stored)
    (tmp_path / "config.json").write_text(json.dumps({"num_hidden_layers": 61}), encoding="utf-8")
    weighed = dsmem.checkpoint(tmp_path)
    assert weighed.total_bytes == 688_574_839_360  # of the published files
    assert weighed.by_format == {"fp8": 680_571_043_840, "bf16": 2 * 3_918_786_560, "fp32": 4 * 41_555_600}
    further = 11_610_067_968 + 1_853_358_080  # the module that predicts a further token, with copies of both ends
    assert weighed.n_params == 671_026_404_352 + further
    assert sum(weighed.by_part.values()) == weighed.total_bytes and "other" not in weighed.by_part
    assert weighed.by_part["experts"] == 58 * 256 * 3 * 7168 * 2048
    assert weighed.by_part["embed_tokens"] == weighed.by_part["lm_head"] == 129_280 * 7168 * 2


def test_files_and_headers_add_up(tmp_path):
    shards(tmp_path, A, B)
    weighed = dsmem.checkpoint(tmp_path)
    files = sum(file.stat().st_size for file in tmp_path.glob("*.safetensors"))
    assert (weighed.total_bytes, weighed.file_bytes) == (60 + 14 + 2, files)
    assert weighed.header_bytes == files - 76 and weighed.n_params == 15 + 7 + 2
    assert weighed.by_format == {"fp32": 60, "fp16": 14, "int8": 2} and weighed.notes == []
    for path in (tmp_path / INDEX, str(tmp_path)):
        assert dsmem.checkpoint(path).total_bytes == 76
    one = dsmem.checkpoint(tmp_path / "model-00001-of-00002.safetensors")
    assert one.total_bytes == 60 and one.notes == ["one file of 2: the others are not counted"]


def test_an_index_alone_says_what_it_knows_and_what_it_does_not(tmp_path):
    shards(tmp_path, A, B, total=688_586_727_753)
    for file in tmp_path.glob("*.safetensors"):
        file.unlink()
    weighed = dsmem.checkpoint(tmp_path / INDEX)
    assert (weighed.total_bytes, weighed.file_bytes, weighed.n_params, weighed.tensors) == (
        688_586_727_753,
        *[None] * 2,
        [],
    )
    assert "3 tensors in 2 files; formats, shapes and parts are not known" in str(weighed.table())


def test_a_total_that_disagrees_is_said_and_the_headers_count(tmp_path):
    shards(tmp_path, A, B, total=99)
    save_file(A, tmp_path / "consolidated.safetensors")
    weighed = dsmem.checkpoint(tmp_path)
    assert weighed.total_bytes == 76
    assert "total_size 99; the headers say 76" in weighed.notes[0] and "consolidated.safetensors" in weighed.notes[1]


# --- What is packed ---------------------------------------------------------------------------------------------------

PACKED = {  # a 256 x 128 layer as each library stores it: {end of the name: array}, quantization_config, what it holds
    "awq": (
        {"qweight": ((128, 32), "i4"), "qzeros": ((1, 32), "i4"), "scales": ((1, 256), "f2")},
        {"quant_method": "awq", "bits": 4, "group_size": 128},
        "int4 in int32",
    ),
    "gptq, 8 bit": (
        {"qweight": ((32, 256), "i4"), "qzeros": ((1, 64), "i4"), "scales": ((1, 256), "f2"), "g_idx": ((128,), "i4")},
        {"quant_method": "gptq", "bits": 8, "group_size": 128},
        "int8 in int32",
    ),
    "compressed-tensors": (
        {"weight_packed": ((256, 16), "i4"), "weight_scale": ((256, 1), "f2"), "weight_shape": ((2,), "i8")},
        {"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": {"num_bits": 4}}}},
        "int4 in int32",
    ),
    "nvfp4": (
        {
            "weight": ((256, 64), "u1"),
            "weight_scale": ((256, 8), "u1"),
            "weight_scale_2": ((), "f4"),
            "input_scale": ((), "f4"),
        },
        {},
        "4 bit in uint8",
    ),
    "bitsandbytes nf4": (
        {
            "weight": ((16384, 1), "u1"),
            "weight.absmax": ((512,), "f4"),
            "weight.quant_map": ((16,), "f4"),
            "weight.quant_state.bitsandbytes__nf4": ((80,), "u1"),
        },
        {},
        "4 bit in uint8",
    ),
    "bitsandbytes int8": (
        {"weight": ((256, 128), "i1"), "SCB": ((256,), "f4"), "weight_format": ((), "u1")},
        {},
        "int8",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", PACKED)
def test_packed_numbers_are_counted_one_by_one(kind, tmp_path):
    layer, said, holds = PACKED[kind]
    tensors = {f"model.layers.0.mlp.up_proj.{end}": np.zeros(shape, dtype) for end, (shape, dtype) in layer.items()}
    save_file(tensors | {"model.norm.weight": np.ones(7, np.float16)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": said} if said else {}), encoding="utf-8")
    weighed = dsmem.checkpoint(tmp_path)
    assert weighed.n_params == 256 * 128 + 7
    numbers = next(iter(tensors.values())).nbytes
    assert weighed.by_part["mlp"] == numbers and weighed.by_format[holds] >= numbers
    assert weighed.by_part["weight_scales"] == weighed.total_bytes - numbers - 14


def test_gpt_oss_holds_two_numbers_in_a_byte(tmp_path):
    blocks, scales = np.zeros((4, 64, 3, 16), np.uint8), np.zeros((4, 64, 3), np.uint8)
    stack = "model.layers.0.mlp.experts.gate_up_proj_"
    save_file({f"{stack}blocks": blocks, f"{stack}scales": scales}, tmp_path / "model.safetensors")
    weighed = dsmem.checkpoint(tmp_path)
    assert weighed.n_params == 4 * 64 * 96 and weighed.by_part == {"experts": blocks.nbytes, "weight_scales": 768}


def test_deepseek_v4s_experts_hold_two_numbers_in_a_byte(tmp_path):
    def experts(path, scale):
        tensors = {"layers.0.ffn.experts.0.w1.weight": ((64, 32), "I8", 2048)}
        sparse(
            path, tensors | {"layers.0.ffn.experts.0.w1.scale": ((64, 2), scale, 128 if scale[0:2] == "F8" else 512)}
        )
        return dsmem.checkpoint(path)

    # the config says expert_dtype fp4; Hugging Face's own count takes the bytes for numbers
    weighed = experts(tmp_path / "fp4.safetensors", "F8_E8M0")
    assert weighed.n_params == 64 * 64 and weighed.by_format == {"4 bit in int8": 2048, "f8_e8m0": 128}
    assert experts(tmp_path / "int8.safetensors", "F32").n_params == 64 * 32


def test_bits_that_nobody_says_are_not_guessed(tmp_path):
    save_file({"a.qweight": np.zeros((4, 4), np.int32)}, tmp_path / "model.safetensors")
    weighed = dsmem.checkpoint(tmp_path)
    assert weighed.n_params is None and weighed.total_bytes == 64 and "bits" in weighed.notes[0]
    (tmp_path / "quantize_config.json").write_text(json.dumps({"bits": 2}), encoding="utf-8")
    assert dsmem.checkpoint(tmp_path).n_params == 16 * 16


NAMES = {
    "model.embed_tokens.weight": "embed_tokens",
    "model.language_model.layers.0.self_attn.q_norm.weight": "norms",
    "model.layers.0.self_attn.kv_a_proj_with_mqa.weight_scale_inv": "weight_scales",
    "model.layers.0.block_sparse_moe.gate.weight": "router",
    "model.layers.0.mlp.shared_experts.up_proj.weight": "shared_experts",
    "model.layers.0.mlp.gate.e_score_correction_bias": "buffers",
    "model.layers.0.mlp.gate_proj.weight": "mlp",
    "model.visual.blocks.0.attn.qkv.weight": "vision",
    "vision_tower.encoder.layers.0.mlp.fc1.weight": "vision",
    "mtp.layers.0.mlp.experts.0.up_proj.weight": "mtp",
    "model.layers.61.eh_proj.weight": "mtp",
    "lm_head.weight": "lm_head",
    "output.weight": "lm_head",
    "output_norm.weight": "norms",
    "token_embd.weight": "embed_tokens",
    "blk.0.attn_q.weight": "attention",
    "blk.0.attn_output.weight": "attention",
    "blk.0.ffn_gate_inp.weight": "router",
    "blk.0.ffn_down_shexp.weight": "shared_experts",
    "blk.0.ffn_down.weight": "mlp",
    "layers.0.attention.wq.weight": "attention",
    "layers.0.feed_forward.w1.weight": "mlp",
    "transformer.wte.weight": "embed_tokens",
    "transformer.h.0.ln_1.bias": "norms",
    "backbone.layers.0.mixer.A_log": "other",
}


@pytest.mark.parametrize("name", NAMES)
def test_a_tensors_name_says_its_part(name):
    assert part_of(name) == NAMES[name]


def test_a_layer_beyond_the_models_predicts_further_tokens():
    name = "model.layers.61.self_attn.o_proj.weight"
    assert (part_of(name, 61), part_of(name, 62), part_of(name)) == ("mtp", "attention", "attention")


def test_a_prompt_shows_a_line_and_a_notebook_a_table(tmp_path):
    save_file(A | B, tmp_path / "model.safetensors")
    weighed = dsmem.checkpoint(tmp_path)
    assert "24 parameters in 76 bytes" in repr(weighed) and "\n" not in repr(weighed)
    assert weighed._repr_html_().startswith("<table>") and len(weighed.largest(2)) == 2
    assert weighed.largest(1).rows[0][0] == "a.weight"


def test_neither_torch_nor_gguf_is_needed_for_safetensors(tmp_path):
    save_file(A, tmp_path / "model.safetensors")
    code = "import dsmem, sys; dsmem.checkpoint(sys.argv[1]); assert not {'torch', 'gguf'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)


# --- What is refused --------------------------------------------------------------------------------------------------


def damaged(folder, change):
    """A safetensors file whose header was changed."""
    path = folder / "model.safetensors"
    save_file({"a": np.ones(4, np.float32), "b": np.ones(4, np.float32)}, path)
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    text = change(raw[8 : 8 + length].decode().rstrip()).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + length :])
    return path


HEADERS = {
    "overlap": (lambda text: text.replace("[16,32]", "[8,24]"), ("damaged",)),
    "hole": (lambda text: text.replace("[16,32]", "[20,36]"), ("damaged",)),
    "another shape": (lambda text: text.replace("[4]", "[3]"), ("damaged",)),
    "no such format": (lambda text: text.replace("F32", "F3"), ("damaged", "F3")),
    "no JSON": (lambda text: text[:-1], ("damaged",)),
    "twice": (lambda text: text.replace('"b"', '"a"'), ("'a'", "twice")),
}


@pytest.mark.parametrize("kind", HEADERS)
def test_a_header_that_cannot_be_is_refused(kind, tmp_path, refuses):
    change, words = HEADERS[kind]
    path = damaged(tmp_path, change)
    refuses(lambda: dsmem.checkpoint(path), "model.safetensors", *words)
    refuses(lambda: dsmem.checkpoint(tmp_path), "model.safetensors", *words)


@pytest.mark.parametrize("left", [0, 3, 20, -1])
def test_a_file_cut_short_is_refused(left, tmp_path, refuses):
    path = tmp_path / "model.safetensors"
    save_file(A, path)
    os.truncate(path, left if left >= 0 else path.stat().st_size - 40)
    refuses(lambda: dsmem.checkpoint(path), path.name, "damaged or cut short")


def test_missing_and_doubled_files_are_refused(tmp_path, refuses):
    index = shards(tmp_path, A, B)
    index["weight_map"]["a.weight"] = "model-00002-of-00002.safetensors"
    (tmp_path / INDEX).write_text(json.dumps(index), encoding="utf-8")
    refuses(lambda: dsmem.checkpoint(tmp_path), "'a.weight'", "no file holds it")
    shards(tmp_path, A, B)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    refuses(lambda: dsmem.checkpoint(tmp_path), "names 2 files", "model-00002-of-00002.safetensors")
    (tmp_path / INDEX).unlink()
    save_file(A, tmp_path / "other.safetensors")
    refuses(lambda: dsmem.checkpoint(tmp_path), "'a.weight' twice", "other.safetensors")


def test_what_is_no_checkpoint_is_refused(tmp_path, refuses):
    refuses(lambda: dsmem.checkpoint(tmp_path), "no tensors")
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    refuses(lambda: dsmem.checkpoint(tmp_path), "pytorch_model.bin", "safetensors")
    refuses(lambda: dsmem.checkpoint(tmp_path / "pytorch_model.bin"), "pytorch_model.bin", ".gguf")
    refuses(lambda: dsmem.checkpoint("no/such/path"), "'no/such/path'", "not there")
    refuses(lambda: dsmem.checkpoint(3), "path=3")
    (tmp_path / INDEX).write_text("{}", encoding="utf-8")
    refuses(lambda: dsmem.checkpoint(tmp_path), "no weight_map")
    (tmp_path / INDEX).write_text("{", encoding="utf-8")
    refuses(lambda: dsmem.checkpoint(tmp_path), "damaged")
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / INDEX).unlink()
    refuses(lambda: dsmem.checkpoint(tmp_path), "more than one GGUF", "a.gguf, b.gguf")
    refuses(lambda: dsmem.checkpoint(tmp_path / "a.gguf"), "a.gguf is damaged")
    (tmp_path / "c-00001-of-00003.gguf").write_bytes(b"")
    refuses(lambda: dsmem.checkpoint(tmp_path / "c-00001-of-00003.gguf"), "2 are missing", "c-00002-of-00003.gguf")


def test_a_prompt_outside_python_gets_the_table(tmp_path, capsys):
    save_file(A | B, tmp_path / "model.safetensors")
    assert main(["checkpoint", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert str(dsmem.checkpoint(tmp_path).table()) in shown and "the 3 largest of 3 tensors" in shown
    assert main(["checkpoint", str(tmp_path / "none")]) == 2
    assert "not there" in capsys.readouterr().err
