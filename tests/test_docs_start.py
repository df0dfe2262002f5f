"""README and the pages "from zero to results": their commands run, on small made-up downloads.

Flags are added that make it small; files and folders are those of the pages. The pages follow one
another in one folder, since one page's run starts from another's.
"""

import csv
import importlib
from pathlib import Path

import documented
import numpy as np
import pytest
from documented import ROOT
from PIL import Image

from data_prep.sources import chexpert

pytestmark = pytest.mark.slow
PAGES = ("README", "start-chexpert", "start-chestxray14", "start-mura", "start-csv", "start-dicom")
TRAIN = (
    *("--epochs=0", "--steps=2", "--checkpoint_every=2", "--batch_size=4", "--max_lr=0.01"),
    *("--augment_probability=0", "--cache=none"),
)
SMALL = {
    "data_prep.build": ("--short_side=16", "--workers=1"),
    "data_prep.verify": ("--workers=1",),
    "medcolor_tf.experiment": ("--batch_size=4",),
    "medcolor_tf.report": ("--bootstrap_samples=10",),
}
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


def make_labels(folder: Path) -> None:
    """The table of README, with the column for paths that its flag file names."""
    rows = [("file", "patient", "Edema")]
    for n in range(40):
        rows.append((f"some/folder/{n}.png", str(n // 2), str(n // 2 % 2)))
        write_film(folder / rows[-1][0], 5000 + n)
    write_table(folder / "labels.csv", rows)


def section(page: str, title: str) -> str:
    """Returns a page's part below the heading of that title."""
    return page.partition(f"## {title}\n")[2].partition("\n## ")[0]


def make_dicom(folder: Path) -> None:
    """A few films of a made-up hospital, and labels by accession number."""
    pydicom = pytest.importorskip("pydicom")
    rows = [("accession", "Edema")]
    for n in PATIENTS:
        film = pydicom.Dataset()
        film.SOPClassUID, film.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.1", f"1.2.{n}"
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


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder as the pages suppose it: downloads below it, under the names they have there."""
    place = tmp_path_factory.mktemp("start")
    make_chexpert(place / "CheXpert-v1.0-small")
    make_chestxray14(place / "ChestX-ray14")
    make_mura(place / "MURA-v1.1")
    return place


def smaller(found: documented.Command, backbone: str) -> list[str]:
    """Returns a command's arguments with those behind them that make it small."""
    if any(word.startswith("--explain=") for word in found.arguments):
        return [*found.arguments, "--explain_observations=Edema"]
    if found.module != "medcolor_tf.train":
        return [*found.arguments, *SMALL.get(found.module, ())]
    own = () if "--flagfile=stage2.flags" in found.arguments else (f"--backbone={backbone}",)
    if any("stage1.flags" in word for word in found.arguments):
        own = (*own, "--colorizer=color_map")
    if any("last_layer.flags" in word for word in found.arguments):
        own = ()
    return [*found.arguments, *TRAIN, *own]


@pytest.mark.parametrize("name", PAGES)
def test_page(name, folder, backbone_file, monkeypatch, capsys):
    if name == "README":  # its data set has the name of another page's
        folder = folder / name
        folder.mkdir()
        page = section((ROOT / "README.md").read_text("utf-8"), "Your data, in five commands")
        make_labels(folder)
    else:
        page = (ROOT / "docs" / f"{name}.md").read_text("utf-8")
    if name == "start-csv":
        make_csv(folder / "films")
    if name == "start-dicom":
        (folder / "films").rename(folder / "films_of_the_table")
        make_dicom(folder / "films")
    monkeypatch.chdir(folder)
    for program in documented.blocks(page, "python"):
        exec(compile(program, name, "exec"), {})
    ran = []
    for block in documented.blocks(page):
        for line in documented.lines(block):
            found = documented.command(line, name)
            if line == "source .venv/bin/activate":
                continue
            assert found is not None, line
            main = importlib.import_module(found.module).main
            arguments = smaller(found, backbone_file)
            status = main(arguments)
            output = capsys.readouterr()
            assert status == 0, (found.module, arguments, output.out, output.err)
            ran.append(found.module)
    assert {"data_prep.build", "medcolor_tf.train", "medcolor_tf.predict"} <= {*ran}
    (predictions,) = [word for word in found_outputs(page) if word.endswith(".csv")]
    with open(predictions, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert rows
    assert all(row["error"] == "" for row in rows)


def found_outputs(page: str) -> list[str]:
    """Returns the values of --out of a page's commands."""
    words = " ".join(documented.blocks(page)).split()
    return [word.removeprefix("--out=") for word in words if word.startswith("--out=")]


def test_every_page_of_the_kind_is_run():
    pages = {page.stem for page in (ROOT / "docs").glob("start-*.md")}
    assert pages == {*PAGES[1:]}
