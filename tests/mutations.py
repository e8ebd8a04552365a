"""Break the library one line at a time, and list what no test notices: `python tests/mutations.py formulas`.

Not part of the suite, for it takes an hour. With --once each function, and each part of each instant, is broken in one
way alone, and every result is listed; with --again and that list the survivors are tried on more examples. The tests
are collected once; each break is made in a child process, in memory: no file is touched. What may break: an operator,
a number, a comparison, a condition, a part by one byte, a call left out. A survivor is a hole in the tests, or a change
that means the same.
"""

import argparse
import ast
import contextlib
import copy
import importlib
import inspect
import os
import signal
import sys
import time
from pathlib import Path
from typing import NamedTuple

import hypothesis
import pytest
from _pytest import main as main_plugin

TESTS = Path(__file__).parent
TARGETS = {  # what is broken, and the tests that must notice, quick ones first
    "formulas": (
        [
            f"dsmem.formulas.{name}"
            for name in ("tensors", "cache", "weights", "speed", "training", "sharding", "experts", "capacity")
        ],
        [
            *("formulas", "../dsmem/formulas", "footprint/test_inference.py", "footprint/test_stored.py"),
            *("runs/test_libraries.py", "footprint/test_instants.py"),
        ],
    ),
    "instants": (
        [
            f"dsmem.footprint.{name}"
            for name in ("inference", "walk", "attention", "indexer", "mlp", "cache", "instants")
        ],
        ["footprint/test_instants.py", "footprint/test_inference.py", "footprint/sharded/test_sharded.py"],
    ),
    "stored": (
        ["dsmem.footprint.stored"],
        ["footprint/test_stored.py", "../dsmem/footprint/stored.py", "footprint/test_inference.py"],
    ),
    "families": (
        [
            "dsmem.config.families",
            *(
                f"dsmem.config.families.{name}"
                for name in ("common", "dense", "mixtures", "latent", "indexed", "gpt", "heads")
            ),
            "dsmem.config.keys",
        ],
        ["config"],
    ),
    "shapes": (
        ["dsmem.config.architecture", "dsmem.config.shapes", "dsmem.config.indexer", "dsmem.config.workload"],
        ["config", "footprint"],
    ),
    "training": (
        [
            f"dsmem.footprint.training.{name}"
            for name in ("decoder", "attending", "experts", "latent", "gpt", "chunks", "tape", "operators")
        ],
        [f"footprint/training/test_{name}.py" for name in ("folding", "chunks", "training")],
    ),
    "optimizers": (
        [f"dsmem.footprint.training.{name}" for name in ("stepping", "optimizers", "recipes")],
        ["footprint/training/test_recipes.py", "footprint/training/test_optimizers.py"],
    ),
    "sharding": (
        ["dsmem.config.ranks", *(f"dsmem.footprint.sharded.{name}" for name in ("shares", "passes", "taped", "step"))],
        [f"footprint/sharded/test_{name}.py" for name in ("shares", "sharded", "sharded_training")],
    ),
    "fit": (
        [
            "dsmem.config.overhead",
            *(f"dsmem.footprint.fit.{name}" for name in ("solve", "verdict", "remedies", "asked", "spread")),
        ],
        [
            *("footprint/fit/test_fit.py", "footprint/fit/test_asked.py", "footprint/test_segments.py"),
            "runs/test_fit.py",
        ],
    ),
    "ledger": (["dsmem.memory.ledger"], ["memory/test_ledger.py", "memory/test_categories.py"]),
    "replay": (
        ["dsmem.memory.replay"],
        ["memory/test_replay.py", "memory/test_allocator.py", "memory/test_streams.py"],
    ),
    "checkpoint": (["dsmem.model.checkpoint"], ["model/test_checkpoint.py"]),
}
OPERATORS = {ast.Mult: ast.Add, ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult}
OPERATORS |= {ast.Pow: ast.Mult, ast.Mod: ast.Mult, ast.BitOr: None, ast.BitAnd: None}
COMPARISONS = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq}
COMPARISONS |= {ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is}
SECONDS, EXAMPLES = 900, {"most": 6}
# slow; and one that compares a formula with its file, which a break in memory leaves as it is
LEFT_OUT = ["r1_at_full_size", "the_shown_source_runs_and_is_the_formula"]


def plus_one(node):
    return ast.BinOp(node, ast.Add(), ast.Constant(1))


def makes_an_instant(node):
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("instant", "make")


def breaks(node):
    """Functions that break `node` in place, each in its own way."""
    if isinstance(node, ast.BinOp) and OPERATORS.get(type(node.op)):
        yield lambda n: setattr(n, "op", OPERATORS[type(n.op)]())
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        yield lambda n: setattr(n, "value", n.value + 1)
    if isinstance(node, ast.Constant) and type(node.value) is bool:
        yield lambda n: setattr(n, "value", not n.value)
    if isinstance(node, ast.Compare) and type(node.ops[0]) in COMPARISONS:
        yield lambda n: setattr(n, "ops", [COMPARISONS[type(n.ops[0])](), *n.ops[1:]])
    if isinstance(node, ast.BoolOp):
        yield lambda n: setattr(n, "op", ast.Or() if isinstance(n.op, ast.And) else ast.And())
    if isinstance(node, (ast.If, ast.IfExp)):
        yield lambda n: setattr(n, "test", ast.UnaryOp(ast.Not(), n.test))
    if makes_an_instant(node):
        for index, keyword in enumerate(node.keywords):
            if keyword.arg:
                yield lambda n, i=index: setattr(n.keywords[i], "value", plus_one(n.keywords[i].value))
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        yield lambda n: setattr(n, "value", ast.Constant(None))
    if isinstance(node, ast.Return) and isinstance(node.value, ast.BinOp):
        yield lambda n: setattr(n, "value", plus_one(n.value))


def functions(module):
    """(name, function) of all functions and methods that the module defines."""
    for name, found in vars(module).items():
        if getattr(found, "__module__", None) != module.__name__:
            continue
        if inspect.isfunction(found):
            yield name, found
        elif inspect.isclass(found):
            for inner, method in vars(found).items():
                plain = getattr(method, "fget", None) or getattr(method, "func", None) or method
                plain = getattr(plain, "__func__", plain)
                # a dataclass writes some of its methods itself; one that says super() cannot be compiled by itself
                own = inspect.isfunction(plain) and plain.__code__.co_filename == module.__file__
                if own and not plain.__code__.co_freevars:
                    yield f"{name}.{inner}", plain


def parsed(function):
    """Its definition as a tree, decorators apart."""
    source = ast.parse(inspect.cleandoc("\n" + inspect.getsource(function))).body[0]
    source.decorator_list = []
    return source


class Break(NamedTuple):
    """label: what is broken and how. change: for `apply`. place: of which one break is enough with --once."""

    label: str
    change: tuple
    place: tuple
    operator: bool = False


def mutants(module):
    """Every break of every function of the module."""
    for name, function in functions(module):
        where = f"{module.__name__.removeprefix('dsmem.')}.{name}"
        source = parsed(function)
        body = source.body[1:] if ast.get_docstring(source) and len(source.body) > 1 else source.body
        nodes = [node for statement in body for node in ast.walk(statement)]
        for index, node in enumerate(nodes):
            for way, _ in enumerate(breaks(node)):
                tree = copy.deepcopy(source)
                kept = tree.body[len(source.body) - len(body) :]
                target = [node for statement in kept for node in ast.walk(statement)][index]
                before = ast.unparse(target)
                list(breaks(target))[way](target)
                place = (where, index, way) if makes_an_instant(node) else (where,)
                label = f"{where}: {difference(before, ast.unparse(target))}"
                yield Break(label, (function, tree), place, isinstance(node, ast.BinOp))


def difference(before, after, around=35):
    """The two texts, from a little before they part to a little after."""
    start = next((i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), len(before))
    start = max(start - around, 0)
    return f"{before[start : start + 2 * around]!r} -> {after[start : start + 2 * around]!r}"


def default_mutants():
    """The defaults of the families, each number changed by one, each switch turned, each lack filled."""
    from dsmem.config.families import FAMILIES

    for family, read in FAMILIES.items():
        for key, value in read.defaults.items():
            if isinstance(value, str):
                changed = f"another {value}"
            else:
                changed = not value if isinstance(value, bool) else (value or 0) + 1
            label = f"FAMILIES[{family!r}].defaults[{key!r}]: {value!r} -> {changed!r}"
            yield Break(label, (read.defaults, {key: changed}), (family, key))


def apply(change):
    target, new = change
    if isinstance(target, dict):
        target.update(new)
        return
    namespace, code = dict(target.__globals__), target.__code__
    # at its place in its file, for `show` reads the source of a formula
    tree = ast.increment_lineno(ast.fix_missing_locations(new), code.co_firstlineno - 1)
    exec(compile(ast.Module([tree], []), code.co_filename, "exec"), namespace)
    target.__code__ = namespace[target.__name__].__code__


class Breaker:
    """A plugin of pytest: instead of running what it collected once, it runs it for every break, each in a child."""

    def __init__(self, found, every_result):
        self.found, self.every_result, self.survivors, self.fronts = found, every_result, [], set()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session):
        modules = {getattr(item, "module", None) for item in session.items}  # a doctest has none
        for module in (module for module in modules if hasattr(module, "settings")):
            module.settings = few_examples
        same = self.found[0].change[0]
        unchanged = ({}, {}) if isinstance(same, dict) else (same, parsed(same))
        if first_failure(session, unchanged):
            sys.exit("the tests fail, or take too long, as they are")
        for done, each in enumerate(self.found, start=1):
            noticed_by = first_failure(session, each.change)
            self.move_to_front(session, noticed_by, unchanged)
            if not noticed_by:
                self.survivors.append(each.label)
                print(f"survives: {each.label}", file=sys.__stdout__, flush=True)
            elif self.every_result:
                print(f"noticed: {each.label}  by {noticed_by.rpartition('/')[2]}", file=sys.__stdout__, flush=True)
            print(f"{done} of {len(self.found)}", file=sys.__stderr__, end="\r", flush=True)
        return True

    def move_to_front(self, session, name, unchanged):
        """The test that noticed a break runs first from now on, in all its cases; they must pass unbroken."""
        test = name.partition("[")[0]
        items = sorted(session.items, key=lambda item: item.nodeid.partition("[")[0] != test)
        if name and test not in self.fronts:
            session.items = [item for item in items if item.nodeid.partition("[")[0] == test]
            if first_failure(session, unchanged):
                sys.exit(f"{test} fails when it runs first, as it is")
            self.fronts.add(test)
        session.items = items


def one_of_each(found):
    """One break of every function, an operator where it has one, and each part of every instant."""
    chosen = {}
    for each in sorted(found, key=lambda each: not each.operator):
        chosen.setdefault(each.place, each)
    return [each for each in found if chosen[each.place] is each]


def few_examples(max_examples):
    """In place of Hypothesis' settings inside a test: a break shows in the first examples or hardly ever."""
    return hypothesis.settings(max_examples=min(max_examples, EXAMPLES["most"]))


STOPPED = "too long, or no longer code that runs"


def first_failure(session, change):
    """The test that notices the change, in a child process; "" if none does, `STOPPED` if that ends otherwise."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        signal.alarm(SECONDS)
        nowhere, code = os.open(os.devnull, os.O_WRONLY), 1
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        session.config.pluginmanager.register(Notice(writing))
        with contextlib.suppress(BaseException):  # the first failure stops the loop
            apply(change)
            main_plugin.pytest_runtestloop(session)
            code = 0
        os._exit(code)
    os.close(writing)
    with os.fdopen(reading, encoding="utf-8") as said:
        noticed_by = said.read()
    _, status = os.waitpid(child, 0)
    return noticed_by or (STOPPED if status else "")


class Notice:
    """A plugin of the child: writes the name of the first test that fails to a pipe."""

    def __init__(self, pipe):
        self.pipe = pipe

    def pytest_runtest_logreport(self, report):
        if report.failed:
            os.write(self.pipe, report.nodeid.encode())


def warm_up():
    """Load once, before any child is made, what every child would load."""
    import torch
    import transformers

    import dsmem

    torch.set_num_threads(1)
    assert transformers.AutoModelForCausalLM
    for name in ("qwen2.5-0.5b", "deepseek-v2-lite"):
        dsmem.measure(name, seq_len=4)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--only", default="", help="break only what has this text in its name")
    parser.add_argument("--every", type=int, default=1, help="try every so many")
    parser.add_argument("--once", action="store_true", help="one break of each function and each part of an instant")
    parser.add_argument("--again", type=Path, help="a list of results: break only what survives in it")
    parser.add_argument("--examples", type=int, help="examples of a random test at most: 6, or with --again 100")
    options = parser.parse_args()
    EXAMPLES["most"] = options.examples or (100 if options.again else 6)
    names, tests = TARGETS[options.target]
    found = [mutant for name in names for mutant in mutants(importlib.import_module(name))]
    found += list(default_mutants()) if options.target == "families" else []
    found = one_of_each(found) if options.once else found
    found = [each for each in found if options.only in each.label][:: options.every]
    tests = [str((TESTS / test).resolve()) for test in tests]
    if options.again:
        survived = set(options.again.read_text(encoding="utf-8").splitlines())
        found = [each for each in found if f"survives: {each.label}" in survived]
    os.environ["HYPOTHESIS_PROFILE"] = "quick"
    warm_up()
    breaker, start = Breaker(found, options.once), time.time()
    flags = [
        "-x",
        "-q",
        "-n0",
        "-s",
        "-p",
        "no:cacheprovider",
        "--assert=plain",
        "-k",
        f"not {' and not '.join(LEFT_OUT)}",
    ]
    if pytest.main([*flags, *tests], plugins=[breaker]) != pytest.ExitCode.OK:
        sys.exit("the tests could not be run")
    print(f"{len(found)} breaks, {len(breaker.survivors)} survive, {time.time() - start:,.0f} s")


if __name__ == "__main__":
    main()
