"""What a build would do, without doing it: ``python -m data_prep.build --dry_run``."""

import time
from pathlib import Path

import numpy as np

from data_prep.building import finish, parallel
from data_prep.building.plan import KeyedIds, Plan
from data_prep.building.shards import RejectedError, encode_record, read_record
from data_prep.sources.source import GROUP
from medcolor_tf.data.labels import count_raw_labels
from medcolor_tf.progress import counted, duration

# Images that are read to estimate the rest: enough for a mean, soon done.
SAMPLE = 24


def describe(plan: Plan, folder: Path, workers: int) -> None:
    """Prints splits and labels, reads some images, and estimates time and disk; writes nothing.

    Args:
        plan: of the build.
        folder: that it would write.
        workers: option --workers.
    """
    source, recipe, shards = plan.source, plan.recipe, plan.shards()
    patients = source.records["patient"].to_numpy()
    print(f"\n{folder}: would hold {sum(map(len, plan.rows.values())):,} images")
    finish.print_splits(
        {split: len(rows) for split, rows in plan.rows.items()},
        {split: len(np.unique(patients[rows])) for split, rows in plan.rows.items()},
        {
            split: count_raw_labels(source.raw[rows], recipe.observations)
            for split, rows in plan.rows.items()
        },
        recipe.uncertain_policy,
    )
    if plan.groups is not None:
        print()
        for name, values in plan.groups.columns.items():
            finish.print_group(name, values, source.records[GROUP + name].to_numpy())
    first = {split: file for file, split, _, _ in reversed(shards)}
    tasks = list(plan.tasks(folder, KeyedIds(b"of nobody"), set(first.values())))
    read, rejected, warned, size, start = 0, [], [], 0, time.perf_counter()
    for task in tasks:
        count = min(len(task.paths), max(1, SAMPLE // len(tasks)))
        for position in np.linspace(0, len(task.paths) - 1, count).astype(int):
            read += 1
            try:
                images, warnings = read_record(task, position)
            except RejectedError as error:
                rejected.append(error.reject)
                continue
            warned += warnings
            size += len(encode_record(task, position, images, task.raw[position]))
    seconds = (time.perf_counter() - start) / max(read, 1)
    total = sum(map(len, plan.rows.values()))
    processes = parallel.worker_count(workers, len(shards))
    print(
        f"\n{counted(read, 'image')} read: about {duration(seconds * total / processes)} with "
        f"{processes} processes, {size / max(read - len(rejected), 1) * total / 1e6:,.1f} MB in "
        f"{len(shards)} shards"
    )
    for reject in rejected:
        print(f"rejected: {reject.path}: {reject.reason}")
    for warning in warned:
        print(f"warning: {warning.path}: {warning.message}")
    print("nothing was written")
