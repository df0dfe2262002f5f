"""Searches folders for image files, and says what it passed over."""

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from data_prep.images import IMAGE_SUFFIXES, recognise

# What macOS leaves in archives beside the files themselves; "._x.png" is hidden by its name.
APPLE_FOLDER = "__MACOSX"
HIDDEN = "hidden"
NO_IMAGE = "no image"


@dataclass(frozen=True)
class FoundImages:
    """The image files of a folder and of all folders below it.

    Attributes:
        files: sorted.
        skipped: why -> number of files that are left out.
    """

    files: list[Path]
    skipped: Counter

    def describe_skipped(self) -> str:
        """Returns what was left out, for a message; "" for nothing."""
        names = {HIDDEN: "hidden (.* and __MACOSX)", NO_IMAGE: "of no image format"}
        return ", ".join(f"{count:,} {names[why]}" for why, count in sorted(self.skipped.items()))


def find_images(folder: str | os.PathLike) -> FoundImages:
    """Finds image files by their suffix, and those without one (DICOM as a rule) by first bytes.

    Links to files are followed, links to folders are not. Files whose name begins with a dot, among
    them the AppleDouble files of macOS, and all files of such folders are counted and left out.

    Args:
        folder: where to search.
    """
    files: list[Path] = []
    skipped: Counter = Counter()
    for place, _, names in os.walk(folder):
        inside = Path(place).relative_to(folder).parts
        hidden_folder = any(part.startswith(".") or part == APPLE_FOLDER for part in inside)
        for name in names:
            path = Path(place, name)
            if hidden_folder or name.startswith("."):
                skipped[HIDDEN] += 1
            elif _is_image(path):
                files.append(path)
            else:
                skipped[NO_IMAGE] += 1
    return FoundImages(sorted(files), skipped)


def _is_image(path: Path) -> bool:
    """Tells whether a file has an image's suffix, or else none or a number and its first bytes."""
    suffix = path.suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        return True
    return (not suffix or suffix[1:].isdigit()) and recognise(path) is not None
