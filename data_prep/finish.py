"""What a build writes beside its shards (index, rejects, key table, dataset.json), and prints."""

import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data_prep.plan import KeyedIds, Plan
from data_prep.shards import (
    Reject,
    ShardResult,
    file_sha256,
    mean_and_std,
)
from data_prep.splits import assert_disjoint
from medcolor_tf.data.schema import (
    SPLITS,
    DatasetInfo,
    Shard,
    SplitIndex,
    count_raw_labels,
)
from medcolor_tf.errors import InputError
from medcolor_tf.files import write_atomically

REJECTS = "rejects.csv"
KEY_TABLE = "key_table.csv"
SHOWN = 5


def check_rejects(folder: Path, results: Iterable[ShardResult | None], max_rejects: int) -> None:
    """Writes the rejects file and raises InputError when it has more than ``max_rejects`` rows."""
    rejects = _all_rejects(results)
    if len(rejects) <= max_rejects:
        return
    _write_rejects(folder, rejects)
    shown = [f"  {reject.path}: {reject.reason}" for reject in rejects[:SHOWN]]
    more = [f"  and {len(rejects) - SHOWN} more"] if len(rejects) > SHOWN else []
    raise InputError(
        "\n".join(
            (
                f"{len(rejects)} images cannot be used, --max_rejects={max_rejects} allows fewer:",
                *shown,
                *more,
                f"all so far are listed in {folder / REJECTS}. Mend them, or raise --max_rejects, "
                "and run again: finished shards are kept",
            )
        )
    )


def write_dataset(
    config, plan: Plan, folder: Path, ids: KeyedIds, results: Mapping[str, ShardResult]
) -> None:
    """Writes everything beside the shards, ``dataset.json`` last.

    Args:
        config: the build's options.
        plan: of the build.
        folder: the data set's.
        ids: makes the keyed ids.
        results: file -> result of every shard, in order.
    """
    rejects = _all_rejects(results.values())
    _write_rejects(folder, rejects)
    if config.write_key_table:
        write_key_table(folder, plan, ids)
    kept = _kept_indices(plan, rejects)
    patients = {
        split: ids.patients(plan.source.records["patient"].to_numpy()[plan.rows[split][indices]])
        for split, indices in kept.items()
    }
    _assert_ids_unique(plan, patients)
    raw = {split: plan.source.raw[plan.rows[split][indices]] for split, indices in kept.items()}
    for split, indices in kept.items():
        keyed = np.array(patients[split], "S")
        SplitIndex(indices, raw[split], keyed).save(folder, split)
    for stray in folder.glob(".*.tmp"):
        stray.unlink()
    recipe = plan.recipe
    mean, std = _pixel_statistics(results.values(), 2**recipe.bits - 1)
    DatasetInfo(
        source=config.source,
        observations=recipe.observations,
        uncertain_policy=recipe.uncertain_policy,
        blank_policy=recipe.blank_policy,
        encoding=recipe.encoding,
        bits=recipe.bits,
        channels=plan.source.channels,
        short_side=recipe.short_side,
        pixel_mean=mean,
        pixel_std=std,
        label_counts={split: count_raw_labels(raw[split], recipe.observations) for split in kept},
        images={split: len(indices) for split, indices in kept.items()},
        patients={split: len(set(patients[split])) for split in kept},
        rejected=len(rejects),
        seed=plan.seed,
        shards=tuple(
            Shard(r.file, r.split, r.records, r.bytes, r.sha256) for r in results.values()
        ),
        index_sha256={split: file_sha256(SplitIndex.path(folder, split)) for split in kept},
        fingerprint=plan.fingerprint,
    ).save(folder)


def _all_rejects(results: Iterable[ShardResult | None]) -> list[Reject]:
    return [reject for result in results if result for reject in result.rejects]


def _write_rejects(folder: Path, rejects: list[Reject]) -> None:
    path = folder / REJECTS
    if not rejects:
        path.unlink(missing_ok=True)  # of an earlier run, since mended
        return
    rows = [(reject.path, reject.reason, reject.split, reject.index) for reject in rejects]
    write_atomically(path, _csv(("path", "reason", "split", "index"), rows))


def _kept_indices(plan: Plan, rejects: list[Reject]) -> dict[str, np.ndarray]:
    """Returns split -> (N,) int64, the ``index`` of every record that was written."""
    kept = {}
    for split, rows in plan.rows.items():
        mask = np.ones(len(rows), bool)
        mask[[reject.index for reject in rejects if reject.split == split]] = False
        if not mask.any():
            raise InputError(f"no image of the {split} split can be read; see {REJECTS}")
        kept[split] = np.flatnonzero(mask).astype(np.int64)
    return kept


def _assert_ids_unique(plan: Plan, patients: Mapping[str, list[str]]) -> None:
    """Checks disjointness once more, on the ids that were written."""
    pairs = [(patient, split) for split, ids in patients.items() for patient in set(ids)]
    assert_disjoint(*zip(*pairs, strict=True))


def _pixel_statistics(results: Iterable[ShardResult], max_value: int) -> tuple[float, float]:
    train = [result for result in results if result.split == "train"]
    sums = (
        sum(result.pixels for result in train),
        sum(result.pixel_sum for result in train),
        sum(result.pixel_square_sum for result in train),
    )
    return mean_and_std(sums, max_value)


def write_key_table(folder: Path, plan: Plan, ids: KeyedIds) -> None:
    """Writes ``key_table.csv``: who and what is behind each keyed id, rejected images included."""
    source = plan.source
    patients = source.records["patient"].to_numpy()
    rows = zip(
        ids.patients(patients),
        patients,
        ids.images(plan.keys),
        [key.replace("\0", "|") for key in plan.keys],
        strict=True,
    )
    text = _csv(("patient", "source_patient", "image_id", "source_path"), rows)
    write_atomically(folder / KEY_TABLE, text, mode=0o600)
    tqdm.write(
        f"warning: {folder / KEY_TABLE} tells who is behind each record; "
        "keep it apart from the data set and never hand it on with it"
    )


def _csv(header: tuple[str, ...], rows: Iterable[tuple]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return buffer.getvalue()


def print_summary(folder: Path, info: DatasetInfo) -> None:
    """Prints what the data set holds and what to do next."""
    width = max(len(name) for name in info.observations)
    kinds = ("positive", "negative", "uncertain", "blank")
    pixels = f"short side {info.short_side}, {info.bits} bits, {info.encoding}"
    print(f"\n{folder}: {info.source}, {pixels}")
    for split in (split for split in SPLITS if split in info.images):
        print(f"\n{split}: {info.images[split]:,} images of {info.patients[split]:,} patients")
        print(" ".join((f"  {'':{width}}", *(f"{kind:>9}" for kind in kinds), " uncertain means")))
        for name in info.observations:
            counts = info.label_counts[split][name]
            cells = " ".join(f"{counts[kind]:>9,}" for kind in kinds)
            print(f"  {name:{width}} {cells}  {info.uncertain_policy[name]}")
    print(f"\npixels of train, on [0, 1]: mean {info.pixel_mean:.4f}, std {info.pixel_std:.4f}")
    print(f"blank cells: {info.blank_policy}; images rejected: {info.rejected}")
    print(f"{len(info.shards)} shards, {sum(s.bytes for s in info.shards) / 1e6:,.1f} MB")
    print(f"next: python -m data_prep.verify {folder}")
