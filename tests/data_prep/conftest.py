"""Small data sets in the official layouts, and a shorthand for running the build."""

import csv

import numpy as np
import pytest
from PIL import Image

from data_prep import build, verify
from medcolor_tf.data.schema import DatasetInfo


@pytest.fixture(scope="session")
def write_image():
    """The function that writes a deterministic gray image; returns its pixels."""

    def write(path, size=(24, 30), seed=0, dtype=np.uint8, **options):
        path.parent.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng([seed, *path.name.encode()])
        pixels = rng.integers(0, np.iinfo(dtype).max, size, dtype, endpoint=True)
        Image.fromarray(pixels).save(path, **options)
        return pixels

    return write


@pytest.fixture(scope="session")
def write_rows():
    """The function that writes a CSV file from lists of cells."""

    def write(path, rows, delimiter=","):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="") as file:
            csv.writer(file, delimiter=delimiter).writerows(rows)
        return path

    return write


@pytest.fixture
def make_table(tmp_path, write_image, write_rows):
    """The function that makes a table of n images, two a patient, and returns its path."""

    def make(n=12, folder="source", columns=None, **options):
        root = tmp_path / folder
        rows: list[tuple] = [("path", "person", "a", "b")]
        for i in range(n):
            name = f"img/SECRETFILE{i:03d}.png"
            write_image(root / name, **options)
            rows.append((name, f"SECRETPATIENT{i // 2}", i % 2, ("", -1, 0, 1)[i % 4]))
        return write_rows(root / "labels.csv", rows)

    return make


@pytest.fixture
def run_build(tmp_path, capsys):
    """The function that runs the build in this process; returns (status, output, folder)."""

    def run(*flags, out="out"):
        folder = tmp_path / out
        status = build.main([f"--out={folder}", "--workers=1", "--short_side=16", *flags])
        captured = capsys.readouterr()
        return status, captured.out + captured.err, folder

    return run


@pytest.fixture
def table_flags():
    """Flags that fit ``make_table``; they come last so that a test can override them before."""

    def flags(table, *more):
        given = {flag.partition("=")[0] for flag in more}
        defaults = [
            "--source=table",
            f"--table={table}",
            "--observations=a,b",
            "--patient_column=person",
        ]
        return [flag for flag in defaults if flag.partition("=")[0] not in given] + list(more)

    return flags


@pytest.fixture(scope="session")
def read_records():
    """The function that reads a data set's records: split -> list of dicts, images decoded."""

    def read(folder):
        import tensorflow as tf

        from data_prep.images import decode_image

        info, records = DatasetInfo.load(folder), {}
        for shard in info.shards:
            for content in tf.data.TFRecordDataset(str(folder / shard.file)).as_numpy_iterator():
                record = verify._parse(bytes(content))
                record["pixels"] = [
                    decode_image(image, info.encoding, record["size"], info.bits)
                    for image in record["image"]
                ]
                records.setdefault(shard.split, []).append(record)
        return records

    return read
