"""The blocks of README.md, docs/ and CONTRIBUTING.md, and commands as their parsers see them."""

import importlib
import re
import shlex
import textwrap
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from medcolor_tf import commandline

ROOT = Path(__file__).parents[1]
SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["scripts"]
# What stands for further options or for something to fill in, and what asks for help alone.
LEFT_OUT = ("...", "…", "--help")
BLOCK = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.M | re.S)


@dataclass(frozen=True)
class Command:
    """One command of a page.

    Attributes:
        where: the page, for messages.
        module: what ``python -m`` runs.
        arguments: those that follow, without ``...``.
        complete: whether nothing was left out.
    """

    where: str
    module: str
    arguments: tuple[str, ...]
    complete: bool = True


def pages() -> list[Path]:
    """Returns the Markdown files that users read, but for the generated page of the API."""
    return [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]


def all_blocks(text: str) -> list[tuple[str, str]]:
    """Returns the fenced blocks of a page: language ("" are shell commands) and content."""
    return [(name, textwrap.dedent(content)) for name, content in BLOCK.findall(text)]


def blocks(text: str, language: str = "") -> list[str]:
    """Returns the fenced blocks of a page in one language."""
    return [content for name, content in all_blocks(text) if name == language]


def lines(block: str) -> list[str]:
    """Returns the lines of a block of shell commands, continued ones joined."""
    joined = re.sub(r"\\\n\s*", "", block)
    return [line for line in joined.splitlines() if line.strip()]


def command(
    line: str, where: str, packages: tuple[str, ...] = ("medcolor_tf.", "data_prep.")
) -> Command | None:
    """Returns the command of one of these packages in a line, None where there is none."""
    words = shlex.split(line, comments=True)
    if "-m" in words and Path(words[words.index("-m") - 1]).name.startswith("python"):
        start = words.index("-m") + 1
        module = words[start] if start < len(words) else ""
    else:
        start = next((i for i, word in enumerate(words) if word in SCRIPTS), None)
        module = SCRIPTS[words[start]].partition(":")[0] if start is not None else ""
    if not module.startswith(packages) or start is None:
        return None
    arguments = words[start + 1 :]
    kept = [word for word in arguments if not word.endswith(LEFT_OUT)]
    return Command(where, module, tuple(kept), len(kept) == len(arguments))


def commands() -> Iterator[Command]:
    """Yields every command of the pages' blocks and of the flag files' comments."""
    for page in pages():
        for block in blocks(page.read_text("utf-8")):
            yield from filter(None, (command(line, page.name) for line in lines(block)))
    for file in sorted((ROOT / "medcolor_tf" / "configs").glob("*.flags")):
        comments = re.findall(r"^#   ( *\S.*)$", file.read_text("utf-8"), re.M)
        found = (command(line, file.name) for line in lines("\n".join(comments)))
        yield from filter(None, found)


def mentioned() -> Iterator[Command]:
    """Yields the commands that stand within a line of text, which may lack required options."""
    for page in pages():
        text = BLOCK.sub("", page.read_text("utf-8"))
        for span in re.findall(r"`((?:[A-Z_]+=\S+ )?(?:python -m |medcolor-)[^`]+)`", text):
            found = command(span.replace("\n", " "), page.name)
            if found is not None:
                yield Command(found.where, found.module, found.arguments, complete=False)


def parse(found: Command, monkeypatch):
    """Parses a command by the parser it has, without running it; returns its options.

    Raises:
        medcolor_tf.errors.InputError: as the command itself would.
    """
    parsed = []

    def run(config_class, function, description, argv=None):
        parsed.append(commandline.parse(config_class, argv or []))
        return 0

    with monkeypatch.context() as patch:
        patch.setattr(commandline, "run", run)
        importlib.import_module(found.module).main(list(found.arguments))
    return parsed[0]
