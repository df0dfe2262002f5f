"""The output folder while it is being built: the plan's record, the random key and the locks.

``.build/plan.json`` holds all that is needed to finish a data set whose shards are there, so that
``data_prep.merge`` needs neither the source nor the key.
"""

import contextlib
import json
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from data_prep.building.plan import Plan, Recipe, describe_options
from data_prep.building.shards import BUILD_FOLDER
from medcolor_tf import commandline
from medcolor_tf.errors import InputError
from medcolor_tf.files import parse_json, remove_leftovers, write_atomically, writing
from medcolor_tf.locks import locked, refusal
from medcolor_tf.private_paths import recorded

RANDOM_KEY = "random"


@dataclass(frozen=True)
class PlanRecord:
    """What ``plan.json`` holds.

    Attributes:
        fingerprint: of the plan.
        options: those that decide the result, see :func:`data_prep.building.plan.describe_options`.
        channels: images per record.
        recipe: how records are made.
        parts: into how many parts (``--shard``) the build is divided; 1: not at all.
        shards: (file, split, images) of every planned shard, in order.
        command: that builds all of it.
        groups: values of each group, least number of patients and whether there are studies, with
            the digest of every image's; None where there are none.
    """

    fingerprint: str
    options: Mapping
    channels: int
    recipe: Recipe
    parts: int
    shards: tuple[tuple[str, str, int], ...]
    command: str
    groups: Mapping | None = None

    @classmethod
    def from_plan(cls, config, plan: Plan, key: bytes | None, parts: int) -> "PlanRecord":
        """Returns the record of a plan; ``key`` is the one that was given, if any."""
        options = describe_options(
            config.source,
            plan.recipe,
            plan.seed,
            plan.records_per_shard,
            plan.pixels_version,
            key,
        )
        return cls(
            plan.fingerprint,
            json.loads(options),
            plan.source.channels,
            plan.recipe,
            parts,
            tuple((file, split, stop - start) for file, split, start, stop in plan.shards()),
            commandline.command_line(
                "data_prep.build", recorded(replace(config, shard="", cluster=""))
            ),
            plan.groups and {**asdict(plan.groups), "digest": plan.groups_digest()},
        )

    @classmethod
    def load(cls, folder: Path) -> "PlanRecord":
        """Reads the record of the build in ``folder``; InputError without one."""
        path = folder / BUILD_FOLDER / "plan.json"
        try:
            content = parse_json(path.read_bytes(), path)
            recipe = content.pop("recipe")
            recipe["observations"] = tuple(recipe["observations"])
            content["shards"] = tuple(map(tuple, content["shards"]))
            return cls(recipe=Recipe(**recipe), **content)
        except FileNotFoundError:
            raise InputError(
                f"{path}: no such file; expected an unfinished build of `data_prep.build`"
            ) from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: not the record of a build ({error!r})") from None

    def save(self, folder: Path) -> None:
        """Writes the record."""
        content = asdict(self)
        if self.groups is None:
            del content["groups"]
        write_atomically(folder / BUILD_FOLDER / "plan.json", json.dumps(content))

    def difference(self, other: "PlanRecord") -> str:
        """Says in what the plans differ, for messages; "" when they are the same."""
        if self.fingerprint == other.fingerprint:
            same = self.groups == other.groups
            return "" if same else "other groups or studies (group_columns, study_column, table)"
        names = sorted(self.options.keys() | other.options.keys())
        differing = [n for n in names if self.options.get(n) != other.options.get(n)]
        return f"other options ({', '.join(differing)})" if differing else "other tables"

    def part_of(self, number: int) -> str:
        """Returns the part, as in ``--shard``, that makes the shard ``number`` (from 0)."""
        return f"{number % self.parts + 1}/{self.parts}"


@contextlib.contextmanager
def open_build(folder: Path, record: PlanRecord, part: str = "") -> Iterator[bytes | None]:
    """Makes or reopens the output folder, held against other builds of the same shards.

    Args:
        folder: the data set's.
        record: of what is to be built.
        part: "2/8", or "" for all: one process may hold a part, or one all of them.

    Yields:
        The random key, or None where one was given.

    Raises:
        InputError: the folder holds something else, or another build is at it.
    """
    build_folder = folder / BUILD_FOLDER
    if folder.is_dir() and not build_folder.is_dir() and any(folder.iterdir()):
        raise InputError(
            f"--out={folder}: holds files but no unfinished build; expected a new or empty folder"
        )
    try:
        build_folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out={folder}: cannot be made ({error.strerror})") from None
    with contextlib.ExitStack() as locks:
        with writing(build_folder):
            _lock(locks, folder, part)
            with locked(build_folder / "lock-plan", busy=lambda: None, held=False):
                _save_or_compare(folder, record, part)
        for place in (folder, build_folder):
            remove_leftovers(place)
            locks.callback(remove_leftovers, place)  # of workers that were ended
        random = record.options["id_key"] == RANDOM_KEY
        yield (build_folder / "id_key").read_bytes() if random else None


def _lock(locks: contextlib.ExitStack, folder: Path, part: str) -> None:
    """Locks a build, or one part of it beside the others."""
    path = folder / BUILD_FOLDER / "lock"
    locks.enter_context(locked(path, _refusal(f"--out={folder}", path), shared=bool(part)))
    if part:
        path = folder / BUILD_FOLDER / f"lock-{part.replace('/', '-of-')}"
        locks.enter_context(locked(path, _refusal(f"--out={folder} --shard={part}", path)))


def _save_or_compare(folder: Path, record: PlanRecord, part: str) -> None:
    """Writes the plan's record, or compares it with the one that is there."""
    build_folder = folder / BUILD_FOLDER
    if not (build_folder / "plan.json").exists():
        if record.options["id_key"] == RANDOM_KEY:
            write_atomically(build_folder / "id_key", secrets.token_hex(32), mode=0o600)
        record.save(folder)
        return
    begun = PlanRecord.load(folder)
    difference = begun.difference(record)
    if difference:
        raise InputError(
            f"--out={folder}: holds an unfinished build with {difference}; choose another --out, "
            "or delete that folder first"
        )
    if part and begun.parts == 1:  # begun as a whole, goes on in parts
        record.save(folder)
    elif part and begun.parts != record.parts:
        raise InputError(
            f"--shard={part}: {folder} holds a build in {begun.parts} parts; expected "
            f"--shard=NUMBER/{begun.parts}"
        )


def _refusal(what: str, path: Path) -> Callable[[], None]:
    """Returns what to do when another process has a lock: InputError instead of waiting."""

    def refuse():
        raise refusal(what, path)

    return refuse
