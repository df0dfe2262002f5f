"""Writing files so that a power cut leaves the old one or the new one, never a part."""

import json
import os
from pathlib import Path

from medcolor_tf.errors import InputError


def write_atomically(path: str | Path, content: str | bytes, mode: int = 0o666) -> None:
    """Writes a file aside, flushes it to the disk and renames it.

    Args:
        path: the file.
        content: text (stored as UTF-8) or bytes.
        mode: permissions before the umask; they hold from the first byte on.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.unlink(missing_ok=True)
    data = content.encode("utf-8") if isinstance(content, str) else content
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT, mode), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def write_json(path: str | Path, content) -> None:
    """Writes JSON; a power cut leaves the old file or the new one."""
    write_atomically(path, json.dumps(content, indent=2, sort_keys=True) + "\n")


def read_json(path: str | Path) -> dict:
    """Reads JSON; InputError naming the file when it is missing or damaged."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from None
