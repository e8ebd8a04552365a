"""GGUF files weighed by their headers: real little ones, written by the PyPI package `gguf`."""

import os

import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFWriter

import dsmem
from dsmem.units import BLOCK_FORMATS

KINDS = {"F32": (np.float32, (4, 256)), "Q8_0": (np.uint8, (4, 8 * 34)), "Q4_K": (np.uint8, (4, 144))}
KINDS |= {"Q6_K": (np.uint8, (4, 210)), "MXFP4": (np.uint8, (4, 8 * 17)), "F16": (np.float16, (4, 256))}


def write(path, kinds=KINDS):
    writer = GGUFWriter(path, "llama")
    writer.add_tokenizer_model("gpt2")
    for kind, (dtype, shape) in kinds.items():
        raw = None if kind.startswith("F") else GGMLQuantizationType[kind]
        writer.add_tensor(f"blk.0.ffn_{kind}.weight", np.zeros(shape, dtype), raw_dtype=raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_gguf_file_is_read_type_by_type(tmp_path):
    write(tmp_path / "a.gguf")
    for path in (tmp_path, tmp_path / "a.gguf"):
        weighed = dsmem.checkpoint(path)
        assert weighed.n_params == 6 * 4 * 256
        assert weighed.by_format == {
            "fp32": 4096, "fp16": 2048, "q8_0": 4 * 272, "q6_K": 840, "q4_K": 576, "mxfp4": 4 * 136
        }  # fmt: skip
        assert weighed.by_part == {"mlp": weighed.total_bytes}
        assert weighed.file_bytes == (tmp_path / "a.gguf").stat().st_size == weighed.total_bytes + weighed.header_bytes
    assert weighed.tensors[1].shape == (4, 256)


def test_a_gguf_model_in_parts_is_one(tmp_path):
    for part in (1, 2):
        kind = ("F32", "Q8_0")[part - 1]
        write(tmp_path / f"a-{part:05}-of-00002.gguf", {kind: KINDS[kind]})
    for path in (tmp_path, *tmp_path.glob("*.gguf")):
        assert dsmem.checkpoint(path).total_bytes == 4096 + 4 * 272


@pytest.mark.parametrize("left", [0, 3, 20, -1])
def test_a_file_cut_short_is_refused(left, tmp_path, refuses):
    path = tmp_path / "a.gguf"
    write(path)
    os.truncate(path, left if left >= 0 else path.stat().st_size - 40)
    refuses(lambda: dsmem.checkpoint(path), path.name, "damaged or cut short")


def test_tensors_that_overlap_are_refused(tmp_path, refuses):
    path = tmp_path / "a.gguf"
    write(path, {"F32": KINDS["F32"], "F16": KINDS["F16"]})
    raw = path.read_bytes()
    second = raw.index(b"blk.0.ffn_F16.weight") + len("blk.0.ffn_F16.weight") + 4 + 2 * 8 + 4  # name, dims, type
    assert int.from_bytes(raw[second : second + 8], "little") == 4096
    path.write_bytes(raw[:second] + (2048).to_bytes(8, "little") + raw[second + 8 :])
    refuses(lambda: dsmem.checkpoint(path), "'blk.0.ffn_F32.weight' and 'blk.0.ffn_F16.weight' overlap")


def test_gguf_without_its_package_says_how_to_get_it(tmp_path, monkeypatch, refuses):
    write(tmp_path / "a.gguf")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    refuses(lambda: dsmem.checkpoint(tmp_path), "a.gguf", "pip install gguf")


def test_the_block_formats_are_the_packages_own():
    theirs = {kind.name.replace("Q", "q", 1): size for kind, size in GGML_QUANT_SIZES.items()}
    theirs = {name if name[0] == "q" else name.lower(): size for name, size in theirs.items()}
    assert theirs | BLOCK_FORMATS == theirs


def test_experts_are_what_is_left_of_r1_without_the_rest():
    # R1 in q8_0: 58 layers with 256 experts of three matrices of 7,168 x 2,048, 34 bytes for each 32 numbers
    assert dsmem.footprint.checkpoints.gguf.expert_bytes("deepseek-r1", "q8_0") == 58 * 256 * 3 * 7168 * 2048 // 32 * 34
