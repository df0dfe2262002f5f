"""Checks a prepared data set: ``python -m data_prep.verify DIR``.

Reads every byte and decodes every image, and compares them with dataset.json and the index files.
Names each problem with its file and record; exits with status 1 if there is any.
"""

import contextlib
import functools
import hashlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from data_prep.building import parallel
from data_prep.building.shards import (
    BUILD_FOLDER,
    PixelSums,
    add_sums,
    mean_and_std,
    pixel_sums,
)
from data_prep.images import ImageError, decode_image
from medcolor_tf import commandline
from medcolor_tf.commandline import option
from medcolor_tf.data.groups import GroupsInfo, SplitGroups
from medcolor_tf.data.labels import apply_policy, count_raw_labels
from medcolor_tf.data.schema import SPLITS, DatasetInfo, Shard, SplitIndex
from medcolor_tf.errors import InputError
from medcolor_tf.files import file_sha256
from medcolor_tf.progress import Progress

# dataset.json has the mean and std of the pixels before encoding; JPEG changes them a little.
TOLERANCE = {"png": 1e-9, "raw": 1e-9, "jpeg": 0.5 / 255}
SHOWN = 50


@dataclass(frozen=True)
class VerifyConfig:
    """Options of the check."""

    data: str = option("", "The data set's folder; also accepted without --data=.", required=True)
    workers: int = option(0, "Processes; 0: one per core.")


@dataclass(frozen=True)
class ShardCheck:
    """What a worker needs to check a shard: its records' rows of the index (None: no index)."""

    folder: str
    info: DatasetInfo
    shard: Shard
    index: SplitIndex | None


@dataclass
class ShardFindings:
    """What a worker found in one shard.

    Attributes:
        shard: the shard.
        problems: sentences.
        records: how many could be read.
        sums: of their pixels.
        image_ids: of the records.
        pictures: (SHA-256 of the stored picture, number of the record) of the records.
    """

    shard: Shard
    problems: list[str] = field(default_factory=list)
    records: int = 0
    sums: PixelSums = (0, 0, 0)
    image_ids: list[bytes] = field(default_factory=list)
    pictures: list[tuple[bytes, int]] = field(default_factory=list)


def verify(config: VerifyConfig) -> int:
    """Checks the folder; prints problems and a verdict; returns 0, or 1 if there are problems."""
    problems = list(find_problems(Path(config.data), config.workers))
    for problem in problems[:SHOWN]:
        print(f"problem: {problem}")
    if len(problems) > SHOWN:
        print(f"... and {len(problems) - SHOWN} more")
    count = f"{len(problems)} problem{'s' if len(problems) != 1 else ''}"
    print(f"{config.data}: {count if problems else 'all is well'}")
    return 1 if problems else 0


def find_problems(folder: Path, workers: int = 1) -> Iterator[str]:
    """Yields every problem of a data set, as a sentence with the file and the record.

    Raises:
        InputError: no ``dataset.json``, or not one of this version.
    """
    info = DatasetInfo.load(folder)
    yield from _check_description(folder, info)
    indices = {}
    for split in (split for split in SPLITS if split in info.images):
        try:
            indices[split] = SplitIndex.load(folder, split)
        except InputError as error:
            yield str(error)
            continue
        yield from _check_index(folder, info, split, indices[split])
        if info.groups is not None:
            yield from _check_groups(folder, info.groups, split, indices[split])
    yield from _check_disjoint(indices)
    tasks = list(_shard_checks(folder, info, indices))
    workers = parallel.worker_count(workers, len(tasks))
    all_findings = []
    with Progress("checking", sum(info.images.values())) as progress:
        for findings in parallel.run_tasks(check_shard, tasks, workers):
            all_findings.append(findings)
            yield from findings.problems
            progress.update(findings.records)
    yield from _check_totals(folder, info, all_findings)
    yield from _check_group_ids(folder, info, all_findings)


def _check_description(folder: Path, info: DatasetInfo) -> Iterator[str]:
    """Checks dataset.json against itself and against the folder's list of files."""
    file = folder / "dataset.json"
    if (folder / BUILD_FOLDER).exists():
        yield f"{folder / BUILD_FOLDER}: left over; run the build's command once more"
    for split in info.images:
        if split not in SPLITS:
            yield f"{file}: split {split!r}, expected one of {', '.join(SPLITS)}"
        records = sum(shard.records for shard in info.split_shards(split))
        if records != info.images[split]:
            yield f"{file}: {info.images[split]} {split} images, but its shards hold {records}"
    named = {shard.file for shard in info.shards}
    for path in sorted(folder.glob("*.tfrecord")):
        if path.name not in named:
            yield f"{path}: not named in dataset.json"


def _check_index(folder: Path, info: DatasetInfo, split: str, index: SplitIndex) -> Iterator[str]:
    path = SplitIndex.path(folder, split)
    if file_sha256(path) != info.index_sha256.get(split):
        yield f"{path}: SHA-256 is not the one in dataset.json"
    count = info.images[split]
    shape = (count, len(info.observations))
    if index.raw_labels.shape != shape or len(index.index) != count or len(index.patient) != count:
        yield (
            f"{path}: {len(index.index)} records with labels {index.raw_labels.shape}, "
            f"expected labels {shape}"
        )
        return
    if (np.diff(index.index) <= 0).any():
        yield f"{path}: the records' index does not ascend"
    if count_raw_labels(index.raw_labels, info.observations) != info.label_counts[split]:
        yield f"{path}: its labels do not add up to dataset.json's label_counts"
    patients = len(np.unique(index.patient))
    if patients != info.patients[split]:
        yield f"{path}: {patients} patients, dataset.json says {info.patients[split]}"


def _check_groups(folder: Path, info: GroupsInfo, split: str, index: SplitIndex) -> Iterator[str]:
    """Checks a split's groups and studies against dataset.json and the index."""
    path = SplitGroups.path(folder, split)
    try:
        groups = SplitGroups.load(folder, split, info)
    except InputError as error:
        yield str(error)
        return
    if len(groups.image_id) != len(index.patient):
        yield f"{path}: {len(groups.image_id)} rows, expected {len(index.patient)}"
        return
    if groups.study is None:
        return
    studies = len(np.unique(groups.study))
    if studies != info.studies.get(split):
        yield f"{path}: {studies} studies, dataset.json says {info.studies.get(split)}"
    pairs = set(zip(groups.study.tolist(), index.patient.tolist(), strict=True))
    if len(pairs) != studies:
        yield f"{path}: {len(pairs) - studies} studies have images of several patients"


def _check_group_ids(
    folder: Path, info: DatasetInfo, all_findings: list[ShardFindings]
) -> Iterator[str]:
    """Checks that the rows of groups are those of the records, in their order."""
    for split in info.groups.sha256 if info.groups else ():
        ids = [i for f in all_findings if f.shard.split == split for i in f.image_ids]
        with contextlib.suppress(InputError):  # said before
            groups = SplitGroups.load(folder, split, info.groups)
            if groups.image_id.tolist() != [image_id.decode() for image_id in ids]:
                yield f"{SplitGroups.path(folder, split)}: its images are not those of the records"


def _check_disjoint(indices: dict[str, SplitIndex]) -> Iterator[str]:
    seen: dict[bytes, str] = {}
    for split, index in indices.items():
        for patient in np.unique(index.patient).tolist():
            if seen.setdefault(patient, split) != split:
                yield f"patient {patient.decode()} is in {seen[patient]} and in {split}"


def _shard_checks(folder: Path, info: DatasetInfo, indices: dict) -> Iterator[ShardCheck]:
    starts = dict.fromkeys(info.images, 0)
    for shard in info.shards:
        start = starts.get(shard.split, 0)
        starts[shard.split] = stop = start + shard.records
        index = indices.get(shard.split)
        if index is not None:
            index = SplitIndex(
                index.index[start:stop], index.raw_labels[start:stop], index.patient[start:stop]
            )
        yield ShardCheck(str(folder), info, shard, index)


def check_shard(check: ShardCheck) -> ShardFindings:
    """Checks one shard's file and every record in it."""
    findings = ShardFindings(check.shard)
    path = Path(check.folder) / check.shard.file
    if not path.is_file():
        findings.problems.append(f"{path}: no such file")
        return findings
    if path.stat().st_size != check.shard.bytes:
        findings.problems.append(
            f"{path}: {path.stat().st_size} bytes, expected {check.shard.bytes}"
        )
    elif file_sha256(path) != check.shard.sha256:
        findings.problems.append(f"{path}: SHA-256 is not the one in dataset.json")
    _check_records(check, path, findings)
    if findings.records != check.shard.records:
        findings.problems.append(
            f"{path}: {findings.records} readable records, expected {check.shard.records}"
        )
    return findings


def _check_records(check: ShardCheck, path: Path, findings: ShardFindings) -> None:
    tf = commandline.import_tensorflow()
    try:
        for content in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            where = f"{path} record {findings.records}"
            try:
                for problem in _check_record(check, content, findings):
                    findings.problems.append(f"{where}: {problem}")
            except ImageError as error:
                findings.problems.append(f"{where}: the image {error}")
            except KeyError as error:
                findings.problems.append(f"{where}: no feature {error}, or one of another type")
            findings.records += 1
    except tf.errors.DataLossError:
        findings.problems.append(
            f"{path}: cut off or damaged after {findings.records} of {check.shard.records} "
            "records; restore the file or build the data set again"
        )


def _check_record(check: ShardCheck, content: bytes, findings: ShardFindings) -> Iterator[str]:
    info, position = check.info, findings.records
    record = _parse(content)
    findings.pictures.append((_picture_digest(record), position))
    yield from _check_images(info, record, findings)
    raw, label = record["raw_label"], record["label"]
    if len(raw) != len(info.observations) or len(label) != len(info.observations):
        yield f"{len(raw)} raw labels and {len(label)} labels, expected {len(info.observations)}"
        return
    expected = apply_policy(raw, info.observations, info.uncertain_policy, info.blank_policy)
    if not np.array_equal(label, expected, equal_nan=True):
        yield f"label {label.tolist()}, but the policy makes {expected.tolist()} of {raw.tolist()}"
    if not (np.isin(raw, (0, 1, -1)) | np.isnan(raw)).all():
        yield f"raw label {raw.tolist()}, expected 0, 1, -1 or NaN"
    findings.image_ids.append(record["image_id"])
    if check.index is None or position >= len(check.index.index):
        return
    for name, value, indexed in (
        ("index", record["index"], int(check.index.index[position])),
        ("patient", record["patient"], bytes(check.index.patient[position])),
    ):
        if value != indexed:
            yield f"{name} is {value!r}, the index file has {indexed!r}"
    if not np.array_equal(raw, check.index.raw_labels[position], equal_nan=True):
        yield f"raw label is {raw.tolist()}, the index file has another"


def _parse(content: bytes) -> dict:
    """Returns a record's features by the names of the schema; KeyError if one is missing."""
    tf = commandline.import_tensorflow()
    try:
        features = tf.train.Example.FromString(content).features.feature
    except Exception:  # protobuf's DecodeError, which is nowhere public in TensorFlow
        raise KeyError("image") from None
    lists = {
        "image": "bytes_list",
        "size": "int64_list",
        "label": "float_list",
        "raw_label": "float_list",
        "index": "int64_list",
        "patient": "bytes_list",
        "image_id": "bytes_list",
    }
    record = {}
    for name, kind in lists.items():
        values = list(getattr(features[name], kind).value) if name in features else []
        if not values:
            raise KeyError(name)
        record[name] = values[0] if name in ("index", "patient", "image_id") else values
    record["label"] = np.array(record["label"], np.float32)
    record["raw_label"] = np.array(record["raw_label"], np.float32)
    return record


def _picture_digest(record: dict) -> bytes:
    """Returns the SHA-256 of a record's encoded images, their lengths and size."""
    digest = hashlib.sha256(repr((record["size"], [len(i) for i in record["image"]])).encode())
    for image in record["image"]:
        digest.update(image)
    return digest.digest()


def _check_images(info: DatasetInfo, record: dict, findings: ShardFindings) -> Iterator[str]:
    size = record["size"]
    if len(record["image"]) != info.channels:
        yield f"{len(record['image'])} images, expected {info.channels}"
    if len(size) != 2 or min(size) != info.short_side:
        yield f"size {size}, expected a short side of {info.short_side}"
    if len(size) != 2:
        return
    images = [decode_image(image, info.encoding, size, info.bits) for image in record["image"]]
    findings.sums = add_sums(findings.sums, pixel_sums(images))


def _check_totals(
    folder: Path, info: DatasetInfo, all_findings: list[ShardFindings]
) -> Iterator[str]:
    """Checks what only all shards together tell: unique ids and pictures, pixel mean and std."""
    ids = [image_id for findings in all_findings for image_id in findings.image_ids]
    if len(set(ids)) != len(ids):
        yield f"{folder}: {len(ids) - len(set(ids))} images are there twice (by image_id)"
    yield from _check_pictures(folder, all_findings)
    if any(findings.problems for findings in all_findings):
        return
    sums = [findings.sums for findings in all_findings if findings.shard.split == "train"]
    if not sums:
        return
    statistics = mean_and_std(functools.reduce(add_sums, sums), info.max_value)
    for name, value in zip(("pixel_mean", "pixel_std"), statistics, strict=True):
        described = getattr(info, name)
        if not abs(value - described) <= TOLERANCE[info.encoding]:
            yield f"{folder / 'dataset.json'}: {name} {described}, but the images have {value}"


def _check_pictures(folder: Path, all_findings: list[ShardFindings]) -> Iterator[str]:
    """Yields the records whose picture another record has, in the same split or another."""
    first: dict[bytes, tuple[Shard, int]] = {}
    for findings in all_findings:
        for digest, position in findings.pictures:
            shard, earlier = first.setdefault(digest, (findings.shard, position))
            if (shard.file, earlier) == (findings.shard.file, position):
                continue
            splits = dict.fromkeys((shard.split, findings.shard.split))
            yield (
                f"{folder / findings.shard.file} record {position}: the picture of "
                f"{shard.file} record {earlier} again (SHA-256, {' and '.join(splits)})"
            )


def main(argv=None) -> int:
    """Runs the command; a first argument without a dash is the folder."""
    if argv is None:  # the command has this process to itself
        parallel.hide_gpus()
    argv = sys.argv[1:] if argv is None else list(argv)
    if argv and not argv[0].startswith("-"):
        argv = [f"--data={argv[0]}", *argv[1:]]
    return commandline.run(VerifyConfig, verify, __doc__ or "", argv)


if __name__ == "__main__":
    sys.exit(main())
