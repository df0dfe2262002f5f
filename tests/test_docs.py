"""Pages that are made are up to date, and what pages name is there."""

import importlib.util
import re
from pathlib import Path

import pytest

import medcolor_tf as mc

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def make_api():
    spec = importlib.util.spec_from_file_location("make_api", ROOT / "docs" / "make_api.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_api_page_is_what_the_docstrings_say(make_api):
    assert make_api.PAGE.read_text(encoding="utf-8") == make_api.page(), (
        "docs/api.md is out of date: run `python docs/make_api.py`"
    )


def test_the_api_page_has_every_public_name(make_api):
    named = [name for names in make_api.GROUPS.values() for name in names]
    assert sorted([*named, "__version__"]) == sorted(mc.__all__)


def test_the_walk_names_files_and_functions_that_are_there():
    """Each `file.py` of docs/walk.md exists, and holds the names that follow it."""
    text = (ROOT / "docs" / "walk.md").read_text(encoding="utf-8")
    files = re.findall(r"`([\w/]+\.py)`(?:\s+\(((?:`\w+`(?:,\s+)?)+)\))?", text)
    assert len(files) > 10
    for file, names in files:
        assert (ROOT / file).is_file(), file
        source = (ROOT / file).read_text(encoding="utf-8")
        for name in re.findall(r"\w+", names):
            assert re.search(rf"^\s*(?:class|def) {name}\b", source, re.M), f"{file}: {name}"
