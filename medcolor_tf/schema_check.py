"""Checks of what a JSON file holds, before anything is made of it.

A check is a function of a value and of where it stands ("FILE: name"); it raises InputError with
what was expected and what was received. Checks are put together from the functions here.
"""

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

from medcolor_tf.errors import InputError

Check = Callable[[Any, str], None]

SHA256 = re.compile("[0-9a-f]{64}")


def _refuse(where: str, expected: str, value: Any) -> InputError:
    received = repr(value)
    received = received if len(received) <= 100 else f"{received[:100]}..."
    return InputError(f"{where}: expected {expected}, received {received}")


def integer(low: int, high: int) -> Check:
    """An integer from ``low`` to ``high``."""

    def check(value, where):
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise _refuse(where, f"an integer from {low:,} to {high:,}", value)

    return check


def number(low: float, high: float, null: bool = False) -> Check:
    """A finite number from ``low`` to ``high``; with ``null``, or null."""

    def check(value, where):
        if value is None and null:
            return
        # Python's integers have no end, floats may be NaN: neither is between two numbers.
        if isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high:
            return
        raise _refuse(where, f"a number from {low:g} to {high:g}", value)

    return check


def text(most: int = 1000, pattern: re.Pattern | None = None, what: str = "") -> Check:
    """A text of at most ``most`` characters that matches ``pattern`` as a whole."""

    def check(value, where):
        if not isinstance(value, str) or len(value) > most:
            raise _refuse(where, what or f"a text of at most {most} characters", value)
        if pattern is not None and not pattern.fullmatch(value):
            raise _refuse(where, what or f"a text like {pattern.pattern}", value)

    return check


def one_of(values: Collection) -> Check:
    """One of the texts or numbers of ``values``."""

    def check(value, where):
        if isinstance(value, (dict, list, bool)) or value not in values:
            raise _refuse(where, f"one of {', '.join(map(str, values))}", value)

    return check


def list_of(item: Check, most: int, least: int = 0, unique: bool = False) -> Check:
    """A list of ``least`` to ``most`` items; with ``unique``, no two the same."""

    def check(value, where):
        if not isinstance(value, (list, tuple)):
            raise _refuse(where, "a list", value)
        if not least <= len(value) <= most:
            raise InputError(
                f"{where}: expected {least} to {most:,} items, received {len(value):,}"
            )
        for number, entry in enumerate(value):
            item(entry, f"{where}[{number}]")
        if unique and len(set(value)) != len(value):
            twice = next(entry for entry in value if list(value).count(entry) > 1)
            raise InputError(f"{where}: expected no item twice, received {twice!r} twice")

    return check


def mapping_of(item: Check, most: int, names: Collection[str] | None = None) -> Check:
    """An object with at most ``most`` entries, all of a kind; their names out of ``names``."""

    def check(value, where):
        if not isinstance(value, Mapping):
            raise _refuse(where, "an object", value)
        if len(value) > most:
            raise InputError(f"{where}: expected at most {most:,} entries, received {len(value):,}")
        for name, entry in value.items():
            if names is not None and name not in names:
                raise _refuse(where, f"names out of {', '.join(names)}", name)
            item(entry, f"{where}[{name!r}]")

    return check


def record(
    required: Mapping[str, Check], optional: Mapping[str, Check] | None = None, more: bool = False
) -> Check:
    """An object with named entries; with ``more``, others beside them."""
    known = {**required, **(optional or {})}

    def check(value, where):
        if not isinstance(value, Mapping):
            raise _refuse(where, "an object", value)
        if missing := sorted(required.keys() - value.keys()):
            raise InputError(f"{where}: no {', '.join(missing)}")
        if not more and (unknown := sorted(map(str, value.keys() - known.keys()))):
            raise _refuse(where, f"entries out of {', '.join(known)}", unknown[0])
        for name in known.keys() & value.keys():
            known[name](value[name], f"{where}: {name}")

    return check


def maybe(check: Check) -> Check:
    """Null, or what ``check`` accepts."""

    def check_or_null(value, where):
        if value is not None:
            check(value, where)

    return check_or_null


def anything(value: Any, where: str) -> None:
    """Accepts every value."""
