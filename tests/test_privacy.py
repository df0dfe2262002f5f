"""Names planted everywhere in a source, looked for in every file that is made from it.

``rejects.csv`` and ``key_table.csv`` do name sources, for the data set's owner alone. The
folders that a user gives to commands (``--data_dir``, ``--run_dir``) are named where docs/data.md
says so.
"""

import dataclasses
import importlib
import json
import shlex
import shutil
import zipfile

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from medcolor_tf.commandline import command_line

pytestmark = pytest.mark.slow

# One mark per place, so that a leak tells where it comes from.
PLACES = ("FOLDER", "FILE", "EXIF", "COMMENT", "TEXT", "TIFFTAG", "CELL", "PATIENT", "TABLE")
DICOM_PLACES = ("DICOMNAME", "DICOMID", "DICOMHOSPITAL", "DICOMPRIVATE")
FOR_THE_OWNER = ("rejects.csv", "key_table.csv")
USER_FOLDER = "SECRETUSERFOLDER"
NAMING_FOLDERS = {
    ("run", "config.json"),
    ("run", "evaluation-test.json"),
    ("run", "events.out"),
    ("report", "index.html"),
    ("report", "report.md"),
}


def command(name, *arguments):
    """Runs a command as `python -m NAME` does; it must succeed."""
    assert importlib.import_module(name).main(list(arguments)) == 0, (name, arguments)


def secret(place):
    return f"SECRET{place}X"


def contents(path):
    """Yields a file's bytes, and those of the files inside it if it is a zip file (npz, keras)."""
    yield path.read_bytes()
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            yield from (archive.read(name) for name in archive.namelist())


def files_with(text, *folders):
    """Returns the files in the folders whose name or content has the text, in any UTF."""
    encoded = [text.encode(code) for code in ("utf-8", "utf-16-le", "utf-16-be")]
    return {
        path
        for folder in folders
        for path in folder.rglob("*")
        if text in str(path.relative_to(folder))
        or (path.is_file() and any(e in content for content in contents(path) for e in encoded))
    }


def draw(number):
    pixels = np.random.default_rng(number).integers(0, 200, (40, 48), np.uint8)
    if number % 2:
        pixels[::2] += 50
    return pixels


def write_picture(path, number):
    """Writes a picture of the path's format with a name in each header that the format has."""
    image = Image.fromarray(draw(number))
    if path.suffix == ".jpg":
        exif = Image.Exif()
        exif[0x010E] = secret("EXIF")
        image.save(path, exif=exif, comment=secret("COMMENT").encode(), quality=95)
    elif path.suffix == ".png":
        text = PngImagePlugin.PngInfo()
        text.add_text("Description", secret("TEXT"))
        image.save(path, pnginfo=text)
    elif path.suffix == ".tif":
        image.save(path, tiffinfo={270: secret("TIFFTAG")})
    else:
        write_dicom(path, draw(number))


def write_dicom(path, pixels):
    pydicom = pytest.importorskip("pydicom", reason="needs the extra [dicom]")
    dataset = pydicom.Dataset()
    dataset.PatientName, dataset.PatientID = secret("DICOMNAME"), secret("DICOMID")
    dataset.InstitutionName = secret("DICOMHOSPITAL")
    dataset.private_block(0x0011, "maker", create=True).add_new(1, "LO", secret("DICOMPRIVATE"))
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1"
    dataset.SOPInstanceUID = "1.2.3"
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation = 7, 0
    dataset.PixelData = pixels.tobytes()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset.save_as(path, enforce_file_format=True)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """The table of 32 images of 16 patients, one of them damaged, with names everywhere."""
    root = tmp_path_factory.mktemp("source") / secret("FOLDER")
    root.mkdir()
    lines = ["path,person,name,Edema,Fracture"]
    for i in range(32):
        path = root / f"{secret('FILE')}{i}{('.jpg', '.png', '.tif', '.dcm')[i // 2 % 4]}"
        write_picture(path, i)
        lines.append(
            f"{path.name},{secret('PATIENT')}{i // 2},{secret('CELL')}{i // 8}, {i % 2}, "
            f"{i // 2 % 2}"
        )
    broken = root / f"{secret('FILE')}broken.png"
    broken.write_bytes((root / f"{secret('FILE')}2.png").read_bytes()[:200])
    lines.append(f"{broken.name},{secret('PATIENT')}99,{secret('CELL')},1,0")
    table = root / f"{secret('TABLE')}.csv"
    table.write_text("\n".join(lines) + "\n")
    return table


@pytest.fixture(scope="module")
def results(source, tmp_path_factory, backbone_file):
    """A data set, a run with an evaluation, its report and its export; name -> folder."""
    parent = tmp_path_factory.mktemp("results") / USER_FOLDER
    parent.mkdir()
    folders = {name: parent / name for name in ("data", "run", "report", "export")}
    key = parent / "key"
    key.write_text("0123456789abcdef" * 4)
    key.chmod(0o600)
    command(
        *("data_prep.build", "--source=table", f"--table={source}", f"--out={folders['data']}"),
        *("--observations=Edema,Fracture", "--patient_column=person", "--short_side=32"),
        *("--workers=1", "--max_rejects=1", f"--id_key_file={key}", "--write_key_table"),
        *("--valid_fraction=0.25", "--test_fraction=0.25", "--study_column=name"),
        "--group_columns=cell=name",  # rare: "other"
    )
    command(
        *("medcolor_tf.train", f"--data_dir={folders['data']}", f"--run_dir={folders['run']}"),
        *("--strategy=color_module", "--colorizer=color_map", f"--backbone={backbone_file}"),
        *("--batch_size=4", "--steps=2", "--max_lr=0.01"),
        *("--checkpoint_every=1", "--evaluate=test"),
    )
    command("medcolor_tf.report", str(folders["run"]), f"--out={folders['report']}")
    command("medcolor_tf.export", f"--run_dir={folders['run']}", f"--out={folders['export']}")
    return folders


def test_the_names_are_there_to_be_found(source, results):
    """Without this, a search that finds nothing would prove nothing."""
    for place in (*PLACES, *DICOM_PLACES):
        assert files_with(secret(place), source.parent.parent), place
    for name in FOR_THE_OWNER:
        path = results["data"] / name
        assert path in files_with(secret("FILE"), results["data"])
        assert path.stat().st_mode & 0o777 == 0o600
    assert all(any(folder.iterdir()) for folder in results.values())


@pytest.mark.parametrize("place", [*PLACES, *DICOM_PLACES])
def test_no_file_tells_a_name(results, place):
    owners = {results["data"] / name for name in FOR_THE_OWNER}
    assert files_with(secret(place), *results.values()) - owners == set()


PRIVATE_FOLDER = "SECRETPRIVATEFOLDER"


@pytest.fixture(scope="module")
def private_results(source, tmp_path_factory, backbone_file):
    """As ``results`` with --private_paths, and a study whose second run starts from its first."""
    parent = tmp_path_factory.mktemp("private") / PRIVATE_FOLDER
    parent.mkdir()
    folders = {name: parent / name for name in ("data", "study", "report", "export", "evaluation")}
    images, backbone = parent / "images", parent / "backbone.keras"
    shutil.copyfile(backbone_file, backbone)
    shutil.copytree(source.parent, images)
    command(
        *("data_prep.build", "--source=table", f"--table={images / source.name}"),
        *("--observations=Edema,Fracture", "--patient_column=person", "--short_side=32"),
        *("--workers=1", "--max_rejects=1", "--valid_fraction=0.25", "--test_fraction=0.25"),
        *(f"--out={folders['data']}", "--private_paths"),
    )
    command(
        *("medcolor_tf.experiment", "--name=s", f"--data_dir={folders['data']}"),
        *(
            f"--study_dir={folders['study']}",
            "--strategies=all",
            "--colorizers=color_map",
            "--colorizer_inits=gray",
        ),
        *("--seeds=0", f"--backbones={backbone}", "--batch_size=4", "--steps=2"),
        *("--checkpoint_every=1", "--private_paths"),
    )
    run = next((folders["study"] / "runs").glob("*-all-*"))
    command("medcolor_tf.report", str(folders["study"]), f"--out={folders['report']}")
    command("medcolor_tf.export", f"--run_dir={run}", f"--out={folders['export']}")
    command(
        *("medcolor_tf.evaluate", f"--run_dir={run}", f"--data_dir={folders['data']}"),
        *(f"--out={folders['evaluation']}", "--private_paths"),
    )
    return folders


def test_private_paths_leave_no_folder_anywhere(private_results):
    assert all(any(folder.iterdir()) for folder in private_results.values())
    assert (private_results["data"] / "rejects.csv").is_file()
    assert files_with(PRIVATE_FOLDER, *private_results.values()) == set()


def test_a_private_run_resumes_and_is_compared_by_what_is_left_of_its_paths(
    private_results, capsys
):
    from medcolor_tf.commandline import parse
    from medcolor_tf.runs.config import TrainConfig

    study = private_results["study"]
    run, first = (next((study / "runs").glob(f"*-{name}-*")) for name in ("all", "color_module"))
    record = json.loads((run / "config.json").read_text())
    assert record["flags"]["init_from"] == first.name
    assert record["init_from"]["path"] == first.name
    words = shlex.split(record["command"])[3:]
    config = parse(TrainConfig, words)
    whole = dataclasses.replace(
        config, run_dir=str(run), data_dir=str(private_results["data"]), init_from=str(first)
    )
    for private in (True, False):
        again = dataclasses.replace(whole, private_paths=private)
        words = shlex.split(command_line("medcolor_tf.train", again))[3:]
        command("medcolor_tf.train", *words)
        assert "already finished" in capsys.readouterr().out
    other = dataclasses.replace(whole, init_from=str(run))
    words = shlex.split(command_line("medcolor_tf.train", other))[3:]
    assert importlib.import_module("medcolor_tf.train").main(words) == 2
    assert f"--init_from={run.name} (there: {first.name})" in capsys.readouterr().err


def test_a_report_of_runs_with_folders_can_be_private(results, tmp_path):
    command("medcolor_tf.report", str(results["run"]), f"--out={tmp_path}/r", "--private_paths")
    assert files_with(USER_FOLDER, tmp_path / "r") == set()


def test_names_of_given_folders_are_where_the_documentation_says(results):
    found = {
        (kind, path.relative_to(results[kind]).parts[0].split(".tfevents")[0])
        for kind in results
        for path in files_with(USER_FOLDER, results[kind])
    }
    assert found == NAMING_FOLDERS
