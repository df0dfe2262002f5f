"""The text of ``--help`` and ``--helpshort``: options in groups, at most 100 columns wide."""

import dataclasses
import textwrap
from collections.abc import Iterable, Sequence

WIDTH = 100
REQUIRED = "Required"


def full_help(config_class: type, description: str) -> str:
    """Returns the text of ``--help``: the description and a few lines for every option.

    Args:
        config_class: dataclass whose fields were made with :func:`medcolor_tf.commandline.option`.
        description: printed above the options as it is.
    """
    lines, words = [description.strip(), ""], positional(config_class)
    if words:
        lines.append(f"Words, in this order: {usage(words)}")
    for field in words:
        lines += [f"  {field.name.upper()}", *_wrapped([meaning(field)], indent=6)]
    lines += ["", *_HINT] if words else _HINT
    for group, fields in _groups(config_class).items():
        lines += ["", f"{group}:"]
        for field in fields:
            lines += [f"  --{field.name}  ({_note(field)})", *_wrapped([meaning(field)], indent=6)]
    return "\n".join(lines)


def short_help(config_class: type, description: str) -> str:
    """Returns the text of ``--helpshort``: one screen, each option as a flag with its default.

    Args:
        config_class: as for :func:`full_help`.
        description: its first paragraph is printed, and the next where that ends with a colon.
    """
    lines, words = [*_first_paragraph(description), ""], positional(config_class)
    if words:
        lines.append(f"Words, in this order: {usage(words)}")
    for group, fields in _groups(config_class).items():
        lines.append(f"{group}:")
        lines += _wrapped([_flag(field) for field in fields], indent=2)
    return "\n".join(
        [*lines, "", "--help explains every option; --flagfile=FILE reads options from a file."]
    )


def positional(config_class: type) -> list[dataclasses.Field]:
    """Returns the fields that are given as bare words, in their order."""
    return [field for field in dataclasses.fields(config_class) if field.metadata["positional"]]


def usage(fields: Sequence[dataclasses.Field]) -> str:
    """Returns positional fields as a usage line shows them: ``ACTION FOLDER ...``."""
    several = {True: " ...", False: ""}
    return " ".join(f.name.upper() + several[isinstance(f.default, tuple)] for f in fields)


def meaning(field: dataclasses.Field) -> str:
    """Returns an option's choices and its help."""
    choices = field.metadata["choices"]
    return (f"{'|'.join(choices)}. " if choices else "") + field.metadata["help"]


def own_first(config_class: type) -> list[dataclasses.Field]:
    """Returns the fields with those of the class itself before the inherited ones."""
    own = config_class.__annotations__
    return sorted(dataclasses.fields(config_class), key=lambda field: field.name not in own)


_HINT = ["Options, on the command line or one per line in a file (--flagfile=FILE)."]


def _groups(config_class: type) -> dict[str, list[dataclasses.Field]]:
    """The flags by group: what is required, then the groups in the order of the fields."""
    flags = [field for field in own_first(config_class) if not field.metadata["positional"]]
    groups = {REQUIRED: [field for field in flags if field.metadata["required"]]}
    for field in flags:
        if not field.metadata["required"]:
            groups.setdefault(field.metadata["group"], []).append(field)
    return {group: fields for group, fields in groups.items() if fields}


def _note(field: dataclasses.Field) -> str:
    default = _default(field)
    if field.metadata["required"]:
        return "required"
    return f"default {default}" if default else "not set"


def _flag(field: dataclasses.Field) -> str:
    """A flag as it is written: with its default or else its choices; a switch as it is turned."""
    if isinstance(field.default, bool):
        return f"--{'no' if field.default else ''}{field.name}"
    value = _default(field) or "|".join(filter(None, field.metadata["choices"] or ()))
    return f"--{field.name}" + (f"={value}" if value else "")


def _default(field: dataclasses.Field) -> str:
    """The default as the command line would give it, "" where there is none."""
    if field.default is None:
        return ""
    return ",".join(field.default) if isinstance(field.default, tuple) else str(field.default)


def _first_paragraph(description: str) -> list[str]:
    paragraphs = description.strip().split("\n\n")
    count = 2 if paragraphs[0].endswith(":") else 1
    return "\n\n".join(paragraphs[:count]).splitlines()


def _wrapped(pieces: Iterable[str], indent: int) -> list[str]:
    """Fills lines of at most WIDTH columns; a word that is longer stands alone on its line."""
    margin = " " * indent
    return textwrap.wrap(
        "  ".join(pieces),
        WIDTH,
        initial_indent=margin,
        subsequent_indent=margin,
        break_long_words=False,
        break_on_hyphens=False,
    )
