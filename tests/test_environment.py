"""pyproject.toml, environment.yml and requirements.lock say the same."""

import re

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from fercore.paths import ROOT

tomllib = pytest.importorskip("tomllib" if __import__("sys").version_info >= (3, 11) else "tomli")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONDA = {"pytorch": "torch"}  # conda-forge's names, where they differ


def normal(name: str) -> str:
    name = re.sub(r"[-_.]+", "-", name).lower()
    return CONDA.get(name, name)


def wanted(*extras: str) -> dict[str, SpecifierSet]:
    lines = PROJECT["dependencies"] + [line for e in extras for line in PROJECT["optional-dependencies"][e]]
    return {normal(r.name): r.specifier for r in map(Requirement, lines)}


def test_environment_yml_is_in_step_with_pyproject():
    entries = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    flat = [e for e in entries if isinstance(e, str)]
    by_pip = [e for block in entries if isinstance(block, dict) for e in block["pip"]]
    assert by_pip[-1] == "-e ." and "pip" in flat
    given = [Requirement(e) for e in flat + by_pip[:-1] if e != "pip"]
    ranges = {normal(r.name): r.specifier for r in given}
    assert len(ranges) == len(given), "a package is named twice"
    assert ranges.pop("python") == SpecifierSet(PROJECT["requires-python"])
    assert ranges == wanted("study", "test")


def locked() -> list[tuple[Requirement, list[str]]]:
    """(requirement, hashes) of each entry of requirements.lock."""
    text = re.sub(r"\\\n\s*", " ", (ROOT / "requirements.lock").read_text())
    lines = [line.split(" #")[0].strip() for line in text.splitlines()]
    out = []
    for line in filter(lambda line: line and not line.startswith("#"), lines):
        requirement, *hashes = line.split(" --hash=")
        out.append((Requirement(requirement.strip()), [h.strip() for h in hashes]))
    return out


def test_every_requirement_is_pinned_with_hashes():
    entries = locked()
    assert len(entries) > 50
    for requirement, hashes in entries:
        assert re.fullmatch(r"==[^*,]+", str(requirement.specifier)), requirement
        assert requirement.url is None, requirement
        assert hashes and all(re.fullmatch(r"sha256:[0-9a-f]{64}", h) for h in hashes), requirement


def test_lock_names_no_address():
    text = (ROOT / "requirements.lock").read_text().lower()
    for word in ("http:", "https:", "index-url", "find-links", "file:", "trusted-host", "git+"):
        assert word not in text, word


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13"])
def test_lock_has_what_pyproject_wants(python):
    setting = {"python_version": python, "python_full_version": f"{python}.4"}
    entries = [r for r, _ in locked() if r.marker is None or r.marker.evaluate(setting)]
    versions: dict[str, str] = {}
    for requirement in entries:
        version = str(requirement.specifier)[2:]
        assert versions.setdefault(normal(requirement.name), version) == version, requirement.name
    for name, ranges in wanted("study", "faces", "test").items():
        assert name in versions, f"{name} is not in requirements.lock for Python {python}"
        assert ranges.contains(versions[name]), f"{name}=={versions[name]} is not {ranges}"
    assert versions["torch"] != "2.13.0"


def test_data_of_the_package_is_shipped():
    import fercore

    shipped = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["fercore"]
    assert all((ROOT / "fercore" / name).is_file() for name in shipped)
    assert fercore.__version__ == PROJECT["version"]
