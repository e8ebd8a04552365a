"""Questions about memory, answered at a prompt.

python -m dsmem find-tensor "Tried to allocate 448.00 MiB" deepseek-r1-distill-llama-70b
python -m dsmem checkpoint path/to/folder
python -m dsmem fit deepseek-r1-distill-qwen-7b --gpu T4 --weights int8
"""

import argparse
import sys

from dsmem.runs import fit_command


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns 0, 1 where something does not fit, 2 with a sentence on what could not be read."""
    parser = argparse.ArgumentParser(prog="python -m dsmem", description="Questions about memory, answered in a line.")
    commands = parser.add_subparsers(dest="command", required=True)
    finding = commands.add_parser("find-tensor", help="whose tensor is this many bytes?")
    finding.add_argument("size", help="bytes, '448 MiB', or the line of an out-of-memory error as it is")
    finding.add_argument("model", help="a name in data/models, or the path of a config.json")
    finding.add_argument("--most", type=int, default=12, help="how many tensors to list (default: 12)")
    finding.set_defaults(answer=_find)
    weighing = commands.add_parser("checkpoint", help="what do these files store?")
    weighing.add_argument("path", help="a folder, a safetensors or GGUF file, or a model.safetensors.index.json")
    weighing.add_argument("--most", type=int, default=5, help="how many of the largest tensors to list (default: 5)")
    weighing.set_defaults(answer=_weigh)
    fitting = commands.add_parser("fit", help="does this model fit that GPU?")
    fit_command.add_arguments(fitting)
    fitting.set_defaults(answer=fit_command.answer)
    options = parser.parse_args(arguments)
    try:
        text, code = options.answer(options)
    except (ValueError, OSError) as error:
        print(f"dsmem {options.command}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    print(text)
    return code


def _find(options):
    from dsmem.footprint.find import find_tensor

    size = int(options.size) if options.size.isdigit() else options.size
    return find_tensor(size, options.model, options.most), 0


def _weigh(options):
    from dsmem.footprint.checkpoints.weigh import checkpoint

    weighed = checkpoint(options.path)
    return f"{weighed.table()}\n\n{weighed.largest(options.most)}" if weighed.tensors else weighed.table(), 0


if __name__ == "__main__":
    sys.exit(main())
