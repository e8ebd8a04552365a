"""A real Chromium, driven by Playwright, and a JupyterLab for it; where one is missing, tests are skipped and say why.

DSMEM_CHROMIUM names another Chromium than the one on the path. Playwright's own download is not used.
"""

import contextlib
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

CHROMIUM = os.environ.get("DSMEM_CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None
)
MISSING = [
    *(["the package playwright"] if importlib.util.find_spec("playwright") is None else []),
    *([] if CHROMIUM else ["a Chromium on the path (on Debian: apt install chromium)"]),
]
needs_browser = pytest.mark.skipif(
    bool(MISSING) and not os.environ.get("DSMEM_REQUIRE_BROWSER"), reason=f"there is no {' and no '.join(MISSING)}"
)
SETTINGS = {"windowingMode": "none"}  # every cell is in the page, wherever one looks
ARGUMENTS = [
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"),
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # what asks for another host fails, and is seen
]


@contextlib.contextmanager
def browser():
    """A running Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        try:
            yield chromium
        finally:
            chromium.close()


@contextlib.contextmanager
def page(chromium, width=1200, height=900, **options):
    """A page that keeps what went wrong in it: `page.problems`."""
    context = chromium.new_context(viewport={"width": width, "height": height}, **options)
    made = context.new_page()
    made.problems = []
    made.on("pageerror", lambda error: made.problems.append(str(error)))
    made.on("console", lambda said: made.problems.append(said.text) if said.type == "error" else None)
    made.on("requestfailed", lambda request: made.problems.append(request.url))
    try:
        yield made
    finally:
        context.close()


@contextlib.contextmanager
def jupyterlab(folder: Path):
    """The address of a JupyterLab that serves `folder`; it ends with the block."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = folder / ".jupyter"
    folders = [f"JUPYTER_{name}_DIR" for name in ("CONFIG", "DATA", "RUNTIME")]
    folders += [f"JUPYTERLAB_{name}_DIR" for name in ("SETTINGS", "WORKSPACES")]
    places = {name: str(own / name.lower()) for name in folders}
    kept = Path(places["JUPYTERLAB_SETTINGS_DIR"]) / "@jupyterlab" / "notebook-extension"
    kept.mkdir(parents=True)
    (kept / "tracker.jupyterlab-settings").write_text(json.dumps(SETTINGS))
    options = [
        *("--no-browser", "--allow-root", f"--ServerApp.port={port}", "--ServerApp.port_retries=0"),
        *("--IdentityProvider.token=", "--ServerApp.password=", "--LabApp.expose_app_in_browser=True"),
        f"--ServerApp.root_dir={folder}",
    ]
    command = [sys.executable, "-m", "jupyterlab", *options]
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | places, cwd=folder)
    try:
        yield _answering(f"http://127.0.0.1:{port}", server, folder / "server.log")
    finally:
        server.terminate()
        server.wait(30)


def _answering(address, server, log, seconds=90):
    """The address, once it answers."""
    for _ in range(10 * seconds):
        if server.poll() is not None:
            break
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"{address}/api", timeout=5).close()
            return address
        time.sleep(0.1)
    raise RuntimeError(f"JupyterLab did not start: {log.read_text(errors='replace')[-2000:]}")


RUN = """async (seconds) => {
  const commands = window.jupyterapp.commands;
  await commands.execute('notebook:clear-all-cell-outputs');
  const late = new Promise((_, no) => setTimeout(() => no(new Error(`not run in ${seconds} s`)), 1000 * seconds));
  await Promise.race([commands.execute('notebook:run-all-cells'), late]);
  return window.jupyterapp.shell.currentWidget.content.model.toJSON().cells;
}"""


def run_notebook(tab, address, name, seconds=300):
    """Open a notebook alone in a page, clear it, run all its cells, and return them as they then are."""
    tab.goto(f"{address}/doc/tree/{name}")
    idle = "() => window.jupyterapp?.shell?.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'"
    tab.wait_for_function(idle, timeout=90_000)
    return tab.evaluate(RUN, seconds)


def open_notebook(tab, address, name, run=False):
    """Open a notebook of the server in a page, and run all of its cells if asked to."""
    tab.goto(f"{address}/lab/tree/{name}")
    tab.wait_for_function("() => window.jupyterapp?.shell?.currentWidget?.sessionContext?.isReady", timeout=90_000)
    if run:
        idle = "() => window.jupyterapp.shell.currentWidget.sessionContext.session?.kernel?.status === 'idle'"
        tab.wait_for_function(idle, timeout=90_000)
        tab.evaluate("() => window.jupyterapp.commands.execute('notebook:run-all-cells')")
