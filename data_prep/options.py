"""The options of ``data_prep.build``, and which of them contradict each other."""

import dataclasses
from dataclasses import dataclass

from data_prep.building.plan import Recipe
from data_prep.sources import mura
from medcolor_tf.commandline import option, parse_shard
from medcolor_tf.data.labels import BLANK_POLICIES, PAPER_POLICY, parse_policy
from medcolor_tf.data.schema import ENCODINGS
from medcolor_tf.errors import InputError

SOURCES = ("chexpert", "chestxray14", "mura", "table", "phantom")


@dataclass(frozen=True)
class BuildConfig:
    """Options of the build."""

    source: str = option(None, "Kind of data set.", SOURCES, required=True)
    out: str = option("", "Folder to write the shards and dataset.json to.", required=True)
    data_root: str = option("", "Root folder of the data set (not for --source=table).")
    observations: tuple[str, ...] = option(
        (),
        "Labels, as COLUMN, NAME=COLUMN (renamed) or NAME=!COLUMN (0 and 1 exchanged); default: "
        "the paper's five for chexpert, chestxray14 and phantom.",
    )
    uncertain_policy: tuple[str, ...] = option(
        (),
        "What -1 means: ones, zeros or ignore for all, or OBSERVATION=ones,...; default: the "
        "paper's for its five observations, else ignore. Can be changed at training time.",
    )
    blank_policy: str = option(
        None,
        "What a blank cell means; default: ignore for table, else zeros (not mentioned).",
        BLANK_POLICIES,
    )
    views: str = option("all", "CheXpert's views to take.", ("all", "frontal", "lateral"))
    test_csv: str = option("", "CheXpert's later test set: its table; valid.csv is then valid.")
    body_part: str = option("shoulder", "MURA's body part.", (*mura.BODY_PARTS, "all"))
    table: str = option("", "CSV or TSV file with paths and labels (chestxray14: Data_Entry*.csv).")
    image_root: str = option("", "Folder that the table's paths start from; default: the table's.")
    path_column: tuple[str, ...] = option(
        ("path",), "Column with the image's path; several columns make several channels."
    )
    patient_column: str = option("", "Column with the patient; without it, an image is a patient.")
    split_column: str = option("", "Column with train, valid or test, if the table decides.")
    train_list: str = option("", "ChestX-ray14's train_val_list.txt, if not in the root folder.")
    test_list: str = option("", "ChestX-ray14's test_list.txt, if not in the root folder.")
    phantom_images: int = option(700, "Number of images to draw for --source=phantom.")
    valid_fraction: float | None = option(
        None, "Share of the images for validation, by patient; default 0.1 unless official."
    )
    test_fraction: float | None = option(
        None, "Share for testing, by patient; default 0.2 where nothing is official, else 0."
    )
    seed: int = option(0, "Decides splits, order of the records, and phantom images.")
    limit: int = option(0, "For trying out: only the first N patients of each official split.")
    short_side: int = option(320, "Pixels of every image's shorter side.")
    bits: int = option(8, "Bits of a stored pixel: 8 or 16.")
    encoding: str = option("png", "How pixels are stored.", ENCODINGS)
    jpeg_quality: int = option(95, "Quality of --encoding=jpeg, 1 to 100.")
    records_per_shard: int = option(1024, "Images in a shard, at most.")
    workers: int = option(0, "Processes; 0: one a core.")
    shard: str = option(
        "", "2/8: the second of eight parts, for several machines; data_prep.merge finishes."
    )
    max_rejects: int = option(0, "Unreadable images to put up with before the build fails.")
    id_key_file: str = option("", "File with a secret key, for ids that are the same every time.")
    write_key_table: bool = option(
        False, "Also write key_table.csv, which tells who is behind each keyed id."
    )


# Which sources an option is for; options that are not named are for all.
FLAG_SOURCES = {
    "data_root": ("chexpert", "chestxray14", "mura", "phantom"),
    "observations": ("chexpert", "chestxray14", "table", "phantom"),
    "views": ("chexpert", "phantom"),
    "test_csv": ("chexpert",),
    "body_part": ("mura",),
    "table": ("table", "chestxray14"),
    "image_root": ("table",),
    "path_column": ("table",),
    "patient_column": ("table",),
    "split_column": ("table",),
    "train_list": ("chestxray14",),
    "test_list": ("chestxray14",),
    "phantom_images": ("phantom",),
}
LEAST = {
    "short_side": 8,
    "records_per_shard": 1,
    "workers": 0,
    "max_rejects": 0,
    "limit": 0,
    "phantom_images": 1,
    "jpeg_quality": 1,
}


def check(config: BuildConfig) -> None:
    """Raises InputError for options out of range or at odds with each other."""
    for field in dataclasses.fields(config):
        value, sources = getattr(config, field.name), FLAG_SOURCES.get(field.name, SOURCES)
        if value != field.default and config.source not in sources:
            raise InputError(
                f"--{field.name} is for --source={' or '.join(sources)}, not for {config.source}"
            )
    for name, least in LEAST.items():
        if getattr(config, name) < least:
            raise InputError(f"--{name}={getattr(config, name)}: expected at least {least}")
    if config.source != "table" and not config.data_root:
        raise InputError(f"--source={config.source} needs --data_root=FOLDER")
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
    if config.shard and config.write_key_table:
        raise InputError(
            "--write_key_table is not for a part; after data_prep.merge, run the same command "
            "with it and without --shard"
        )


def make_recipe(config: BuildConfig, observations: tuple[str, ...]) -> Recipe:
    """Returns how records are made, with the policies spelled out."""
    default_blank = "ignore" if config.source == "table" else "zeros"
    return Recipe(
        short_side=config.short_side,
        bits=config.bits,
        encoding=config.encoding,
        jpeg_quality=config.jpeg_quality,
        observations=tuple(observations),
        uncertain_policy=parse_policy(config.uncertain_policy, observations, PAPER_POLICY),
        blank_policy=config.blank_policy or default_blank,
    )
