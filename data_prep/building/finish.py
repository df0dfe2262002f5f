"""What a build writes beside its shards (index, rejects, key table, dataset.json), and prints."""

import csv
import io
import itertools
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from data_prep.building.output import PlanRecord
from data_prep.building.plan import KeyedIds, Plan
from data_prep.building.shards import (
    BUILD_FOLDER,
    RecordWarning,
    Reject,
    ShardResult,
    mean_and_std,
)
from data_prep.building.splits import assert_disjoint
from data_prep.levels import WARNING_KINDS
from data_prep.sources.source import STUDY
from medcolor_tf.data.groups import GroupsInfo, SplitGroups
from medcolor_tf.data.labels import count_raw_labels
from medcolor_tf.data.schema import SPLITS, DatasetInfo, Shard, SplitIndex
from medcolor_tf.errors import InputError
from medcolor_tf.files import file_sha256, write_atomically
from medcolor_tf.progress import counted, say

REJECTS = "rejects.csv"
WARNINGS = "warnings.csv"
WARNINGS_HEADER = ("path", "kind", "message", "split", "index")
KEY_TABLE = "key_table.csv"
SHOWN = 5


def check_rejects(path: Path, results: Iterable[ShardResult], max_rejects: int) -> None:
    """Raises InputError when there are more than ``max_rejects``, all listed in ``path``."""
    rejects = _all_rejects(results)
    if len(rejects) <= max_rejects:
        return
    write_rejects(path, rejects)
    shown = [f"  {reject.path}: {reject.reason}" for reject in rejects[:SHOWN]]
    more = [f"  and {len(rejects) - SHOWN} more"] if len(rejects) > SHOWN else []
    raise InputError(
        "\n".join(
            (
                f"{counted(len(rejects), 'image')} cannot be used, --max_rejects={max_rejects} "
                "allows fewer:",
                *shown,
                *more,
                f"all so far are listed in {path}. Mend them, or raise --max_rejects, "
                "and run again: finished shards are kept",
            )
        )
    )


def write_dataset(folder: Path, record: PlanRecord, results: Mapping[str, ShardResult]) -> None:
    """Writes everything beside the shards, ``dataset.json`` last.

    Args:
        folder: the data set's.
        record: of the plan.
        results: file -> result of every shard, in order.
    """
    rejects = _all_rejects(results.values())
    write_rejects(folder / REJECTS, rejects)
    write_warnings(folder / WARNINGS, results.values())
    indices = _join_indices(folder, results.values())
    _assert_ids_unique(indices)
    for split, index in indices.items():
        index.save(folder, split)
    of_parts = (folder.glob(part_name(name, "*/*")) for name in (REJECTS, WARNINGS))
    for stray in itertools.chain(folder.glob(".*.tmp"), *of_parts):
        stray.unlink()
    groups = _write_groups(folder, record, results.values())
    recipe = record.recipe
    mean, std = _pixel_statistics(results.values(), 2**recipe.bits - 1)
    DatasetInfo(
        source=record.options["source"],
        observations=recipe.observations,
        uncertain_policy=recipe.uncertain_policy,
        blank_policy=recipe.blank_policy,
        encoding=recipe.encoding,
        bits=recipe.bits,
        channels=record.channels,
        short_side=recipe.short_side,
        pixel_mean=mean,
        pixel_std=std,
        label_counts={
            split: count_raw_labels(index.raw_labels, recipe.observations)
            for split, index in indices.items()
        },
        images={split: len(index.index) for split, index in indices.items()},
        patients={split: len(np.unique(index.patient)) for split, index in indices.items()},
        rejected=len(rejects),
        seed=record.options["seed"],
        shards=tuple(
            Shard(r.file, r.split, r.records, r.bytes, r.sha256) for r in results.values()
        ),
        index_sha256={split: file_sha256(SplitIndex.path(folder, split)) for split in indices},
        fingerprint=record.fingerprint,
        range=recipe.range,
        groups=groups,
    ).save(folder)


def _all_rejects(results: Iterable[ShardResult]) -> list[Reject]:
    return [reject for result in results for reject in result.rejects]


def write_part(folder: Path, part: str, results: Mapping[str, ShardResult]) -> None:
    """Lists the rejected images of a part that is complete, and says what comes next."""
    rejects = _all_rejects(results.values())
    write_rejects(folder / part_name(REJECTS, part), rejects)
    warnings = folder / part_name(WARNINGS, part)
    write_warnings(warnings, results.values())
    print(
        f"{folder}: part {part} is complete, {counted(len(results), 'shard')}, "
        f"{counted(len(rejects), 'image')} rejected"
    )
    print_warnings(warnings)
    print(f"next, when every part is: python -m data_prep.merge --out={folder}")


def part_name(name: str, part: str) -> str:
    """Returns what a list ("rejects.csv") is called for a part ("2/8"; "": all of the build)."""
    return name.replace(".", f"-{part.replace('/', '-of-')}.") if part else name


def write_rejects(path: Path, rejects: list[Reject]) -> None:
    """Writes the list for its owner alone, or takes an earlier one away when it is empty."""
    if not rejects:
        path.unlink(missing_ok=True)  # of an earlier run, since mended
        return
    rows = [(reject.path, reject.reason, reject.split, reject.index) for reject in rejects]
    text = _csv(("path", "reason", "split", "index"), rows)
    write_atomically(path, text, mode=0o600)


def write_warnings(path: Path, results: Iterable[ShardResult]) -> None:
    """Writes the list of warnings, or takes an earlier one away when there is nothing to list."""
    warnings: list[RecordWarning] = [warning for result in results for warning in result.warnings]
    if not warnings:
        path.unlink(missing_ok=True)
        return
    rows = [tuple(getattr(warning, name) for name in WARNINGS_HEADER) for warning in warnings]
    write_atomically(path, _csv(WARNINGS_HEADER, rows), mode=0o600)


def print_warnings(path: Path) -> None:
    """Prints how many images a list of warnings names, by kind; nothing without a list."""
    if not path.exists():
        return
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = [row for row in csv.DictReader(file) if row.get("kind") and row.get("path")]
    counts = Counter(row["kind"] for row in rows)
    kinds = [f"{counts[kind]:,} {WARNING_KINDS.get(kind, kind)}" for kind in counts]
    images = counted(len({row["path"] for row in rows}), "image")
    print(f"warnings: {images} ({'; '.join(kinds)}); all are listed in {path}")


def _join_indices(folder: Path, results: Iterable[ShardResult]) -> dict[str, SplitIndex]:
    """Returns split -> index of every record that was written, from the shards' sidecars."""
    rows: dict[str, list[SplitIndex]] = {}
    for result in results:
        index = SplitIndex.load(folder / BUILD_FOLDER, result.file)
        rows.setdefault(result.split, []).append(index)
    joined = {}
    for split, parts in rows.items():
        joined[split] = SplitIndex(
            *(
                np.concatenate([getattr(part, name) for part in parts])
                for name in ("index", "raw_labels", "patient")
            )
        )
        if not len(joined[split].index):
            raise InputError(f"no image of the {split} split can be read; see {REJECTS}")
    return joined


def _write_groups(
    folder: Path, record: PlanRecord, results: Iterable[ShardResult]
) -> GroupsInfo | None:
    """Writes groups-SPLIT.csv from the shards' sidecars; None where there are no groups."""
    if record.groups is None:
        return None
    parts: dict[str, list[SplitGroups]] = {}
    for result in results:
        rows = SplitGroups.load(folder / BUILD_FOLDER, result.file)
        if len(rows.image_id) != result.records:
            raise InputError(
                f"{SplitGroups.path(folder / BUILD_FOLDER, result.file)}: {len(rows.image_id)} "
                f"rows, expected {result.records}; delete {folder / result.file} and build it again"
            )
        parts.setdefault(result.split, []).append(rows)
    studies, digests = {}, {}
    for split, of_split in parts.items():
        of_split = [part for part in of_split if len(part.image_id)]
        ids = [part.study for part in of_split if part.study is not None]
        joined = SplitGroups(
            np.concatenate([part.image_id for part in of_split]),
            np.concatenate(ids) if ids else None,
            {
                name: np.concatenate([part.columns[name] for part in of_split])
                for name in of_split[0].columns
            },
        )
        joined.save(folder, split)
        digests[split] = file_sha256(SplitGroups.path(folder, split))
        if joined.study is not None:
            studies[split] = len(np.unique(joined.study))
    columns = {name: tuple(values) for name, values in record.groups["columns"].items()}
    return GroupsInfo(columns, studies, digests)


def _assert_ids_unique(indices: Mapping[str, SplitIndex]) -> None:
    """Checks disjointness once more, on the ids that were written."""
    ids = {split: np.unique(index.patient).tolist() for split, index in indices.items()}
    pairs = [(patient.decode(), split) for split, patients in ids.items() for patient in patients]
    assert_disjoint(*zip(*pairs, strict=True))


def _pixel_statistics(results: Iterable[ShardResult], max_value: int) -> tuple[float, float]:
    train = [result for result in results if result.split == "train"]
    sums = (
        sum(result.pixels for result in train),
        sum(result.pixel_sum for result in train),
        sum(result.pixel_square_sum for result in train),
    )
    return mean_and_std(sums, max_value)


def _print_groups(folder: Path, info: GroupsInfo) -> None:
    """Prints the images of every value, all splits together, and the number of studies."""
    tables = [SplitGroups.load(folder, split) for split in info.sha256]
    for name in tables[0].columns:
        values = np.concatenate([table.columns[name] for table in tables])
        print_group(name, info.columns[name], values)
    if info.studies:
        print(
            "studies: "
            + ", ".join(
                f"{split} {info.studies[split]:,}" for split in SPLITS if split in info.studies
            )
        )


def print_group(name: str, values: Iterable[str], of_images: np.ndarray) -> None:
    """Prints how many images have each value of a group, in the values' order."""
    counts = Counter(of_images.tolist())
    shown = ", ".join(f"{value} {counts[value]:,}" for value in values)
    print(f"group {name}, images: {shown}")


def write_key_table(folder: Path, plan: Plan, ids: KeyedIds) -> None:
    """Writes ``key_table.csv``: who and what is behind each keyed id, rejected images included."""
    source = plan.source
    patients = source.records["patient"].to_numpy()
    columns = {
        "patient": ids.patients(patients),
        "source_patient": patients,
        "image_id": ids.images(plan.keys),
        "source_path": [key.replace("\0", "|") for key in plan.keys],
    }
    if source.has_studies:
        studies = source.records[STUDY].tolist()
        columns["study"] = ids.studies(studies)
        columns["source_study"] = [study.split("\0", 1)[1] for study in studies]
    text = _csv(tuple(columns), zip(*columns.values(), strict=True))
    write_atomically(folder / KEY_TABLE, text, mode=0o600)
    say(
        f"warning: {folder / KEY_TABLE} tells who is behind each record; "
        "keep it apart from the data set and never hand it on with it"
    )


def _csv(header: tuple[str, ...], rows: Iterable[tuple]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return buffer.getvalue()


def print_splits(
    images: Mapping[str, int],
    patients: Mapping[str, int],
    labels: Mapping[str, Mapping[str, Mapping[str, int]]],
    uncertain_policy: Mapping[str, str],
) -> None:
    """Prints the images, patients and raw labels of each split.

    Args:
        images, patients: split -> how many.
        labels: split -> observation -> kind of label -> how many.
        uncertain_policy: observation -> what uncertain means.
    """
    width = max(map(len, uncertain_policy))
    kinds = ("positive", "negative", "uncertain", "blank")
    for split in (split for split in SPLITS if split in images):
        print(f"\n{split}: {images[split]:,} images of {patients[split]:,} patients")
        print(" ".join((f"  {'':{width}}", *(f"{kind:>9}" for kind in kinds), " uncertain means")))
        for name, counts in labels[split].items():
            cells = " ".join(f"{counts[kind]:>9,}" for kind in kinds)
            print(f"  {name:{width}} {cells}  {uncertain_policy[name]}")


def print_summary(folder: Path, info: DatasetInfo) -> None:
    """Prints what the data set holds and what to do next."""
    pixels = f"short side {info.short_side}, {info.bits} bits, {info.encoding}"
    print(f"\n{folder}: {info.source}, {pixels}")
    print_splits(info.images, info.patients, info.label_counts, info.uncertain_policy)
    print(f"\npixels of train, on [0, 1]: mean {info.pixel_mean:.4f}, std {info.pixel_std:.4f}")
    print(f"blank cells: {info.blank_policy}; images rejected: {info.rejected}")
    print_warnings(folder / WARNINGS)
    if info.groups is not None:
        _print_groups(folder, info.groups)
    print(f"{len(info.shards)} shards, {sum(s.bytes for s in info.shards) / 1e6:,.1f} MB")
    print(f"next: python -m data_prep.verify {folder}")
