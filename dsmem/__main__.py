"""python -m dsmem find-tensor SIZE MODEL: whose tensor is this many bytes?

python -m dsmem find-tensor "Tried to allocate 448.00 MiB" deepseek-r1-distill-llama-70b
"""

import argparse
import sys


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns 0, or 2 with one sentence on what could not be read."""
    parser = argparse.ArgumentParser(prog="python -m dsmem", description="Questions about memory, answered in a line.")
    commands = parser.add_subparsers(dest="command", required=True)
    finding = commands.add_parser("find-tensor", help="whose tensor is this many bytes?")
    finding.add_argument("size", help="bytes, '448 MiB', or the line of an out-of-memory error as it is")
    finding.add_argument("model", help="a name in data/models, or the path of a config.json")
    finding.add_argument("--most", type=int, default=12, help="how many tensors to list (default: 12)")
    options = parser.parse_args(arguments)
    try:
        from dsmem.footprint.find import find_tensor

        size = int(options.size) if options.size.isdigit() else options.size
        print(find_tensor(size, options.model, options.most))
    except (ValueError, OSError) as error:
        print(f"dsmem {options.command}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
