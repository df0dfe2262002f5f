"""docs/troubleshooting.md quotes messages as the code has them."""

import ast
import re
from collections.abc import Iterator

import pytest
from documented import ROOT

PAGE = ROOT / "docs" / "troubleshooting.md"
VARIES = "\0"


def text_of(node: ast.AST) -> str:
    """Returns a string expression with VARIES in place of what is not literal."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(part) for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return text_of(node.left) + text_of(node.right)
    return VARIES


def texts() -> Iterator[str]:
    """Yields every string expression of both packages, docstrings among them."""
    for package in ("medcolor_tf", "data_prep"):
        for file in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text("utf-8"))):
                if isinstance(node, ast.Constant | ast.JoinedStr | ast.BinOp):
                    text = text_of(node)
                    if text.strip(VARIES):
                        yield text


@pytest.fixture(scope="module")
def code() -> str:
    return "\n\n".join(dict.fromkeys(texts()))


def quoted() -> list[str]:
    return re.findall(r"^\| `([^`]+)` \|", PAGE.read_text("utf-8"), re.M)


def is_in(message: str, code: str) -> bool:
    """Whether one string of the code has the message's fixed parts, in order, "…" between them."""
    parts = [re.escape(part) for part in message.split("…") if part]
    return re.search(r"(?:(?!\n\n).)*?".join(parts), code, re.S) is not None


def test_every_message_stands_in_the_code(code):
    messages = quoted()
    assert len(messages) > 50
    assert [message for message in messages if not is_in(message, code)] == []


def test_a_message_that_was_changed_is_found(code):
    message = "--out=…: holds an unfinished build with …; choose another --out, or delete that"
    assert is_in(message, code)
    assert not is_in(message.replace("unfinished", "incomplete"), code)
    assert not is_in("--out=…: holds an unfinished build with …; leave the flag out", code)


def test_no_message_is_so_short_that_any_text_has_it():
    assert [m for m in quoted() if len(m.replace("…", "").strip()) < 10] == []
