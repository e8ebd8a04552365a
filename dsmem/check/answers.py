"""Run a reader's function on one case: a number, "not written yet", or a sentence on what went wrong. Never raises."""

import copy
import inspect
import linecache
import numbers
import reprlib
import textwrap
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple

from dsmem.units import one_of

STUB = ...
"""What stands for an answer that is not written yet."""


class Failure(NamedTuple):
    """Why there is no number: a clause without its full stop, and where a function stopped, the lines that help."""

    reason: str
    details: tuple[str, ...] = ()


def attempt(function: Any, inputs: dict, key: str) -> Any:
    """What `function` answers to `inputs`: an int or float, `STUB`, or a `Failure`. key: the name of the exercise."""
    if function is STUB:
        return STUB
    if not callable(function):
        advice = f"pass the function itself, dsmem.check.{key}(my_function), not what it returns"
        return Failure(f"{advice}; this is {in_words(function)}")
    try:
        arguments = named(function, copy.deepcopy(inputs))  # a copy, so that no answer spoils the next case
        value = function(**arguments)
    except UnknownInput as unknown:
        return Failure(str(unknown))
    except (Exception, SystemExit) as error:
        return _stopped(function, inputs, error)
    if value is STUB or value is NotImplemented:
        return STUB
    number = real_number(value)
    return Failure(f"the function returns {in_words(value)}; it must return one number") if number is None else number


def is_number(answer: Any) -> bool:
    """Whether an answer of `attempt` is a number, and not a stub or a failure."""
    return not (answer is STUB or isinstance(answer, Failure))


class UnknownInput(ValueError):
    """A function asks for an input that the exercise does not have."""


def call(function: Callable, inputs: dict) -> Any:
    """What `function` returns for those of the `inputs` that its arguments name."""
    return function(**named(function, inputs))


def named(function: Callable, inputs: dict) -> dict:
    """Those of the `inputs` that the arguments of `function` name; all of them where it takes `**anything`.

    Raises UnknownInput for an argument that needs a value and names no input.
    """
    parameters = inspect.signature(function).parameters.values()
    optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    for parameter in parameters:
        if parameter.default is parameter.empty and parameter.kind not in optional:
            _known(parameter.name, inputs)
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return inputs
    return {parameter.name: inputs[parameter.name] for parameter in parameters if parameter.name in inputs}


def _known(name, inputs):
    try:
        one_of("argument", name, inputs, what="an input of this exercise")
    except ValueError as error:
        raise UnknownInput(str(error)) from None


def shown(arguments: dict) -> str:
    """Inputs in words, as "batch=4, bits=16"; a model by its name."""
    return ", ".join(f"{name}={getattr(value, 'name', value)}" for name, value in arguments.items())


def real_number(value: Any) -> int | float | None:
    """`value` as int or float where it is one finite number, of Python, NumPy or torch, below 1e30; None if not."""
    try:
        value = value.item() if getattr(value, "ndim", None) == 0 else value
        if isinstance(value, bool) or not isinstance(value, numbers.Real) or not abs(value) < 1e30:
            return None
        return int(value) if value == int(value) else float(value)
    except Exception:  # an object that cannot even answer these questions is not a number
        return None


def in_words(value: Any) -> str:
    """What a reader gave in place of a usable number or a function, in words.

    >>> in_words(None), in_words("7 cats"), in_words(860_000), in_words([1])
    ('nothing (is there a `return`?)', "the text '7 cats'", 'the number 860,000', 'a value of type list')
    """
    if value is None:
        return "nothing (is there a `return`?)"
    if issubclass(type(value), str):  # isinstance would ask the value itself, which may object
        return f"the text {reprlib.repr(as_text(value))}"
    number = real_number(value)
    if number is not None:
        return f"the number {number:,}"
    if issubclass(type(value), numbers.Real) and not issubclass(type(value), bool):
        return "a number that is not a size"
    return f"a value of type {type(value).__name__}"


def as_text(thing: Any) -> str:
    """`str(thing)`, or the name of its type where that raises."""
    try:
        return str(thing)
    except Exception:
        return type(thing).__name__


def say(text: str) -> None:
    """Print a text that may hold half a surrogate pair, which `print` alone would refuse."""
    print(text.encode("utf-8", "replace").decode())


def _stopped(function, inputs, error):
    """`STUB` for an error that a stub raises, or else a `Failure` with the inputs and the reader's line."""
    if isinstance(error, NotImplementedError) or "ellipsis" in as_text(error):
        return STUB
    first = next(iter(as_text(error).splitlines()), "").strip().rstrip(".")
    message = f": {textwrap.shorten(first, 100, placeholder='...')}" if first else ""
    try:
        details = (f"inputs    {shown(named(function, inputs)) or 'none'}", *_readers_line(function, error))
    except Exception:  # a callable without a signature, or an error that objects to questions
        details = ()
    return Failure(f"the function stops with {type(error).__name__}{message}", details)


def _readers_line(function, error):
    """The last line of the reader's own code that ran, as ("line 2    return 1 / 0",); () where it has no source."""
    file = function.__code__.co_filename
    lines = [line for frame, line in traceback.walk_tb(error.__traceback__) if frame.f_code.co_filename == file]
    source = linecache.getline(file, lines[-1]).strip() if lines else ""
    return (f"{f'line {lines[-1]}':<9} {textwrap.shorten(source, 90, placeholder='...')}",) if source else ()
