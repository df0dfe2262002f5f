"""Paths without the folders that lead to them (--private_paths): their last component alone.

Folders are called after users, hospitals and projects. What a command records for others to read
(descriptions of runs, commands, reports) then names a data set or a run by its own name.
"""

import dataclasses
import os
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

PRIVATE_HELP = (
    "Record paths by their last component alone, in everything that is written: folders above it "
    "are nobody's business. Commands that are recorded then need the folders again."
)
# Options whose values are paths, of all commands.
PATH_OPTIONS = (
    *("data_dir", "run_dir", "init_from", "backbone", "backbone_weights"),
    *("study_dir", "target_dirs", "backbones", "out"),
    *("data_root", "table", "image_root", "train_list", "test_list", "test_csv", "id_key_file"),
)


def last_component(path: str) -> str:
    """Returns the name of a file or folder; what is no path of this machine stays as it is."""
    if not path or "://" in path or (os.sep not in path and path not in (os.curdir, os.pardir)):
        return path
    return Path(path).resolve().name or path


def without_folders(values: dict[str, Any]) -> dict[str, Any]:
    """Returns options, name -> value, with paths by their last component."""
    return {
        name: _reduced(value) if name in PATH_OPTIONS else value for name, value in values.items()
    }


def recorded(config: Any) -> Any:
    """Returns a command's options as they are recorded: with --private_paths, without folders.

    Args:
        config: a dataclass with a field ``private_paths``.
    """
    if not config.private_paths:
        return config
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    return dataclasses.replace(config, **without_folders(values))


def command_without_folders(command: str) -> str:
    """Returns a shell command whose path options have their last component alone."""
    words = []
    for word in shlex.split(command):
        name, equals, value = word.partition("=")
        if equals and name.lstrip("-") in PATH_OPTIONS:
            word = f"{name}={','.join(map(last_component, value.split(',')))}"
        words.append(shlex.quote(word))
    return " ".join(words)


def origin_without_folders(origin: Mapping) -> dict:
    """Returns what config.json says of --init_from, with paths by their last component."""
    names = ("path", "backbone")
    return {k: v and last_component(v) if k in names else v for k, v in origin.items()}


def text_without_folders(text: str, paths: Iterable[str]) -> str:
    """Returns a text, such as a log, without the folders that lead to some paths."""
    parents = {str(path.parent) for text in paths for path in (Path(text), Path(text).resolve())}
    for parent in sorted(parents - {os.curdir, os.sep}, key=len, reverse=True):
        text = text.replace(parent + os.sep, "")
    return text


def _reduced(value: Any) -> Any:
    if isinstance(value, str):
        return last_component(value)
    if isinstance(value, tuple | list):
        return type(value)(map(_reduced, value))
    return value
