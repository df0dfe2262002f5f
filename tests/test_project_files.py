"""What stands around the code agrees with it: versions, links, console scripts, CI."""

import re
import tomllib
from pathlib import Path

import pytest

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
