"""pyproject.toml, environment.yml, constraints.txt, README.md and .ci/run say the same thing."""

import os
import re
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import dsmem

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CI = (ROOT / ".ci" / "run").read_text(encoding="utf-8")

LAB_COMMAND = (
    "python3 -m venv .venv && .venv/bin/pip install -c tests/constraints.txt -e '.[lab]' "
    "&& .venv/bin/jupyter lab notebooks"
)
TEST_COMMAND = (
    "python3 -m venv .venv && .venv/bin/pip install -c tests/constraints.txt -e '.[test]' && .venv/bin/python -m pytest"
)
CONDA_NAMES = {"torch": "pytorch"}  # where conda-forge spells a package differently

DEPENDENCIES = [Requirement(line) for line in PROJECT["dependencies"]]
EXTRAS = {
    f"{extra}: {line}": Requirement(line) for extra, lines in PROJECT["optional-dependencies"].items() for line in lines
}
EVERYTHING = {str(requirement): requirement for requirement in DEPENDENCIES} | EXTRAS


def pins():
    """Name to version, for each line of the constraints."""
    lines = (ROOT / "tests" / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pairs}


def conda_requirements():
    """The conda lines of environment.yml as requirements, and its pip lines."""
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    lines = environment["dependencies"]
    pip_lines = next(line["pip"] for line in lines if isinstance(line, dict))
    requirements = [Requirement(line) for line in lines if isinstance(line, str)]
    return {requirement.name: requirement for requirement in requirements}, pip_lines


@pytest.mark.parametrize("requirement", EVERYTHING.values(), ids=EVERYTHING)
def test_a_dependency_has_one_floor_and_no_cap(requirement):
    assert [clause.operator for clause in requirement.specifier] == [">="]


def test_python_has_one_floor_and_no_cap():
    assert re.fullmatch(r">=3\.\d+", PROJECT["requires-python"])


@pytest.mark.parametrize("requirement", EVERYTHING.values(), ids=EVERYTHING)
def test_the_tested_version_meets_the_floor(requirement):
    version = pins().get(canonicalize_name(requirement.name))
    assert version, f"{requirement.name} is not pinned in tests/constraints.txt"
    assert version in requirement.specifier


def test_one_package_has_one_floor_in_every_extra():
    floors = {requirement.name: requirement.specifier for requirement in EVERYTHING.values()}
    assert all(floors[requirement.name] == requirement.specifier for requirement in EVERYTHING.values())


def test_constraints_are_plain_public_versions():
    lines = (ROOT / "tests" / "constraints.txt").read_text(encoding="utf-8").splitlines()
    wrong = [line for line in lines if not re.fullmatch(r"#.*|[\w.-]+==[\w.!]+", line)]
    assert wrong == []  # a local version such as 2.13.0+cpu exists on no index
    assert [name for name in pins() if re.match("nvidia-|cuda-|triton", name)] == []


LAB = [requirement for extra, requirement in EXTRAS.items() if extra.startswith("lab:")]


@pytest.mark.parametrize("requirement", [*DEPENDENCIES, *LAB], ids=str)
def test_conda_asks_for_the_same_floor(requirement):
    conda, _ = conda_requirements()
    assert conda[CONDA_NAMES.get(requirement.name, requirement.name)].specifier == requirement.specifier


def test_conda_asks_for_nothing_else():
    conda, pip_lines = conda_requirements()
    names = {CONDA_NAMES.get(requirement.name, requirement.name) for requirement in [*DEPENDENCIES, *LAB]}
    assert set(conda) == names | {"python", "pip"}
    assert conda["python"].specifier == PROJECT["requires-python"]
    assert pip_lines == ["-e ."]


def test_readme_gives_each_command_on_one_line_and_ci_runs_its_test_command():
    assert LAB_COMMAND in README.splitlines()
    assert TEST_COMMAND in README.splitlines()
    assert TEST_COMMAND in CI.splitlines()


def test_ci_starts_no_test_without_a_redis_server():
    before = CI.partition(TEST_COMMAND)[0].splitlines()
    assert any("apt-get install -y redis-server" in line for line in before)
    assert "export DSMEM_REQUIRE_REDIS=1" in before


def test_ci_script_is_executable():
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_ci_starts_with_the_tested_torch():
    assert f"torch=={pins()['torch']}\n" in CI


def test_readme_links_every_notebook_and_nothing_missing():
    notebooks = {f"notebooks/{path.name}" for path in (ROOT / "notebooks").glob("*.ipynb")}
    linked = set(re.findall(r"\]\(([^):#]+)\)", README))
    assert notebooks <= linked
    assert [target for target in sorted(linked) if not (ROOT / target).exists()] == []


def test_addresses_in_the_readme_are_the_projects_own():
    repository = PROJECT["urls"]["Repository"].removeprefix("https://github.com/")
    addresses = re.findall(r"github(?:\.com)?/([\w.-]+/[\w.-]+?)(?=[/)\s]|\.git)", README)
    assert set(addresses) <= {repository}


def build(builder, folder, **options):
    """Path of the archive that `builder` makes of the checkout."""
    return next(iter(builder(str(ROOT)).build(directory=str(folder), **options)))


def data_files():
    """Paths of the files under data/ that belong to the project, relative to the repository."""
    files = (path for path in (ROOT / "data").rglob("*") if path.is_file() and path.name != ".DS_Store")
    return {path.relative_to(ROOT).as_posix() for path in files}


def test_the_wheel_carries_code_and_data_and_nothing_else(tmp_path):
    with zipfile.ZipFile(build(WheelBuilder, tmp_path, versions=["standard"])) as wheel:
        names = set(wheel.namelist())
    assert {f"dsmem/{name}" for name in data_files()} <= names
    assert "dsmem/__init__.py" in names
    assert {name.split("/")[0] for name in names} == {"dsmem", f"dsmem-{dsmem.__version__}.dist-info"}


def test_an_editable_install_copies_no_data(tmp_path):
    with zipfile.ZipFile(build(WheelBuilder, tmp_path, versions=["editable"])) as wheel:
        assert [name for name in wheel.namelist() if "data/" in name] == []
        assert Path(wheel.read("_dsmem.pth").decode().strip()) == ROOT


def test_the_source_archive_can_build_and_test_itself(tmp_path):
    with tarfile.open(build(SdistBuilder, tmp_path)) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames()}
    wanted = {"pyproject.toml", "README.md", "LICENSE", "environment.yml", "tests/constraints.txt"}
    assert wanted | data_files() <= names
