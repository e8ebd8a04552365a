"""Point notebooks, README and pyproject.toml to a repository: `python -m dsmem.publish OWNER/REPO`, after a fork.

The address has one place of truth, `Repository` in pyproject.toml's [project.urls]. It is repeated where a reader needs
it: in the Colab badges, in the set-up cells that install the package, and in links. This command rewrites all of them,
and not one other byte of a file. With `--check` it writes nothing and exits with 1 if a file disagrees.
"""

import argparse
import json
import re
import sys
import tomllib
from pathlib import Path

HOST = "https://github.com/"
NAME = r"[A-Za-z0-9][\w-]*/[\w.-]+"
TAG = r"[\w.-]+"

BADGE = re.compile(rf"(colab\.research\.google\.com/github/){NAME}(/blob/){TAG}(/)", re.ASCII)
INSTALL = re.compile(rf"(git\+https://github\.com/){NAME}(@){TAG}", re.ASCII)
PYPROJECT = re.compile(r'^(Repository[ \t]*=[ \t]*")[^"\n]*(")', re.MULTILINE)

# The sources of a notebook's cells, in its raw text: outputs, metadata and the way it is laid out stay as they are.
_STRING = r'"(?:[^"\\]|\\.)*"'
SOURCE = re.compile(rf'"source":\s*(?:{_STRING}|\[(?:\s|,|{_STRING})*\])')
SET_UP = 'find_spec(\\"dsmem\\")'  # as it stands in the raw text of the set-up cell


def main(arguments=None):
    """Run the command; returns 0, 1 if `--check` found a file that disagrees, 2 if it could not be done."""
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
        print("`python -m dsmem.publish OWNER/REPO` rewrites them.")
        return 1
    return 0


def _parser():
    parser = argparse.ArgumentParser(prog="python -m dsmem.publish", description=__doc__.split("\n")[0])
    parser.add_argument("repository", nargs="?", metavar="OWNER/REPO", help="default: that of pyproject.toml")
    parser.add_argument("--tag", help="tag or branch to open and install; default: v and the package's version")
    parser.add_argument("--root", type=Path, default=Path(), help="folder of pyproject.toml (default: this one)")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a file disagrees")
    return parser


def plan(root, repository=None, tag=None):
    """{path: (text now, text as it should be)} of pyproject.toml, README.md and every notebook under `root`.

    repository: "OWNER/REPO", left out that of pyproject.toml. tag: left out, "v" and the version in dsmem/__init__.py.
    Raises ValueError or OSError, one sentence, for a name that cannot be, no notebooks, or a damaged file.
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
    # last, because it says what the old address is: a run that was interrupted can be run again
    changes[root / "pyproject.toml"] = project, PYPROJECT.sub(rf"\g<1>{HOST}{new}\g<2>", project)
    return changes


def write(changes):
    """Write the files of a plan that change."""
    for path, (old, new) in changes.items():
        if old != new:
            path.write_bytes(new.encode("utf-8"))  # as bytes, so that line ends stay what they are


def rewrite(text, old, new, tag, set_up=False):
    """`text` with badges, installs and links of `old` pointing to `new` at `tag`.

    A badge is always this project's, whoever's it was before; an install only in a set-up cell, elsewhere it must be
    of `old`, or it is some other package's.

    >>> rewrite("https://github.com/dsmem/dsmem/issues", "dsmem/dsmem", "ada/memory", "v1")
    'https://github.com/ada/memory/issues'
    """
    text = BADGE.sub(rf"\g<1>{new}\g<2>{tag}\g<3>", text)
    install = INSTALL if set_up else re.compile(INSTALL.pattern.replace(NAME, re.escape(old)), re.ASCII)
    text = install.sub(rf"\g<1>{new}\g<2>{tag}", text)
    # not the longer name of another repository; but "old.git" is this one, and so is "old." at the end of a sentence
    return re.sub(
        rf"(github\.com/){re.escape(old)}(?=\.git(?![\w-])|(?!\.?[\w-]))", rf"\g<1>{new}", text, flags=re.ASCII
    )


def rewrite_notebook(path, text, old, new, tag):
    """`rewrite`, for the sources of a notebook's cells. Raises ValueError for a damaged one."""
    try:
        _ = [cell["source"] for cell in json.loads(text)["cells"]]
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path} is damaged; it must be a notebook in JSON with a list of cells") from None
    return SOURCE.sub(lambda match: rewrite(match[0], old, new, tag, SET_UP in match[0]), text)


def current_repository(project):
    """OWNER/REPO that the text of a pyproject.toml gives."""
    try:
        address = tomllib.loads(project)["project"]["urls"]["Repository"]
    except (tomllib.TOMLDecodeError, KeyError, TypeError):
        raise ValueError("pyproject.toml gives no Repository; it must have one in [project.urls]") from None
    if not PYPROJECT.search(project) or not re.fullmatch(HOST + NAME, str(address), re.ASCII):
        raise ValueError(f"Repository={address!r} in pyproject.toml is not read; it must be {HOST}OWNER/REPO")
    return address.removeprefix(HOST)


def _version_tag(root):
    version = re.search(r'^__version__ = "(.*)"', _read(root / "dsmem" / "__init__.py"), re.MULTILINE)
    if not version:
        raise ValueError("dsmem/__init__.py gives no __version__; give the tag with --tag")
    return f"v{version[1]}"


def _checked(argument, value, pattern, example):
    if not re.fullmatch(pattern, value, re.ASCII) or value.endswith((".git", "/.", "/..")):
        raise ValueError(f"{argument}={value!r} cannot be; allowed: letters, digits, '-', '_' and '.', as in {example}")
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
