"""Point notebooks, README and pyproject.toml at your repository: `python -m dsmem.publish OWNER/REPO`, after a fork.

The address is defined in one place, `Repository` in pyproject.toml's [project.urls]. It is repeated where a reader
needs it: in the Colab badges, in the set-up cells that install the package, and in links. This command rewrites all of
those and leaves every other byte as it is. With `--check` it writes nothing and exits with 1 if a file disagrees.
"""

import argparse
import json
import re
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

HOST = "https://github.com/"
NAME = r"[A-Za-z0-9][\w-]*/[\w.-]+"
TAG = r"[\w.-]+"

BADGE = re.compile(rf"(colab\.research\.google\.com/github/){NAME}(/blob/){TAG}(/)", re.ASCII)
INSTALL = re.compile(rf"(git\+https://github\.com/){NAME}(@){TAG}", re.ASCII)
PYPROJECT = re.compile(r'^(Repository[ \t]*=[ \t]*")[^"\n]*(")', re.MULTILINE)

# The sources of a notebook's cells in its raw text, so that outputs, metadata and layout stay as they are.
_STRING = r'"(?:[^"\\]|\\.)*"'
SOURCE = re.compile(rf'"source":\s*(?:{_STRING}|\[(?:\s|,|{_STRING})*\])')
SET_UP = 'find_spec(\\"dsmem\\")'  # as it is written in the raw text of the set-up cell

Changes = Mapping[Path, tuple[str, str]]
"""{path: (text now, text as it should be)}."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0 done, 1 `--check` found a file that disagrees, 2 an error.

    arguments: of the command line; default to those of the process.
    """
    options = _parser().parse_args(arguments)
    try:
        changes = plan(options.root, options.repository, options.tag)
        if not options.check:
            write(changes)
    except (OSError, ValueError) as error:
        print(f"dsmem.publish: {error}", file=sys.stderr)
        return 2
    names = [path.relative_to(options.root).as_posix() for path, (old, new) in changes.items() if old != new]
    print("\n".join(f"{'disagrees' if options.check else 'rewritten'}: {name}" for name in names) or "All files agree.")
    if options.check and names:
        print("To rewrite them, run `python -m dsmem.publish OWNER/REPO`.")
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m dsmem.publish", description=__doc__.split("\n")[0])
    parser.add_argument(
        "repository", nargs="?", metavar="OWNER/REPO", help="your repository; defaults to the one in pyproject.toml"
    )
    parser.add_argument("--tag", help="tag or branch to open and install; defaults to v and the package's version")
    parser.add_argument(
        "--root", type=Path, default=Path(), help="folder that holds pyproject.toml; defaults to the current one"
    )
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a file disagrees")
    return parser


def plan(root: Path | str, repository: str | None = None, tag: str | None = None) -> Changes:
    """What pyproject.toml, README.md and every notebook under `root` are, and what they should be.

    repository: "OWNER/REPO"; defaults to the one in pyproject.toml. tag: a tag or branch; defaults to "v" and the
    version in dsmem/__init__.py. Raises ValueError, in one sentence, for a name that is not allowed, a folder without
    notebooks, or a damaged file.
    """
    root = Path(root)
    project = _read(root / "pyproject.toml")
    old = current_repository(project)
    new = _checked("OWNER/REPO", old if repository is None else repository, NAME, "ada/dsmem")
    tag = _checked("--tag", _version_tag(root) if tag is None else tag, TAG, "v0.1.0")
    notebooks = sorted((root / "notebooks").glob("*.ipynb"))
    if not notebooks:
        raise ValueError(f"--root={str(root)!r} has no notebooks/*.ipynb; it must be the folder that holds notebooks/")
    texts = {path: _read(path) for path in notebooks}
    changes = {path: (text, rewrite_notebook(path, text, old, new, tag)) for path, text in texts.items()}
    readme = _read(root / "README.md")
    changes[root / "README.md"] = readme, rewrite(readme, old, new, tag)
    # last, because it holds the old address: a run that was interrupted can be repeated
    changes[root / "pyproject.toml"] = project, PYPROJECT.sub(rf"\g<1>{HOST}{new}\g<2>", project)
    return changes


def write(changes: Changes) -> None:
    """Write those files of a plan that change."""
    for path, (old, new) in changes.items():
        if old != new:
            path.write_bytes(new.encode("utf-8"))  # as bytes, so that line endings stay as they are


def rewrite(text: str, old: str, new: str, tag: str, set_up: bool = False) -> str:
    """`text` with the badges, installs and links of `old` pointing at `new`, at `tag`.

    old, new: "OWNER/REPO". set_up: whether the text is a set-up cell. A badge is always this project's, whatever it
    names; so is an install in a set-up cell, while elsewhere only one of `old` is, and any other is left alone.

    >>> rewrite("https://github.com/dsmem/dsmem/issues", "dsmem/dsmem", "ada/memory", "v1")
    'https://github.com/ada/memory/issues'
    """
    text = BADGE.sub(rf"\g<1>{new}\g<2>{tag}\g<3>", text)
    install = INSTALL if set_up else re.compile(INSTALL.pattern.replace(NAME, re.escape(old)), re.ASCII)
    text = install.sub(rf"\g<1>{new}\g<2>{tag}", text)
    # not another repository whose name is longer; but "old.git" is this one, and so is "old." at the end of a sentence
    return re.sub(
        rf"(github\.com/){re.escape(old)}(?=\.git(?![\w-])|(?!\.?[\w-]))", rf"\g<1>{new}", text, flags=re.ASCII
    )


def rewrite_notebook(path: Path, text: str, old: str, new: str, tag: str) -> str:
    """`rewrite` for the sources of a notebook's cells; `path` is for the ValueError that a damaged one raises."""
    try:
        _ = [cell["source"] for cell in json.loads(text)["cells"]]
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path} is damaged; it must be a notebook in JSON with a list of cells") from None
    return SOURCE.sub(lambda match: rewrite(match[0], old, new, tag, SET_UP in match[0]), text)


def current_repository(project: str) -> str:
    """OWNER/REPO in the text of a pyproject.toml. Raises ValueError, in one sentence, if there is none."""
    try:
        address = tomllib.loads(project)["project"]["urls"]["Repository"]
    except (tomllib.TOMLDecodeError, KeyError, TypeError):
        raise ValueError("pyproject.toml has no Repository; add one to [project.urls]") from None
    if not PYPROJECT.search(project) or not re.fullmatch(HOST + NAME, str(address), re.ASCII):
        raise ValueError(
            f"Repository={address!r} in pyproject.toml is not an address on GitHub; it must be {HOST}OWNER/REPO"
        )
    return address.removeprefix(HOST)


def _version_tag(root):
    version = re.search(r'^__version__ = "(.*)"', _read(root / "dsmem" / "__init__.py"), re.MULTILINE)
    if not version:
        raise ValueError("dsmem/__init__.py has no __version__; name the tag with --tag")
    return f"v{version[1]}"


def _checked(argument, value, pattern, example):
    if not re.fullmatch(pattern, value, re.ASCII) or value.endswith((".git", "/.", "/..")):
        raise ValueError(
            f"{argument}={value!r} is not allowed; it must be letters, digits, '-', '_' and '.', as in {example}"
        )
    return value


def _read(path):
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is damaged; it must be text in UTF-8") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read; it must be a file ({error.strerror})") from None


if __name__ == "__main__":
    sys.exit(main())
