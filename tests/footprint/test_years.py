"""Models of three years: their cache beside published tables, and what windows and indexers save."""

import pytest

from dsmem.footprint.years import linear_caches, model_years, years_table

YEARS = {year.name: year for year in model_years()}


@pytest.mark.parametrize(
    ("name", "kilobytes"),
    # "Insights into DeepSeek-V3", arXiv 2505.09343, table 1; the rest from their reports' shapes
    [("deepseek-r1", 70.272), ("qwen2.5-72b", 327.680), ("llama-3.1-405b", 516.096), ("deepseek-v3.2", 85.888)],
)
def test_a_token_leaves_the_published_bytes(name, kilobytes):
    assert YEARS[name].kept_per_token == kilobytes * 1000


def test_an_indexer_keeps_more_and_reads_less():
    old, new = YEARS["deepseek-r1"], YEARS["deepseek-v3.2"]
    assert new.kept_per_token > 1.2 * old.kept_per_token and new.seen_per_token < 0.3 * old.seen_per_token


def test_a_published_checkpoint_has_its_size():
    # R1's tensors without the module for a further token: 673.15 GB; gpt-oss-20b: about 13.8 GB of safetensors
    assert YEARS["deepseek-r1"].resident_bytes == pytest.approx(673.15e9, rel=1e-4)
    assert YEARS["gpt-oss-20b"].resident_bytes == pytest.approx(13.76e9, rel=0.01)


def test_windows_save_more_of_a_longer_text():
    short, long = (next(y for y in model_years(n) if y.name == "gpt-oss-20b").kept_per_token for n in (128, 131_072))
    assert long == pytest.approx(short / 2, rel=0.01)


def test_the_table_has_a_row_for_each():
    assert years_table(model_years()).column("model") == list(YEARS)


def test_linear_layers_keep_the_same_at_any_length():
    built, plain = linear_caches(1024).values()
    # Qwen3.5-27B's config: 48 of 64 layers with 48 heads of 128 × 128 in FP32, the rest 4 heads of 256, key and value
    assert built == 48 * 48 * 128 * 128 * 4 + 1024 * 16 * 2 * 4 * 256 * 2
    assert plain == 1024 * 64 * 2 * 4 * 256 * 2
