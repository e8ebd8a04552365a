"""Lets the tests start on a machine without Jupyter or xdist, such as one that is lent for its GPU.

There pyproject's options of nbval and xdist are accepted and do nothing, and the files below are left out; the report's
header says so. Where everything is installed, this file changes nothing.
"""

import importlib.util

OPTIONS = {
    "nbval": {"--nbval-lax": {"action": "store_true"}, "--nbval-cell-timeout": {}},
    "xdist": {"-n": {"dest": "numprocesses"}, "--dist": {}},
}
NEEDED_BY = {
    "IPython": ["tests/check/test_exercise.py"],
    "gguf": ["tests/footprint/checkpoints/test_gguf.py"],
    "hatchling": ["tests/test_packaging.py"],
    "ipywidgets": [
        "dsmem/plots/explorers.py",
        "dsmem/plots/widgets.py",
        "tests/plots/test_cache.py",
        "tests/plots/test_ranks.py",
        "tests/plots/page/test_explorer.py",
        "tests/plots/page/test_browser.py",
        "tests/plots/test_training.py",
        "tests/plots/test_weights.py",
        "tests/plots/test_widgets.py",
        "tests/test_front_door.py",
    ],
    "nbformat": [
        "tests/plots/test_memory.py",
        "tests/test_notebooks.py",
        "tests/test_publish.py",
        "tests/test_site.py",
    ],
}
MISSING = [package for package in NEEDED_BY if importlib.util.find_spec(package) is None]
collect_ignore = [path for package in MISSING for path in NEEDED_BY[package]]


def pytest_addoption(parser, pluginmanager):
    for plugin, options in OPTIONS.items():
        if not pluginmanager.hasplugin(plugin):
            for option, how in options.items():
                # lower-case short options are pytest's own, so the public addoption would refuse -n
                parser.getgroup("missing plugins")._addoption(option, **how)


def pytest_report_header(config):
    absent = [plugin for plugin in OPTIONS if not config.pluginmanager.hasplugin(plugin)]
    words = [f"without {plugin}: its options do nothing" for plugin in absent]
    return words + [f"without {package}: {', '.join(NEEDED_BY[package])} left out" for package in MISSING]
