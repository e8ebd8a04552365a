"""JupyterLab and Chromium for the tests: a server of its own on a copy of the notebooks, and a page to look at."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SETTINGS = {"windowingMode": "none"}  # every cell is in the page, wherever one looks
START_SECONDS, RUN_SECONDS = 60, 300


def missing() -> str | None:
    """What a browser test lacks here, or None."""
    try:
        import playwright  # noqa: F401
    except ImportError:
        return "playwright is not installed"
    return None if CHROMIUM else "there is no Chromium; on Debian, apt install chromium brings it"


def require() -> None:
    """Skip where there is no browser; fail where DSMEM_REQUIRE_BROWSER says that there must be one."""
    if lacks := missing():
        (pytest.fail if os.environ.get("DSMEM_REQUIRE_BROWSER") else pytest.skip)(lacks)


@contextlib.contextmanager
def browser():
    """A headless Chromium that ends with the block."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            yield chromium
        finally:
            chromium.close()


@contextlib.contextmanager
def server(folder: Path):
    """The address of a JupyterLab that shows `folder`/notebooks, a copy of the project's; it ends with the block."""
    shutil.copytree(ROOT / "notebooks", folder / "notebooks", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    kept = folder / "settings" / "@jupyterlab" / "notebook-extension"
    kept.mkdir(parents=True)
    (kept / "tracker.jupyterlab-settings").write_text(json.dumps(SETTINGS))
    places = {f"JUPYTER_{name}_DIR": str(folder / name.lower()) for name in ("RUNTIME", "CONFIG", "DATA")}
    places |= {"JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"), "JUPYTERLAB_WORKSPACES_DIR": str(folder / "spaces")}
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | places | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1"}
    options = ["--no-browser", "--allow-root", "--ServerApp.port=0", "--IdentityProvider.token=", "--LabApp.news_url="]
    options += ["--LabApp.expose_app_in_browser=True", "--ServerApp.disable_check_xsrf=True", "--ServerApp.password="]
    options += [f"--ServerApp.root_dir={folder / 'notebooks'}"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *options], env=environment, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            yield _address(folder, process)
        finally:
            process.terminate()
            process.wait(timeout=30)


def _address(folder, process):
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        for found in (folder / "runtime").glob("jpserver-*.json"):
            with contextlib.suppress(ValueError):  # half written
                return json.loads(found.read_text())["url"]
        time.sleep(0.2)
    raise RuntimeError(f"JupyterLab did not start: {(folder / 'log').read_text()[-2000:]}")


OPENED = """() => {
  const panel = window.jupyterapp?.shell.currentWidget;
  return panel?.context?.isReady && panel.sessionContext?.session?.kernel?.status === 'idle';
}"""
RUN = """async (seconds) => {
  const commands = window.jupyterapp.commands;
  await commands.execute('notebook:clear-all-cell-outputs');
  const late = new Promise((_, no) => setTimeout(() => no(new Error(`not run in ${seconds} s`)), 1000 * seconds));
  await Promise.race([commands.execute('notebook:run-all-cells'), late]);
  return window.jupyterapp.shell.currentWidget.content.model.toJSON().cells;
}"""


def run_all(page, address: str, name: str) -> list[dict]:
    """Open a notebook, clear it, run all its cells, and return them as they then are."""
    page.goto(f"{address}doc/tree/{name}")
    page.wait_for_function(OPENED, timeout=1000 * START_SECONDS)
    return page.evaluate(RUN, RUN_SECONDS)
