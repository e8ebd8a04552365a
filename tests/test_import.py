"""What `import dsmem` costs, and what it offers."""

import subprocess
import sys

import pytest

import dsmem

HEAVY = ("torch", "matplotlib", "ipywidgets", "sympy", "transformers", "tqdm", "safetensors", "redis")


def loaded_after(code):
    """Top-level packages that a fresh Python has loaded after running `code`."""
    script = f"import sys\n{code}\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(result.stdout.split())


def test_importing_the_package_loads_nothing_heavy():
    assert loaded_after("import dsmem").isdisjoint(HEAVY)


def test_counting_and_predicting_load_nothing_heavy():
    code = """
import dsmem
arch = dsmem.Architecture.from_config("llama-2-7b")
dsmem.inference_footprint(arch, dsmem.Workload()).table()
dsmem.formulas.kv_cache_bytes(1, 1, 1, 1, 1, 16)
dir(dsmem)
"""
    assert loaded_after(code).isdisjoint(HEAVY)


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("dsmem.measure", ("matplotlib", "ipywidgets", "transformers")),
        ("dsmem.serving.prefix", ("matplotlib", "ipywidgets", "transformers", "redis")),
        ("dsmem.show", ("torch", "matplotlib", "ipywidgets", "transformers")),
        ("dsmem.save_report", ("torch", "ipywidgets", "transformers")),
    ],
)
def test_a_name_loads_only_what_it_needs(code, absent):
    assert loaded_after(f"import dsmem; {code}").isdisjoint(absent)


@pytest.mark.parametrize("name", dsmem.__all__)
def test_every_public_name_is_there_and_documented(name):
    assert getattr(dsmem, name).__doc__
    assert name in dir(dsmem)


def test_modules_are_reached_without_an_import_of_their_own():
    assert dsmem.formulas.__name__ == "dsmem.formulas"
    assert dsmem.units.GIB == 2**30


def test_an_unknown_name_is_an_attribute_error_that_names_it():
    with pytest.raises(AttributeError, match="'dsmem' has no attribute 'footprnt'"):
        _ = dsmem.footprnt
    assert not hasattr(dsmem, "nothing")
