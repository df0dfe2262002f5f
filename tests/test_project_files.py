"""What stands around the code agrees with it: versions, links, console scripts, CI."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from medcolor_tf import __version__

ROOT = Path(__file__).parents[1]


def text(name):
    return (ROOT / name).read_text(encoding="utf-8")


def test_citation_and_changelog_are_of_this_version():
    assert re.findall(r"^version: (\S+)$", text("CITATION.cff"), re.M)[0] == __version__
    assert re.findall(r"^## (\S+)", text("CHANGELOG.md"), re.M)[0] == __version__


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"])
def test_links_lead_to_files_of_the_project(name):
    links = re.findall(r"\]\(([^)#]+)", text(name))
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_every_command_has_a_console_script():
    scripts = tomllib.loads(text("pyproject.toml"))["project"]["scripts"]
    modules = [*ROOT.glob("medcolor_tf/*.py"), *ROOT.glob("data_prep/*.py")]
    commands = [
        f"{path.parent.name}.{path.stem}:main"
        for path in modules
        if "\ndef main(" in path.read_text(encoding="utf-8")
    ]
    assert sorted(scripts.values()) == sorted(commands)


def test_public_ci_runs_the_projects_own():
    assert "- run: .ci/run\n" in text(".github/workflows/ci.yml")
    assert text(".ci/run").endswith("exec make test\n")


def requirements(name):
    """Requirements of the package, with those of an extra (and the extras inside it)."""
    project = tomllib.loads(text("pyproject.toml"))["project"]
    required = []
    for line in project["dependencies"] if not name else project["optional-dependencies"][name]:
        requirement = Requirement(line)
        if requirement.name == project["name"]:
            required += [found for extra in requirement.extras for found in requirements(extra)]
        else:
            required.append(requirement)
    return required


def test_the_versions_that_are_installed_are_locked_by_hash_and_in_the_allowed_range():
    """`make lock` writes the file anew."""
    locked: dict[str, list[str]] = {}
    blocks = re.split(r"\n(?=[a-z])", text("requirements.lock"))[1:]
    for block in blocks:
        assert "--hash=sha256:" in block, block
        name, version = re.findall(r"^([\w.-]+)==([^\s;]+)", block)[0]
        locked.setdefault(canonicalize_name(name), []).append(version)
    for requirement in requirements("") + requirements("dev"):
        versions = locked[canonicalize_name(requirement.name)]
        assert all(version in requirement.specifier for version in versions), requirement


def test_every_runtime_dependency_has_both_ends():
    for extra in ("", "dicom", "docs", "jax", "onnx", "litert"):
        for requirement in requirements(extra):
            ends = {specifier.operator for specifier in requirement.specifier}
            assert ends == {">=", "<"}, requirement
