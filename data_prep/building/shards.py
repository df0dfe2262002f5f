"""Writes one shard: decodes its images, encodes its records, keeps the statistics beside it.

The file appears under its name only when it is complete, and its sidecars in ``.build/`` after
that (its rows of the split's index and groups, then its statistics); a build that is interrupted
anywhere finds out from the sidecars what it has.
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from data_prep.building.plan import ID_DIGITS, ShardTask
from data_prep.images import ImageError, encode_image, examine_image
from medcolor_tf.data.groups import SplitGroups
from medcolor_tf.data.labels import apply_policy
from medcolor_tf.data.schema import SplitIndex, encode_example
from medcolor_tf.data.tfrecords import write_record
from medcolor_tf.files import file_sha256, read_json, replacing, write_atomically
from medcolor_tf.private_paths import text_without_folders

BUILD_FOLDER = ".build"
# Number, sum and sum of squares of pixels: exact integers, however many there are.
PixelSums = tuple[int, int, int]


@dataclass(frozen=True)
class Reject:
    """An image that is left out.

    Attributes:
        split, index: which record it would have been.
        path: of the source file.
        reason: why it cannot be used.
        state: size and modification time of the record's files when they were read, so that a
            mended file is tried again.
    """

    split: str
    index: int
    path: str
    reason: str
    state: str


@dataclass(frozen=True)
class RecordWarning:
    """Something about an image that was taken and may be wrong.

    Attributes:
        split, index: of the record.
        path: of the source file.
        kind: one of :data:`data_prep.levels.WARNING_KINDS`.
        message: what it is.
    """

    split: str
    index: int
    path: str
    kind: str
    message: str


@dataclass(frozen=True)
class ShardResult:
    """What is known of a finished shard; the pixel sums are exact integers."""

    file: str
    split: str
    records: int
    bytes: int
    sha256: str
    pixels: int
    pixel_sum: int
    pixel_square_sum: int
    rejects: tuple[Reject, ...]
    warnings: tuple[RecordWarning, ...] = ()


def build_shard(task: ShardTask) -> ShardResult:
    """Writes the shard and its sidecars; images that cannot be read are returned as rejects.

    Raises:
        InputError: the shard cannot be written (disk full, no permission), or DICOM without
            pydicom.
    """
    target = Path(task.folder) / task.file
    recipe = task.recipe
    labels = apply_policy(
        task.raw, recipe.observations, recipe.uncertain_policy, recipe.blank_policy
    )
    sums: PixelSums = (0, 0, 0)
    rejects, warnings, written = [], [], []
    with replacing(target) as temporary, open(temporary, "wb") as file:
        for position in range(len(task.paths)):
            try:
                images, doubts = read_record(task, position)
            except RejectedError as error:
                rejects.append(error.reject)
                continue
            write_record(file, encode_record(task, position, images, labels[position]))
            written.append(position)
            warnings += doubts
            sums = add_sums(sums, pixel_sums(images))
    result = ShardResult(
        task.file,
        task.split,
        len(written),
        target.stat().st_size,
        file_sha256(target),
        *sums,
        rejects=tuple(rejects),
        warnings=tuple(warnings),
    )
    _index_rows(task, written).save(target.parent / BUILD_FOLDER, task.file)
    if task.groups or task.studies:
        _group_rows(task, written).save(target.parent / BUILD_FOLDER, task.file)
    write_atomically(sidecars(target)[-1], json.dumps(asdict(result)))
    return result


class RejectedError(Exception):
    """Carries the :class:`Reject` of a record."""

    def __init__(self, reject: Reject):
        super().__init__(reject.reason)
        self.reject = reject


def read_record(task: ShardTask, position: int) -> tuple[list[np.ndarray], list[RecordWarning]]:
    """Returns a record's C images, (H, W) each and all of one size, and their warnings.

    Raises:
        RejectedError: one cannot be read, or their sizes differ.
    """
    recipe = task.recipe
    files = [os.path.join(task.root, path) for path in task.paths[position]]
    state, images, warnings = _state(files), [], []
    index = task.start + position
    for path in files:
        try:
            reading = examine_image(path, recipe.short_side, recipe.bits, recipe.range)
            images.append(reading.pixels)
            shown = os.path.basename(path) if task.private_paths else path
            warnings += [
                RecordWarning(task.split, index, shown, warning.kind, warning.message)
                for warning in reading.warnings
            ]
            if images[0].shape != images[-1].shape:
                raise ImageError(
                    f"after resizing it is {images[-1].shape[1]}x{images[-1].shape[0]}, but "
                    f"{files[0]} is {images[0].shape[1]}x{images[0].shape[0]}; "
                    "the channels of a record must agree"
                )
        except ImageError as error:
            reason, shown = str(error), path
            if task.private_paths:
                reason, shown = text_without_folders(reason, files), os.path.basename(path)
            reject = Reject(task.split, index, shown, reason, state)
            raise RejectedError(reject) from None
    return images, warnings


def _state(files: list[str]) -> str:
    """Describes size and time of the files, to notice when one was mended."""
    stats = [os.stat(file) if os.path.exists(file) else None for file in files]
    return ";".join(f"{s.st_size},{s.st_mtime_ns}" if s else "missing" for s in stats)


def pixel_sums(images: list[np.ndarray]) -> PixelSums:
    """Returns number, sum and sum of squares of the pixels, as exact Python integers."""
    number = total = squares = 0
    for image in images:
        # 65535^2 x MAX_PIXELS stays below 2^64.
        values = image.astype(np.uint64).ravel()
        number += values.size
        total += int(values.sum())
        squares += int(np.dot(values, values))
    return number, total, squares


def add_sums(sums: PixelSums, more: PixelSums) -> PixelSums:
    """Returns the sums over the pixels of both."""
    return sums[0] + more[0], sums[1] + more[1], sums[2] + more[2]


def mean_and_std(sums: PixelSums, max_value: int) -> tuple[float, float]:
    """Returns mean and (population) standard deviation on the [0, 1] scale; NaN without pixels.

    Args:
        sums: number, sum and sum of squares of the pixels.
        max_value: the pixel value that stands for 1.
    """
    number, total, squares = sums
    if not number:
        return float("nan"), float("nan")
    # Integers until the last division: no rounding, however many pixels there are.
    variance = number * squares - total * total
    return total / (number * max_value), (variance / number**2) ** 0.5 / max_value


def encode_record(
    task: ShardTask, position: int, images: list[np.ndarray], label: np.ndarray
) -> bytes:
    """Returns a record as it is written; ``label`` is (L,) after the policy."""
    recipe = task.recipe
    return encode_example(
        [encode_image(image, recipe.encoding, recipe.jpeg_quality) for image in images],
        images[0].shape,
        label,
        task.raw[position],
        task.start + position,
        task.patients[position],
        task.images[position],
    )


def _index_rows(task: ShardTask, written: list[int]) -> SplitIndex:
    """Returns the shard's rows of the split's index, of the positions that were written."""
    patients = [task.patients[position] for position in written]
    return SplitIndex(
        task.start + np.array(written, np.int64),
        task.raw[written],
        np.array(patients, f"S{ID_DIGITS}"),
    )


def _group_rows(task: ShardTask, written: list[int]) -> SplitGroups:
    """Returns the shard's rows of the split's groups, of the positions that were written."""

    def of(values) -> np.ndarray:
        return np.array([values[position] for position in written], str)

    return SplitGroups(
        of(task.images),
        of(task.studies) if task.studies else None,
        {name: of(values) for name, values in task.groups.items()},
    )


def finished_shard(folder: Path, file: str) -> ShardResult | None:
    """Returns the result of a shard that an earlier run finished, or None to build it again."""
    target = folder / file
    try:
        rows, _, statistics = sidecars(target)
        content = read_json(statistics)
        content["rejects"] = tuple(Reject(**reject) for reject in content["rejects"])
        content["warnings"] = tuple(
            RecordWarning(**warning) for warning in content.get("warnings", ())
        )
        result = ShardResult(**content)
        if target.stat().st_size != result.bytes or not rows.exists():
            return None
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return result


def rejects_changed(result: ShardResult, states: dict[int, list[str]]) -> bool:
    """Tells whether a rejected record's files have changed since they were rejected.

    Args:
        result: the shard's.
        states: index of the rejected record -> its files.
    """
    return any(_state(states[reject.index]) != reject.state for reject in result.rejects)


def sidecars(target: Path) -> tuple[Path, Path, Path]:
    """Returns where a shard's parts of what stands beside the shards are kept during the build.

    Its rows of the index, its rows of groups and studies (not there where the data set has none),
    and its statistics, which are written last.
    """
    folder = target.parent / BUILD_FOLDER
    return (
        SplitIndex.path(folder, target.name),
        SplitGroups.path(folder, target.name),
        folder / f"{target.name}.json",
    )
