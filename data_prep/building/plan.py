"""From a source to the list of shards: splits, order of the records, keyed ids, fingerprint.

Everything here is a pure function of the options, the source's rows (in any order) and the key,
so an interrupted build finds the same plan again.
"""

import hashlib
import hmac
import itertools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from data_prep.building.groups import GroupPlan
from data_prep.building.splits import order_key
from data_prep.sources.source import GROUP, STUDY, Source
from medcolor_tf.data.schema import FORMAT_VERSION, SPLITS, shard_name
from medcolor_tf.errors import InputError

ID_DIGITS = 16
MIN_KEY_BYTES = 16
# Part of the fingerprint: raised when the same options make other pixels than before, so that a
# build that an earlier version began is not continued with another kind of pixels.
# 2: large JPEGs are decoded at reduced scale. 3, where a file may be DICOM or TIFF: display values
# by the standard, WhiteIsZero at 16 bits.
PIXELS_VERSION = 2
PIXELS_VERSION_DICOM_TIFF = 3
UNCHANGED_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".pgm", ".ppm", ".pbm")


@dataclass(frozen=True)
class Recipe:
    """How an image and its raw labels become a record; the fields are those of the flags."""

    short_side: int
    bits: int
    encoding: str
    jpeg_quality: int
    observations: tuple[str, ...]
    uncertain_policy: Mapping[str, str]
    blank_policy: str
    range: str = "full"


@dataclass(frozen=True)
class ShardTask:
    """All that a worker needs to write one shard of n records.

    Attributes:
        file, split: of the shard.
        folder: where it goes.
        root: folder that the source's relative paths start from.
        recipe: how records are made.
        start: ``index`` of its first record.
        paths: n tuples with a path per channel.
        raw: (n, L) float32 raw labels.
        patients, images: n keyed ids each.
        private_paths: rejects and warnings name a file by its last component alone.
        studies: n keyed ids, () where there are none.
        groups: name of each group -> n values.
    """

    file: str
    split: str
    folder: str
    root: str
    recipe: Recipe
    start: int
    paths: list[tuple[str, ...]]
    raw: np.ndarray
    patients: list[str]
    images: list[str]
    private_paths: bool = False
    studies: Sequence[str] = ()
    groups: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """A source with its splits and the order of the records.

    Attributes:
        source: the images.
        rows: split -> (N_split,) row numbers of the source, in the records' order.
        keys: (N,) each image's identity, see :meth:`Source.keys`.
        recipe: how records are made.
        seed: of the splits and the order.
        records_per_shard: at most.
        pixels_version: of how its files are read.
        fingerprint: of everything that decides images, labels, splits and order, but the random id
            key. Groups do not change it: a run knows the same images with and without them.
        groups: what is stored of groups and studies, None where there are none.
    """

    source: Source
    rows: dict[str, np.ndarray]
    keys: np.ndarray
    recipe: Recipe
    seed: int
    records_per_shard: int
    pixels_version: int
    fingerprint: str
    groups: GroupPlan | None = None

    def shards(self) -> list[tuple[str, str, int, int]]:
        """Returns (file, split, start, stop) of every shard, in order, of even sizes."""
        shards = []
        for split, rows in self.rows.items():
            count = -(-len(rows) // self.records_per_shard)
            edges = [len(rows) * number // count for number in range(count + 1)] if count else []
            for number, (start, stop) in enumerate(itertools.pairwise(edges)):
                shards.append((shard_name(split, number, count), split, start, stop))
        return shards

    def tasks(
        self, folder: Path, ids: "KeyedIds", files: set[str], private_paths: bool = False
    ) -> Iterator[ShardTask]:
        """Yields the task of each shard whose file name is in ``files``; one at a time."""
        for file, split, start, stop in self.shards():
            if file not in files:
                continue
            rows = self.rows[split][start:stop]
            records = self.source.records
            columns = [records[name].to_numpy()[rows] for name in self.source.path_columns]
            yield ShardTask(
                file=file,
                split=split,
                folder=str(folder),
                root=str(self.source.root),
                recipe=self.recipe,
                start=start,
                paths=list(zip(*columns, strict=True)),
                raw=self.source.raw[rows],
                patients=ids.patients(records["patient"].to_numpy()[rows]),
                images=ids.images(self.keys[rows]),
                private_paths=private_paths,
                studies=self._studies(ids, rows),
                groups={
                    name: records[GROUP + name].to_numpy()[rows].tolist()
                    for name in self.source.group_names
                },
            )

    def _studies(self, ids: "KeyedIds", rows: np.ndarray) -> list[str]:
        if not self.source.has_studies:
            return []
        return ids.studies(self.source.records[STUDY].to_numpy()[rows])

    def groups_digest(self) -> str:
        """Returns the SHA-256 of every image's groups and study; "" where there are none."""
        if self.groups is None:
            return ""
        names = [GROUP + name for name in self.source.group_names]
        table = self.source.records[[*names, *([STUDY] if self.source.has_studies else [])]]
        in_order = table.iloc[np.concatenate(list(self.rows.values()))]
        text = json.dumps([list(table.columns), in_order.to_numpy().tolist()])
        return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


class KeyedIds:
    """Ids that tell nothing without the key: HMAC-SHA256, the first 16 hex digits."""

    def __init__(self, key: bytes):
        self._key = key

    def patients(self, names) -> list[str]:
        """Returns the ids of patients."""
        return [self._digest("patient", name) for name in names]

    def studies(self, names) -> list[str]:
        """Returns the ids of studies, whose names hold their patient's."""
        return [self._digest("study", name) for name in names]

    def images(self, keys) -> list[str]:
        """Returns the ids of images, from :meth:`Source.keys`."""
        return [self._digest("image", key) for key in keys]

    def _digest(self, kind: str, name: str) -> str:
        message = f"{kind}\0{name}".encode("utf-8", "surrogateescape")
        return hmac.new(self._key, message, hashlib.sha256).hexdigest()[:ID_DIGITS]


def read_key(path: str) -> bytes:
    """Reads ``--id_key_file`` and warns where others may read it too.

    Raises:
        InputError: it is missing, or too short to be secret.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(
            f"--id_key_file={path}: no such file; make one with `openssl rand -hex 32 > {path}`"
        )
    key = file.read_bytes().strip()
    if len(key) < MIN_KEY_BYTES:
        raise InputError(
            f"--id_key_file={path}: {len(key)} bytes; expected at least {MIN_KEY_BYTES} random ones"
        )
    if os.name == "posix" and file.stat().st_mode & 0o077:
        print(
            f"warning: --id_key_file={path}: others than its owner may read or change it, and "
            f"whoever has the key can tell who is behind an id; `chmod 600 {path}`"
        )
    return key


def make_plan(
    source: Source,
    splits: np.ndarray,
    recipe: Recipe,
    seed: int,
    records_per_shard: int,
    key: bytes | None,
    source_name: str,
    groups: GroupPlan | None = None,
) -> Plan:
    """Orders the records and computes the fingerprint.

    Args:
        source: the images.
        splits: (N,) "train", "valid" or "test" of each.
        recipe, seed, records_per_shard: as in :class:`Plan`.
        key: the id key if it was given, else None (a random one is made later).
        source_name: "chexpert", ...
        groups: what is stored of groups and studies.
    """
    keys = np.array(source.keys(), object)
    hashes = np.array([order_key(seed, image_key) for image_key in keys], object)
    rows = {}
    for split in SPLITS:
        members = np.flatnonzero(splits == split)
        if len(members):
            rows[split] = members[np.argsort(hashes[members], kind="stable")]
    digest = hashlib.sha256()
    version = _pixels_version(source)
    options = describe_options(source_name, recipe, seed, records_per_shard, version, key)
    digest.update(options.encode())
    patients = source.records["patient"].to_numpy()
    for split, members in rows.items():
        for image_key, patient in zip(keys[members], patients[members], strict=True):
            fields = f"{split}\0\0{image_key}\0\0{patient}"
            digest.update(fields.encode("utf-8", "surrogateescape"))
        digest.update(np.nan_to_num(source.raw[members], nan=-2).astype("<f4").tobytes())
    fingerprint = digest.hexdigest()
    return Plan(source, rows, keys, recipe, seed, records_per_shard, version, fingerprint, groups)


def _pixels_version(source: Source) -> int:
    """Returns the version of the pixels; data sets of PNG and JPEG files stay what they were."""
    for name in source.path_columns:
        for path in source.records[name]:
            if Path(path).suffix.lower() not in UNCHANGED_SUFFIXES:
                return PIXELS_VERSION_DICOM_TIFF
    return PIXELS_VERSION


def describe_options(
    source_name: str,
    recipe: Recipe,
    seed: int,
    records_per_shard: int,
    pixels_version: int,
    key: bytes | None,
) -> str:
    """Returns the options that decide the result, as JSON."""
    check = hmac.new(key, b"check", hashlib.sha256).hexdigest() if key else "random"
    options = {
        **asdict(recipe),
        "source": source_name,
        "seed": seed,
        "records_per_shard": records_per_shard,
        "id_key": check,
        "format_version": FORMAT_VERSION,
        "pixels_version": pixels_version,
    }
    if recipe.range == "full":  # as data sets of before the option are described
        del options["range"]
    if recipe.encoding != "jpeg":
        del options["jpeg_quality"]
    return json.dumps(options, sort_keys=True)
