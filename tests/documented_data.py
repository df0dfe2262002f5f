"""Small made-up data under the names that the pages suppose: downloads, tables, films, files.

Every ``make_NAME`` writes one such file or folder, to the path that it is given.
"""

import contextlib
import csv
from pathlib import Path

import documented
import numpy as np
import pytest
from documented import ROOT
from PIL import Image
from torch_files import torch_save

from data_prep import build
from data_prep.sources import chexpert
from medcolor_tf import predict
from medcolor_tf.models import build_colorizer
from medcolor_tf.models.torch_weights import torch_state

PATIENTS = range(1, 21)


def write_film(path: Path, number: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 256, (16, 20), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def write_table(path: Path, rows) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


def make_chexpert(root: Path) -> None:
    """Two films of each patient, the findings by turns; uncertain and blank cells among them."""
    for split, patients in (("train", PATIENTS), ("valid", range(64541, 64545))):
        rows: list[tuple] = [("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *chexpert.FOURTEEN)]
        for patient in patients:
            for view in ("view1_frontal", "view2_lateral"):
                path = f"{split}/patient{patient:05d}/study1/{view}.jpg"
                write_film(root / path, 2 * patient + (view[4] == "2"))
                cells = [("1.0", "0.0", "-1.0", "")[(patient + n) % 4] for n in range(14)]
                kind = "Frontal" if view.endswith("frontal") else "Lateral"
                rows.append((f"{root.name}/{path}", "Female", "50", kind, "AP", *cells))
        write_table(root / f"{split}.csv", rows)


def make_chestxray14(root: Path) -> None:
    names = []
    rows = [("Image Index", "Finding Labels", "Follow-up #", "Patient ID", "Patient Age",
             "Patient Gender", "View Position")]  # fmt: skip
    for patient in PATIENTS:
        names.append(f"{patient:08d}_000.png")
        write_film(root / "images_001" / "images" / names[-1], 1000 + patient)
        finding = ("No Finding", "Effusion|Edema", "Atelectasis|Cardiomegaly")[patient % 3]
        rows.append((names[-1], finding, "0", str(patient), "58", "M", "PA"))
    write_table(root / "Data_Entry_2017.csv", rows)
    (root / "train_val_list.txt").write_text("\n".join(names[:-4]) + "\n")
    (root / "test_list.txt").write_text("\n".join(names[-4:]) + "\n")


def make_mura(root: Path) -> None:
    for split, patients in (("train", PATIENTS), ("valid", range(11185, 11189))):
        paths = []
        for patient in patients:
            label = ("negative", "positive")[patient % 2]
            study = f"{split}/XR_SHOULDER/patient{patient:05d}/study1_{label}/image1.png"
            write_film(root / study, 2000 + patient)
            paths.append(f"{root.name}/{study}")
        (root / f"{split}_image_paths.csv").write_text("\n".join(paths) + "\n")


def make_csv(folder: Path) -> None:
    """The table that the page shows, with more rows and its images."""
    page = (ROOT / "docs" / "start-csv.md").read_text("utf-8")
    table = documented.blocks(page, "text")[0].splitlines()
    rows = [line.split(",") for line in table]
    for n in range(4, 41):
        labels = (str(n % 2), str(n // 2 % 2), ("0", "1", "")[n % 3])
        rows.append([f"images/{n}.jpg", str(100 + n // 2), *labels])
    for n, row in enumerate(rows[1:]):
        write_film(folder / row[0], 3000 + n)
    write_table(folder / "labels.csv", rows)


def make_labels(table: Path) -> None:
    """README's table, with the column for paths that its flag file names; and its films."""
    rows = [("file", "patient", "Edema")]
    for n in range(80):
        rows.append((f"some/folder/{n}.png", str(n // 2), str(n % 2)))
        write_film(table.parent / rows[-1][0], 5000 + n)
    write_table(table, rows)


def make_films(folder: Path) -> None:
    for n in range(3):
        write_film(folder / f"{n}.png", 6000 + n)


def make_film(path: Path) -> None:
    write_film(path, 6000)


def make_list(table: Path) -> None:
    """A table for predict: two films of an examination each."""
    rows = [("path", "exam")]
    for n in range(4):
        rows.append((f"listed/{n}.png", f"exam {n // 2}"))
        write_film(table.parent / rows[-1][0], 7000 + n)
    write_table(table, rows)


def make_labelled_films(table: Path, path: str, column: str) -> None:
    """A table of 40 films with one label, two films of a patient."""
    rows = [(path, "patient_id", column)]
    for n in range(40):
        rows.append((f"images/{n}.png", str(n // 2), str(n % 2)))
        write_film(table.parent / rows[-1][0], 8000 + n)
    write_table(table, rows)


def make_other_parts(out: Path) -> None:
    """Of eight parts of a CheXpert data set all but the second, under the key in the folder."""
    with contextlib.chdir(out.parents[1]):
        Path("key").write_bytes(bytes(range(32)))
        for part in (1, 3, 4, 5, 6, 7, 8):
            words = [f"--shard={part}/8", "--id_key_file=key", f"--out={out}", "--workers=1"]
            words += ["--data_root=CheXpert-v1.0-small", "--short_side=16"]
            assert build.main(["--flagfile=prep_chexpert.flags", *words]) == 0


def make_our_hospital(out: Path) -> None:
    """A data set whose labels are mostly what the run beside it, runs/stage2, says of its films."""
    folder = out.parents[1]
    films = folder / "hospital"
    for n in range(60):
        write_film(films / f"{n:02}.png", 9000 + n)
    with contextlib.chdir(folder):
        words = ["--run_dir=runs/stage2", f"--inputs={films}", f"--out={films / 'answers.csv'}"]
        assert predict.main(words) == 0
        with (films / "answers.csv").open(newline="", encoding="utf-8") as file:
            answers = [float(row["Edema"]) for row in csv.DictReader(file)]
        positive = np.array(answers) > np.median(answers)
        positive[::7] ^= True
        rows = [(f"{n:02}.png", str(n), str(int(label))) for n, label in enumerate(positive)]
        write_table(films / "labels.csv", [("file", "patient_id", "Edema"), *rows])
        words = [f"--table={films / 'labels.csv'}", "--observations=Edema", f"--out={out}"]
        words += ["--short_side=16", "--workers=1"]
        assert build.main(["--flagfile=prep_table.flags", *words]) == 0


def make_theta(path: Path) -> None:
    """A PyTorch checkpoint of T alone under the authors' names."""
    state = torch_state(build_colorizer("color_u", seed=3))
    torch_save({f"deco.{name}": array for name, array in state.items()}, path)


def make_dicom(folder: Path, count: int = 20) -> None:
    """A few films of a made-up hospital, and labels by accession number."""
    pydicom = pytest.importorskip("pydicom")
    rows = [("accession", "Edema")]
    for n in range(1, count + 1):
        film = pydicom.Dataset()
        film.SOPClassUID, film.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.1", f"1.2.{n}"
        film.StudyInstanceUID, film.SeriesInstanceUID = f"1.3.{n}", f"1.4.{n}"
        film.Modality, film.PatientID, film.AccessionNumber = "CR", f"P{n // 2}", f"A{n}"
        film.Rows, film.Columns = 16, 20
        film.SamplesPerPixel, film.PhotometricInterpretation = 1, "MONOCHROME2"
        film.BitsAllocated, film.BitsStored, film.HighBit = 16, 12, 11
        film.PixelRepresentation = 0
        pixels = np.random.default_rng(4000 + n).integers(0, 4096, (16, 20), np.uint16)
        film.PixelData = pixels.tobytes()
        film["PixelData"].VR = "OW"
        film.file_meta = pydicom.dataset.FileMetaDataset()
        film.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        (folder / f"study{n}").mkdir(parents=True)
        film.save_as(folder / f"study{n}" / "image.dcm", enforce_file_format=True)
        rows.append((f"A{n}", str(n % 2)))
    write_table(folder.parent / "labels.csv", rows)
