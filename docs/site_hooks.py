"""What MkDocs needs to know of the files around docs/ (mkdocs.yml names this file).

README.md and its like become pages of the site, and links are written for the code host: relative
to the file they stand in. Here they are made to fit the site. A link to a file of the project that
is no page becomes plain text; a link to nothing stays, and fails the strict build.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
# Files outside docs/ that are part of the site -> their names there.
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "CHANGELOG.md": "CHANGELOG.md",
    "SECURITY.md": "SECURITY.md",
    "examples/quickstart.ipynb": "quickstart.ipynb",
}
# Blocks and spans of code, in which nothing is a link, or [text](target).
LINK = re.compile(r"(?ms)^```.*?^```|`[^`\n]+`(?!\])|(!?)\[([^\]]*)\]\(([^)\s]+)\)")


def on_files(files, config):
    """Adds the pages that lie outside docs/."""
    for name, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / name).read_text("utf-8")))
    return files


def on_page_markdown(markdown, page, config, files):
    """Turns the links of a page into the site's."""
    outside = {target: name for name, target in PAGES.items()}
    source = outside.get(page.file.src_uri, f"docs/{page.file.src_uri}")

    def replace(link: re.Match) -> str:
        if link[3] is None or ":" in link[3] or link[3].startswith("#"):
            return link[0]
        path, hash_sign, anchor = link[3].partition("#")
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        inside = PAGES.get(target) or (target[5:] if target.startswith("docs/") else "")
        if not inside:
            return link[2] if (ROOT / target).exists() else link[0]
        relative = posixpath.relpath(inside, posixpath.dirname(page.file.src_uri) or ".")
        return f"{link[1]}[{link[2]}]({relative}{hash_sign}{anchor})"

    return LINK.sub(replace, markdown)
