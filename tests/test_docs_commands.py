"""Every command of README, the pages and the flag files is one that its own parser takes."""

import re

import documented
import pytest
from documented import ROOT, Command

import medcolor_tf as mc
from data_prep import options
from medcolor_tf.errors import InputError
from medcolor_tf.runs.config import TrainConfig

# Programs of others, and lines of job scripts, that stand in blocks of commands.
OTHERS = (
    *("make", "pip", "source", "export", "openssl", "mkdir", "docker", "tensorboard", "dask"),
    "python -m benchmarks.",
)
BUILD = "data_prep.build"


@pytest.fixture(autouse=True)
def from_the_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)  # flag files lie in ./configs


COMMANDS = list(documented.commands())


def error_of(found: Command, monkeypatch) -> str:
    """Returns what the command's own parser and check say against it, "" where it is taken."""
    try:
        config = documented.parse(found, monkeypatch)
        if found.module == BUILD:
            options.check(config)
        elif isinstance(config, TrainConfig) and not config.hosts:
            config.check()
    except InputError as error:
        return f"{found.where}: {found.module} {' '.join(found.arguments)}: {error}"
    return ""


@pytest.mark.parametrize("found", COMMANDS, ids=lambda found: f"{found.where}-{found.module}")
def test_command_is_taken_by_its_parser(found: Command, monkeypatch):
    error = error_of(found, monkeypatch)
    assert not error or (not found.complete and "is required" in error)


def test_commands_within_a_line_have_options_that_exist(monkeypatch):
    found = list(documented.mentioned())
    assert len(found) > 10
    messages = [error_of(command, monkeypatch) for command in found]
    assert [text for text in messages if text and "is required" not in text] == []


def test_a_command_with_an_unknown_option_or_flag_file_is_found(monkeypatch):
    for line, message in (
        ("python -m medcolor_tf.train --startegy=all", "did you mean --strategy"),
        ("KERAS_BACKEND=jax medcolor-train --flagfile=nothing.flags", "nothing.flags: no such"),
        ("python -m data_prep.build --source=chexprt --out=x", "--source"),
    ):
        found = documented.command(line, "here")
        assert found is not None
        with pytest.raises(InputError, match=message):
            documented.parse(found, monkeypatch)


def test_every_other_line_of_a_block_is_known(monkeypatch):
    """A misspelt `python -m medcolor_tf...` would be no command of ours, and never be parsed."""
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.M)
    for page in documented.pages():
        for block in documented.blocks(page.read_text("utf-8")):
            for line in documented.lines(block):
                if documented.command(line, page.name) is None and line[0] != "#":
                    words = re.sub(r"^(\S*\.venv/bin/|[A-Z_]+=\S+ )", "", line).split()
                    program = " ".join(words[:3]) if words[0] == "python" else words[0]
                    assert program.startswith(OTHERS) or "-m pytest" in line, (page.name, line)
                    assert words[0] != "make" or words[1] in targets, (page.name, line)


def test_python_on_the_pages_is_python_and_names_what_is_public():
    programs = [
        (page.name, program)
        for page in documented.pages()
        for program in documented.blocks(page.read_text("utf-8"), "python")
        if page.name != "api.md"  # made from docstrings, whose examples are run
    ]
    assert len(programs) > 3
    for name, program in programs:
        compile(program, name, "exec")
        assert {*re.findall(r"\bmc\.(\w+)", program)} <= {*mc.__all__}, name
