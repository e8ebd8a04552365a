"""python -m dsmem.runs gpu | record | compare | measured: what a GPU says, recorded and held against the prediction."""

import argparse
import sys
from collections.abc import Callable

from dsmem.config.source import DATA


def gpu(options: argparse.Namespace, command: str) -> None:
    from dsmem.runs.gpu import run_all

    run_all(options.out, options.device, options.minutes, options.resume, command)


def record(options: argparse.Namespace, command: str) -> None:
    from dsmem.runs import recordings

    print(f"recorded in {recordings.record(options.out, options.device, command=command, resume=options.resume)}")


def compare(options: argparse.Namespace, command: str) -> None:
    from dsmem.runs import recordings

    print(recordings.error_report(recordings.load(options.file)))


def measured(options: argparse.Namespace, command: str) -> None:
    from dsmem.runs import measured

    print(measured.compare())


OUT = ("--out", {"default": DATA / "runs", "help": "folder for the new file"})
DEVICE = ("--device", {"default": "cuda", "help": "cuda, cuda:1, cpu or fake"})
RESUME = ("--resume", {"help": "file of a recording that was cut off"})
MINUTES = ("--minutes", {"type": float, "default": 10, "help": "when it ends at the latest (default: 10)"})
FILE = ("file", {"help": "a recording"})

COMMANDS: dict[str, tuple[Callable, str, tuple]] = {
    "gpu": (gpu, "tests, sweep, tokens a second and context of this GPU", (DEVICE, OUT, MINUTES, RESUME)),
    "record": (record, "measure a sweep on the GPU and keep it with its provenance", (OUT, DEVICE, RESUME)),
    "compare": (compare, "print the prediction's errors against a recorded run", (FILE,)),
    "measured": (measured, "print the prediction's errors against what others measured on their GPUs", ()),
}
"""Each command: what it does, its help, and its arguments."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns 0, or 2 with one sentence on what could not be done."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(prog="python -m dsmem.runs", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, (_, words, wanted) in COMMANDS.items():
        command = commands.add_parser(name, help=words, description=words)
        for argument, how in wanted:
            command.add_argument(argument, **how)
    options = parser.parse_args(arguments)
    try:
        COMMANDS[options.command][0](options, " ".join(["python -m dsmem.runs", *map(str, arguments)]))
    except (ValueError, OSError, RuntimeError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
