"""The tests that need a GPU, run by pytest in a process of their own; their result is kept, whatever it is."""

import collections
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
LOST = "the GPU is lost to this process"
"""How tests/test_gpu.py begins the reason of a skip after a CUDA error that no later test of the process survives."""

OUTPUT_CHARACTERS = 20_000
# pyproject's own options run notebooks and doctests on two processes, and make an error of a library's first warning
_OPTIONS = ("-o", "addopts=", "--import-mode=importlib", "-p", "no:cacheprovider", "-W", "default")
_OPTIONS += ("-m", "gpu", "-v", "-rfE", "--tb=short", "--color=no")
_LINE = re.compile(r"^(\S.*?::.+?) (PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS)\b(.*)$", re.MULTILINE)
_WHY = re.compile(r"^(?:FAILED|ERROR) \S*?::(.+)$", re.MULTILINE)


def gpu_tests(seconds: float = 600, root: Path = ROOT) -> dict[str, Any]:
    """Run the tests marked `gpu` for at most so many seconds.

    root: the checkout that holds `tests`. Returns {"outcome", "counts", "failed", "seconds", "output"}: "ok", "failed",
    "cut off", "none ran", or why there are none; how many passed, failed and were skipped; a line for each failure; and
    the end of what pytest said. After a CUDA error that no later test survives, the rest run in a new process.
    """
    files = [path for path in sorted(root.glob("tests/**/test_*.py")) if "mark.gpu" in path.read_text("utf-8")]
    if not files:
        return {"outcome": "no tests here: they are in the repository, not in the installed package"}
    start, wanted, results, output, codes = time.monotonic(), [str(file) for file in files], {}, "", []
    while wanted:
        said, code = _pytest(wanted, root, seconds - (time.monotonic() - start))
        output, codes = output + said, [*codes, code]
        results |= {name: (word, reason) for name, word, reason in _LINE.findall(said)}
        lost = [name for name, (_, reason) in results.items() if LOST in reason]
        # without progress another process would change nothing
        wanted = lost if code is not None and lost != wanted else []
    counts = collections.Counter(word.lower() for word, _ in results.values())
    good = "ok" if counts["passed"] else "none ran"
    return {
        "outcome": "cut off" if None in codes else "failed" if any(codes) else good,
        "counts": dict(counts),
        "failed": list(dict.fromkeys(_WHY.findall(output))),
        "seconds": round(time.monotonic() - start, 1),
        "output": output[-OUTPUT_CHARACTERS:],
    }


def _pytest(wanted, root, seconds):
    """What pytest prints, and its exit code: None where the time was over before it had ended."""
    paths = os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"PYTHONPATH": paths, "COLUMNS": "400"}
    command = [sys.executable, "-m", "pytest", *_OPTIONS, *wanted]
    with tempfile.TemporaryFile() as said:
        options = {"cwd": root, "env": environment, "stdout": said, "stderr": said, "start_new_session": True}
        process = subprocess.Popen(command, **options)
        try:
            code = process.wait(max(seconds, 1))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # its own group, so its children end with it
            process.wait()
            code = None
        said.seek(0)
        return said.read().decode(errors="replace"), code
