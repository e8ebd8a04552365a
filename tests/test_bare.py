"""The tests start on a machine that has torch and pytest, and no Jupyter, nbval or xdist."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ABSENT = ("IPython", "hatchling", "ipywidgets", "jupyter_client", "nbclient", "nbconvert", "nbformat", "nbval", "xdist")
ABSENT += ("bitsandbytes", "gguf", "torchao", "redis")
SCRIPT = f"""
import sys
sys.modules.update(dict.fromkeys({ABSENT}))
import pytest
sys.exit(pytest.main(["-m", "gpu", "--collect-only", "-p", "no:cacheprovider", "tests", "dsmem"]))
"""


def test_the_gpu_tests_are_found_where_only_torch_and_pytest_are_installed():
    environment = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(ROOT)}
    run = subprocess.run([sys.executable, "-c", SCRIPT], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-3000:]
    assert "test_gpu.py" in run.stdout
    for package in ("nbval", "xdist", "IPython", "gguf", "hatchling", "ipywidgets", "nbformat"):
        assert f"without {package}: " in run.stdout
