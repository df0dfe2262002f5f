"""The options of ``data_prep.build``, and which of them contradict each other."""

import dataclasses
import os
from dataclasses import dataclass

from data_prep.building import duplicates, groups
from data_prep.building.plan import Recipe
from data_prep.sources import SOURCES, patients
from medcolor_tf.catalog import MAX_SIDE, RANGES
from medcolor_tf.commandline import option, parse_shard
from medcolor_tf.data.labels import BLANK_POLICIES, PAPER_POLICY, parse_policy
from medcolor_tf.data.schema import ENCODINGS
from medcolor_tf.errors import InputError
from medcolor_tf.parallel.cluster import CLUSTER_HELP
from medcolor_tf.private_paths import PRIVATE_HELP


def sources_of(option_name: str) -> tuple[str, ...]:
    """Returns the sources that take an option: those that say so, or all if none does."""
    claiming = [name for name, entry in SOURCES.items() if option_name in entry.option_names()]
    return tuple(claiming or SOURCES)


OWN_OPTIONS = [options for entry in SOURCES.values() if (options := entry.own_options())]
# What --help says of the sources comes from their table.
_TITLES = "; ".join(f"{name}: {entry.title}" for name, entry in SOURCES.items())
_WITHOUT_ROOT = " or ".join(name for name in SOURCES if name not in sources_of("data_root"))
_WITH_DEFAULT_LABELS = ", ".join(name for name, entry in SOURCES.items() if entry.observations)
_IGNORING_BLANKS = ", ".join(
    name for name, entry in SOURCES.items() if entry.blank_policy == "ignore"
)


@dataclass(frozen=True)
class BuildConfig(*reversed(OWN_OPTIONS)):
    """Options of the build: those below and those that the sources declare in their files."""

    source: str = option(None, f"Kind of data set. {_TITLES}.", tuple(SOURCES), required=True)
    out: str = option("", "Folder to write the shards and dataset.json to.", required=True)
    data_root: str = option(
        "",
        f"Root folder of the data set (not for --source={_WITHOUT_ROOT}).",
        group="Source",
    )
    observations: tuple[str, ...] = option(
        (),
        "Labels, as COLUMN, NAME=COLUMN (renamed) or NAME=!COLUMN (0 and 1 exchanged); default: "
        f"the paper's five for {_WITH_DEFAULT_LABELS}.",
        group="Labels",
    )
    uncertain_policy: tuple[str, ...] = option(
        (),
        "What -1 means: ones, zeros or ignore for all, or OBSERVATION=ones,...; default: the "
        "paper's for its five observations, else ignore. Can be changed at training time.",
        group="Labels",
    )
    blank_policy: str = option(
        None,
        f"What a blank cell means; default: ignore for {_IGNORING_BLANKS}, else zeros (not "
        "mentioned).",
        BLANK_POLICIES,
        group="Labels",
    )
    valid_fraction: float | None = option(
        None,
        "Share of the images for validation, by patient; default 0.1 unless official.",
        group="Splits",
    )
    test_fraction: float | None = option(
        None,
        "Share for testing, by patient; default 0.2 where nothing is official, else 0.",
        group="Splits",
    )
    group_columns: tuple[str, ...] = option(
        (),
        "What evaluations group images by, as COLUMN or NAME=COLUMN; bands and frequent values "
        "alone are stored. chexpert has sex,age,view,projection, chestxray14 sex,age,view, mura "
        "body_part, a table any columns, DICOM files NAME=dicom:PatientSex, PatientAge, "
        "ViewPosition, Manufacturer, ManufacturerModelName or BodyPartExamined.",
        group="Groups",
    )
    age_bands: tuple[str, ...] = option(
        groups.AGE_BANDS, "Ages at which a band of the group age begins.", group="Groups"
    )
    group_min_patients: int = option(
        groups.MIN_PATIENTS,
        "Values of fewer patients become 'other'.",
        group="Groups",
    )
    study_column: str = option(
        "",
        "Column with the study (path: from the paths, for chexpert and mura; or "
        "dicom:StudyInstanceUID), stored as a keyed id.",
        group="Groups",
    )
    seed: int = option(
        0, "Decides splits, order of the records, and phantom images.", group="Splits"
    )
    limit: int = option(
        0, "For trying out: only the first N patients of each official split.", group="Splits"
    )
    unknown_patients: str = option(
        "error",
        "Patients that are empty, nan, none or null: error, or each such image is a patient of "
        "its own.",
        patients.UNKNOWN_POLICIES,
        group="Identity",
    )
    normalize_ids: bool = option(
        False,
        "Patient ids such as 01, 1 and 1.0 are one; else they are an error.",
        group="Identity",
    )
    duplicates: str = option(
        "error",
        "The same image in two rows, by path or content: error, or take the first row.",
        duplicates.POLICIES,
        group="Identity",
    )
    missing: str = option(
        "error",
        "Images that the tables name and that are not there: error, or skip them.",
        ("error", "skip"),
        group="Identity",
    )
    allow_outside_root: bool = option(
        False, "Accept paths and follow links that leave the root folder.", group="Identity"
    )
    short_side: int = option(320, "Pixels of every image's shorter side.", group="Records")
    bits: int = option(8, "Bits of a stored pixel: 8 or 16.", group="Records")
    range: str = option(
        "full",
        "What becomes black and white: full, the range of the file's depth or window; used, each "
        "image's own smallest and largest value; percentile, its 0.5 and 99.5 percentile.",
        RANGES,
        group="Records",
    )
    encoding: str = option("png", "How pixels are stored.", ENCODINGS, group="Records")
    jpeg_quality: int = option(95, "Quality of --encoding=jpeg, 1 to 100.", group="Records")
    records_per_shard: int = option(1024, "Images in a shard, at most.", group="Records")
    workers: int = option(0, "Processes; 0: one per core.", group="Work")
    cluster: str = option(
        "", f"{CLUSTER_HELP} Then --out and the images' folder are absolute paths.", group="Work"
    )
    shard: str = option(
        "",
        "2/8: the second of eight parts, for several machines; data_prep.merge finishes.",
        group="Work",
    )
    dry_run: bool = option(
        False,
        "Say what would be built (splits, labels, time and disk from some images), and stop.",
        group="Work",
    )
    max_rejects: int = option(
        0, "Unreadable images to put up with before the build fails.", group="Work"
    )
    id_key_file: str = option(
        "", "File with a secret key, for ids that are the same every time.", group="Privacy"
    )
    write_key_table: bool = option(
        False, "Also write key_table.csv, which tells who is behind each keyed id.", group="Privacy"
    )
    private_paths: bool = option(False, PRIVATE_HELP, group="Privacy")


MOST = {"short_side": MAX_SIDE, "records_per_shard": 1_000_000_000}
LEAST = {
    "short_side": 8,
    "records_per_shard": 1,
    "group_min_patients": 1,
    "workers": 0,
    "max_rejects": 0,
    "limit": 0,
    "jpeg_quality": 1,
}


def check(config: BuildConfig) -> None:
    """Raises InputError for options out of range or at odds with each other."""
    for field in dataclasses.fields(config):
        value, sources = getattr(config, field.name), sources_of(field.name)
        if value != field.default and config.source not in sources:
            raise InputError(
                f"--{field.name} is for --source={' or '.join(sources)}, not for {config.source}"
            )
    for name, least in LEAST.items():
        if getattr(config, name) < least:
            raise InputError(f"--{name}={getattr(config, name)}: expected at least {least}")
    for name, most in MOST.items():
        if getattr(config, name) > most:
            raise InputError(f"--{name}={getattr(config, name)}: expected at most {most:,}")
    if config.source in sources_of("data_root") and not config.data_root:
        raise InputError(f"--source={config.source} needs --data_root=FOLDER")
    groups.parse_bands(config.age_bands)
    if not config.group_columns:
        for name in ("age_bands", "group_min_patients"):
            if getattr(config, name) != getattr(BuildConfig, name):
                raise InputError(
                    f"--{name} without --group_columns, which says what the groups are"
                )
    if config.bits not in (8, 16):
        raise InputError(f"--bits={config.bits}: expected 8 or 16")
    if config.encoding == "jpeg" and config.bits == 16:
        raise InputError("--encoding=jpeg holds 8 bits; use --bits=8, or --encoding=png or raw")
    if config.jpeg_quality > 100:
        raise InputError(f"--jpeg_quality={config.jpeg_quality}: expected 1 to 100")
    if config.encoding != "jpeg" and config.jpeg_quality != BuildConfig.jpeg_quality:
        raise InputError(f"--jpeg_quality is for --encoding=jpeg, not for {config.encoding}")
    if parse_shard(config.shard) and not config.id_key_file:
        raise InputError(
            f"--shard={config.shard} needs --id_key_file=FILE, the same for all parts, so that "
            "they give a patient the same id; make one with `openssl rand -hex 32 > FILE`"
        )
    if config.cluster and not os.path.isabs(config.out):
        raise InputError(
            f"--out={config.out}: expected an absolute path with --cluster, whose workers have "
            "working folders of their own"
        )
    if config.shard and config.write_key_table:
        raise InputError(
            "--write_key_table is not for a part; after data_prep.merge, run the same command "
            "with it and without --shard"
        )


def make_recipe(config: BuildConfig, observations: tuple[str, ...]) -> Recipe:
    """Returns how records are made, with the policies spelled out."""
    return Recipe(
        short_side=config.short_side,
        bits=config.bits,
        encoding=config.encoding,
        jpeg_quality=config.jpeg_quality,
        observations=tuple(observations),
        uncertain_policy=parse_policy(config.uncertain_policy, observations, PAPER_POLICY),
        blank_policy=config.blank_policy or SOURCES[config.source].blank_policy,
        range=config.range,
    )
