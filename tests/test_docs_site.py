"""The pages as a site: built strictly, and none of them asks anything of a network."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from documented import ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("material") is None,
        reason="mkdocs-material is not installed (the extra [docs])",
    ),
]
# What a browser fetches by itself; a link to another site is followed by nobody but the reader.
FETCHED = re.compile(
    r"<(?:script|img|iframe|source)\b[^>]*\bsrc=\"((?:https?:)?//[^\"]+)"
    r"|<link\b[^>]*\bhref=\"((?:https?:)?//[^\"]+)"
    r"|url\(\"?((?:https?:)?//[^)]+)"
)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet"]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(
        [*command, f"--site-dir={folder}"],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_every_page_is_there_and_the_readme_is_the_first(site: Path):
    pages = {page.stem for page in (ROOT / "docs").glob("*.md")}
    assert {page.stem for page in site.glob("*.html")} >= pages | {"index", "CONTRIBUTING"}
    assert "Your data, in five commands" in (site / "index.html").read_text("utf-8")
    assert not list(site.rglob("*.py"))


def test_nothing_is_fetched_from_elsewhere(site: Path):
    for file in (*site.rglob("*.html"), *site.rglob("*.css")):
        found = [next(filter(None, match)) for match in FETCHED.findall(file.read_text("utf-8"))]
        assert found == [], file


def test_links_of_the_code_host_lead_to_pages_of_the_site(site: Path):
    text = (site / "index.html").read_text("utf-8")
    assert 'href="data.html"' in text
    assert 'src="demo.jpg"' in text
    assert 'href="docs/' not in text
    training = (site / "training.html").read_text("utf-8")
    assert 'href="CONTRIBUTING.html"' in training
    assert (site / "quickstart.ipynb").is_file()
