"""Finishes a data set that was built in parts: ``python -m data_prep.merge --out=FOLDER``.

Each machine builds its part with ``python -m data_prep.build ... --shard=2/8``. Where all wrote to
one shared folder, that is --out; folders of their own are named as words and gathered there:
``python -m data_prep.merge part1 part2 --out=FOLDER``. Neither the source nor the key is needed.
"""

import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data_prep.building import finish, output
from data_prep.building.output import PlanRecord
from data_prep.building.shards import (
    BUILD_FOLDER,
    ShardResult,
    finished_shard,
    sidecars,
)
from medcolor_tf import commandline
from medcolor_tf.commandline import option
from medcolor_tf.data.schema import DATASET_JSON, DatasetInfo
from medcolor_tf.errors import InputError
from medcolor_tf.files import file_sha256, replacing
from medcolor_tf.progress import progressing

SHOWN = 3


@dataclass(frozen=True)
class MergeConfig:
    """Options of the merge."""

    parts: tuple[str, ...] = option(
        (), "Folders with parts to gather in --out; they are left as they are.", positional=True
    )
    out: str = option("", "Folder of the data set, and of parts written there.", required=True)
    max_rejects: int = option(0, "Unreadable images to put up with, in all parts together.")


def merge(config: MergeConfig) -> None:
    """Gathers the parts, checks that all shards are there, and writes what makes a data set.

    Raises:
        InputError: a folder without a build, parts of different plans, a shard that is missing or
            damaged, or too many rejected images.
    """
    if config.max_rejects < 0:
        raise InputError(f"--max_rejects={config.max_rejects}: expected at least 0")
    folder = Path(config.out)
    if (folder / DATASET_JSON).exists():
        print(f"{folder}: already complete, nothing to do")
    else:
        parts = [Path(part) for part in config.parts]
        record = _common_record(folder, parts)
        with output.open_build(folder, record):
            for part in parts:
                _gather(part, folder, record)
            results = _complete_results(folder, record)
            finish.check_rejects(folder / finish.REJECTS, results.values(), config.max_rejects)
            finish.write_dataset(folder, record, results)
    shutil.rmtree(folder / BUILD_FOLDER, ignore_errors=True)
    finish.print_summary(folder, DatasetInfo.load(folder))


def _common_record(folder: Path, parts: Sequence[Path]) -> PlanRecord:
    """Returns the plan that all folders share."""
    begun = [folder] if (folder / BUILD_FOLDER).is_dir() or not parts else []
    folders = [*begun, *parts]
    records = [PlanRecord.load(part) for part in folders]
    first = records[0]
    for part, record in zip(folders[1:], records[1:], strict=True):
        difference = first.difference(record)
        if not difference and record.parts != first.parts:
            difference = f"another number of parts ({record.parts}, not {first.parts})"
        if difference:
            raise InputError(
                f"{part}: holds a part of a build with {difference} than the one in {folders[0]}; "
                "the same options, tables and --id_key_file are expected"
            )
    return first


def _gather(part: Path, folder: Path, record: PlanRecord) -> None:
    """Links or copies the shards that ``part`` has and ``folder`` has not, sidecars last."""
    for file, _, _ in record.shards:
        if finished_shard(folder, file) or not finished_shard(part, file):
            continue
        for source in (part / file, *sidecars(part / file)):
            if not source.exists():  # groups, where there are none
                continue
            _link_or_copy(source, folder / source.relative_to(part))


def _link_or_copy(source: Path, target: Path) -> None:
    with replacing(target) as temporary:
        try:
            os.link(source, temporary)  # no second copy on the disk
        except OSError:  # another file system, or one without links
            try:
                shutil.copyfile(source, temporary)
            except OSError as error:
                raise InputError(
                    f"{source}: cannot be copied to {target} ({error.strerror})"
                ) from None


def _complete_results(folder: Path, record: PlanRecord) -> dict[str, ShardResult]:
    """Returns file -> result of every planned shard; InputError names what is missing."""
    results, missing = {}, {}
    for number, (file, _, images) in enumerate(record.shards):
        result = finished_shard(folder, file)
        if result is None or result.records + len(result.rejects) != images:
            missing.setdefault(record.part_of(number), []).append(file)
        else:
            results[file] = result
    if missing:
        count = sum(map(len, missing.values()))
        lines = [
            f"  {_command(record, part)}\n    {_some(files)}"
            for part, files in sorted(missing.items())
        ]
        raise InputError(
            f"{folder}: {count} of {len(record.shards)} shards are missing. Build them with\n"
            + "\n".join(lines)
        )
    for number, (file, result) in enumerate(
        progressing(results.items(), "checking", len(results), "shards")
    ):
        if file_sha256(folder / file) != result.sha256:
            raise InputError(
                f"{folder / file}: SHA-256 is not the one it was built with; copy it again, or "
                f"delete it and run {_command(record, record.part_of(number))}"
            )
    return results


def _command(record: PlanRecord, part: str) -> str:
    return record.command + (f" --shard={part}" if record.parts > 1 else "")


def _some(files: list[str]) -> str:
    more = f" and {len(files) - SHOWN} more" if len(files) > SHOWN else ""
    return ", ".join(files[:SHOWN]) + more


def main(argv=None) -> int:
    """Runs the command; returns its exit status."""
    return commandline.run(MergeConfig, merge, __doc__ or "", argv)


if __name__ == "__main__":
    sys.exit(main())
