"""Builds a data set: ``python -m data_prep.build --flagfile=prep_chexpert.flags --data_root=...``.

Reads a data set as it was downloaded, splits it by patient, decodes and resizes every image once,
and writes shards that medcolor_tf trains on. The same command continues an interrupted build and
leaves a finished one alone.
"""

import contextlib
import os
import shutil
import sys
from collections.abc import Generator, Iterator
from pathlib import Path

from data_prep import options
from data_prep.building import dry_run, duplicates, finish, groups, output, parallel
from data_prep.building.duplicates import ContentDigests
from data_prep.building.output import PlanRecord
from data_prep.building.plan import KeyedIds, Plan, ShardTask, make_plan, read_key
from data_prep.building.shards import (
    BUILD_FOLDER,
    ShardResult,
    build_shard,
    finished_shard,
    rejects_changed,
)
from data_prep.building.splits import split_by_patient
from data_prep.options import BuildConfig
from data_prep.sources import paths, read_source
from data_prep.sources.source import Source
from medcolor_tf import commandline
from medcolor_tf.data.schema import DATASET_JSON, DatasetInfo
from medcolor_tf.errors import InputError
from medcolor_tf.parallel import cluster
from medcolor_tf.progress import Progress

SHOWN = 5


def build(config: BuildConfig) -> None:
    """Builds the data set that ``config`` describes, or what is missing of it.

    Raises:
        InputError: anything wrong with the options, the tables, the images or the output folder.
    """
    options.check(config)
    key = read_key(config.id_key_file) if config.id_key_file else None
    folder = Path(config.out)
    digests = ContentDigests(folder, config.shard)
    plan = plan_build(config, key, digests)
    if config.dry_run:
        if not _is_finished(folder, plan):
            dry_run.describe(plan, folder, config.workers)
        return None
    if not _is_finished(folder, plan):
        _, parts = commandline.parse_shard(config.shard) or (1, 1)
        record = PlanRecord.from_plan(config, plan, key, parts)
        with output.open_build(folder, record, config.shard) as random_key:
            digests.save()
            id_key = key or random_key
            assert id_key is not None, "a build without --id_key_file draws a key"
            ids = KeyedIds(id_key)
            results = run_build(config, plan, folder, ids)
            if config.shard:
                return finish.write_part(folder, config.shard, results)
            if config.write_key_table:
                finish.write_key_table(folder, plan, ids)
            finish.write_dataset(folder, record, results)
    elif config.write_key_table and not (folder / finish.KEY_TABLE).exists():
        if key is None:
            raise InputError(
                f"{folder}: the random key was thrown away when the build finished; a key table "
                "needs a new build with --write_key_table, or --id_key_file"
            )
        finish.write_key_table(folder, plan, KeyedIds(key))
    shutil.rmtree(folder / BUILD_FOLDER, ignore_errors=True)
    finish.print_summary(folder, DatasetInfo.load(folder))


def plan_build(config: BuildConfig, key: bytes | None, digests: ContentDigests) -> Plan:
    """Reads the source's tables, checks that its images are there, splits and orders them.

    Args:
        config: the build's options.
        key: the id key if one was given.
        digests: of the images' files, to compare their contents.
    """
    source = duplicates.settle_listed_twice(read_source(config), config.duplicates)
    if config.missing == "skip" and len(source.records):
        source = paths.take_present(source)
    if config.limit:
        source = _first_patients(source, config.limit)
    if not len(source.records):
        raise InputError("no image is left after choosing views and labels")
    _check_images(source, config.max_rejects)
    # What is finished was compared when it was built; the first rows' choice needs it every time.
    if config.duplicates != "error" or not (Path(config.out) / DATASET_JSON).exists():
        source = duplicates.settle_same_content(source, config.duplicates, digests, config.workers)
    source, group_plan = groups.settle_groups(source, config)
    splits = split_by_patient(
        source.records["patient"].to_numpy(),
        config.seed,
        config.valid_fraction,
        config.test_fraction,
        source.records["split"].to_numpy(),
        source.records["where"].to_numpy(),
    )
    recipe = options.make_recipe(config, source.observations)
    return make_plan(
        source,
        splits,
        recipe,
        config.seed,
        config.records_per_shard,
        key,
        config.source,
        group_plan,
    )


def run_build(
    config: BuildConfig, plan: Plan, folder: Path, ids: KeyedIds
) -> dict[str, ShardResult]:
    """Builds the shards of ``--shard`` that are missing; returns file -> result, in order.

    Raises:
        InputError: more than ``--max_rejects`` images cannot be read. Shards already made stay.
    """
    number, parts = commandline.parse_shard(config.shard) or (1, 1)
    shards = plan.shards()[number - 1 :: parts]
    rejects = folder / finish.part_name(finish.REJECTS, config.shard)
    images = {file: stop - start for file, _, start, stop in shards}
    results = {file: result for file in images if (result := _finished(plan, folder, file))}
    missing = images.keys() - results.keys()
    finish.check_rejects(rejects, results.values(), config.max_rejects)
    done = sum(images[file] for file in results)
    if done:
        print(f"continuing: {len(results)} of {len(images)} shards are finished")
    progress = Progress("building", sum(images.values()), done=done)
    tasks = plan.tasks(folder, ids, missing, config.private_paths)
    with progress, _running(config, plan, folder, tasks, len(missing)) as running:
        try:
            for result in running:
                results[result.file] = result
                progress.update(images[result.file])
                in_order = [results[file] for file in images if file in results]
                finish.check_rejects(rejects, in_order, config.max_rejects)
        except KeyboardInterrupt as interruption:
            running.throw(interruption)  # ends the workers
    return {file: results[file] for file in images}


@contextlib.contextmanager
def _running(
    config: BuildConfig, plan: Plan, folder: Path, tasks: Iterator[ShardTask], count: int
) -> Iterator[Generator[ShardResult, None, None]]:
    """Yields what builds shards, in processes of this machine or on --cluster."""
    with contextlib.ExitStack() as stack:
        if config.cluster and count:
            root = str(plan.source.root)
            if not os.path.isabs(root):
                raise InputError(
                    f"--cluster: the images' folder is {root!r}; expected an absolute path "
                    "(--data_root or --image_root), since workers have working folders of their own"
                )
            executor = stack.enter_context(cluster.connected(config.cluster, folder, (root,)))
            running = parallel.run_on_cluster(build_shard, tasks, executor)
        else:
            workers = parallel.worker_count(config.workers, count)
            running = parallel.run_tasks(build_shard, tasks, workers)
        yield stack.enter_context(contextlib.closing(running))


def _finished(plan: Plan, folder: Path, file: str) -> ShardResult | None:
    """Returns what an earlier run made, unless a file it rejected has been mended."""
    result = finished_shard(folder, file)
    if result is None or not result.rejects:
        return result
    source, rows = plan.source, plan.rows[result.split]
    states = {
        reject.index: [
            os.path.join(source.root, source.records[name].iloc[rows[reject.index]])
            for name in source.path_columns
        ]
        for reject in result.rejects
    }
    return None if rejects_changed(result, states) else result


def _first_patients(source: Source, limit: int) -> Source:
    pairs = source.records[["split", "patient"]].drop_duplicates()
    chosen = pairs.groupby("split").head(limit)
    matched = source.records.merge(chosen, how="left", indicator=True)["_merge"] == "both"
    return source.take(matched.to_numpy())


def _check_images(source: Source, max_rejects: int) -> None:
    """Fails at once, not after hours, when more image files are missing than may be rejected."""
    missing = []
    for name in source.path_columns:
        for row, path in enumerate(source.records[name]):
            if not os.path.isfile(os.path.join(source.root, path)):
                missing.append((row, os.path.join(source.root, path)))
    if len(missing) <= max_rejects:
        return
    where = source.records["where"]
    lines = [f"  {where[row]}: {path}" for row, path in missing[:SHOWN]]
    raise InputError(
        f"{len(missing)} of {len(source.records)} image files are not there "
        f"(--max_rejects={max_rejects}):\n" + "\n".join(lines) + "\n--missing=skip leaves them out"
    )


def _is_finished(folder: Path, plan: Plan) -> bool:
    """Tells whether the folder holds this data set already; InputError if it holds another."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--out={folder}: is a file, expected a folder")
    if not (folder / DATASET_JSON).exists():
        return False
    info = DatasetInfo.load(folder)
    if info.fingerprint == plan.fingerprint and not _has_groups(info, plan):
        raise InputError(
            f"--out={folder}: holds these images finished with other --group_columns or "
            "--study_column; choose another --out, or delete that folder first"
        )
    if info.fingerprint != plan.fingerprint:
        raise InputError(
            f"--out={folder}: holds a finished data set made with other options or from other "
            "tables; choose another --out, or delete that folder first"
        )
    print(f"{folder}: already complete, nothing to do")
    return True


def _has_groups(info: DatasetInfo, plan: Plan) -> bool:
    """Tells whether a data set has the groups and studies of a plan."""
    if info.groups is None or plan.groups is None:
        return info.groups is None and plan.groups is None
    stored = {name: list(values) for name, values in info.groups.columns.items()}
    return stored == plan.groups.columns and bool(info.groups.studies) == plan.groups.study


def main(argv=None) -> int:
    """Runs the command; returns its exit status."""
    return commandline.run(BuildConfig, build, __doc__ or "", argv)


if __name__ == "__main__":
    sys.exit(main())
