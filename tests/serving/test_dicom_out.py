"""DICOM files beside predictions: whose they are, what they refer to, and what they do not say."""

import csv
import importlib.util
from typing import Any

import numpy as np
import pytest
from PIL import Image
from serving_helpers import OBSERVATIONS, drawn_captions, encode, make_run, pixels

from medcolor_tf.files import file_sha256
from medcolor_tf.predict import main as predict_main
from medcolor_tf.runs import folder as runs
from medcolor_tf.serving import predict as predict_module
from medcolor_tf.serving.dicom_objects import LOSSY, CannotRefer, read_source

pydicom = pytest.importorskip("pydicom")
highdicom = pytest.importorskip("highdicom", reason="needs pip install 'medcolor_tf[dicom]'")

pytestmark = pytest.mark.slow
NAME = "Müller^Jörg"
DX = "1.2.840.10008.5.1.4.1.1.1.1"


def film(path, seed=0, **tags):
    """A radiograph as a hospital sends it; a tag that is None is left out."""
    made = pydicom.Dataset()
    image = pixels(48, 40, seed=seed, dtype=np.uint16) >> 4
    values = {
        "SpecificCharacterSet": "ISO_IR 100",
        "SOPClassUID": DX,
        "SOPInstanceUID": f"1.2.3.4.{seed + 1}",
        "StudyInstanceUID": "1.2.3",
        "SeriesInstanceUID": "1.2.3.4",
        "PatientName": NAME,
        "PatientID": "0815",
        "PatientBirthDate": "19500102",
        "PatientSex": "M",
        "StudyDate": "20200304",
        "StudyDescription": "Thorax für Ärzte",
        "AccessionNumber": "A7",
        "Modality": "DX",
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": image.shape[0],
        "Columns": image.shape[1],
        "BitsAllocated": 16,
        "BitsStored": 12,
        "HighBit": 11,
        "PixelRepresentation": 0,
    } | tags
    for name, value in values.items():
        if value is not None:
            setattr(made, name, value)
    made.PixelData = image.tobytes()
    made["PixelData"].VR = "OW"
    made.file_meta = pydicom.dataset.FileMetaDataset()
    made.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    if "SOPInstanceUID" not in made:
        made.file_meta.MediaStorageSOPInstanceUID = "1.2.3.99"
    made.save_as(path, enforce_file_format=True)
    return path


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dicom out of Mrs Miller") / "run"
    return make_run(folder, colorizer="color_u")  # whose heat maps have heat


@pytest.fixture(scope="module")
def predicted(run_dir, tmp_path_factory):
    """A folder of films, the rows of predict by file name, what it said, and the exit status."""
    folder = tmp_path_factory.mktemp("films")
    films = folder / "films"
    films.mkdir()
    film(films / "a.dcm", LossyImageCompression="01", BurnedInAnnotation="NO")
    film(films / "b.dcm", seed=1)
    film(films / "c.dcm", seed=2, StudyInstanceUID=None)
    film(films / "d.dcm", seed=3, PatientSex="K")
    (films / "e.png").write_bytes(encode(pixels(40, 40, seed=4), "PNG"))
    (films / "f.png").write_bytes(b"no image")
    words = [f"--run_dir={run_dir}", f"--inputs={films}", f"--out={folder / 'out.csv'}"]
    words += [f"--dicom_out={folder / 'dicom'}", "--batch_size=2"]
    assert predict_main(words) == 1
    with open(folder / "out.csv", newline="") as file:
        rows = {row["path"].rpartition("/")[2]: row for row in csv.DictReader(file)}
    return folder, rows


@pytest.fixture(scope="module")
def image(predicted):
    return pydicom.dcmread(predicted[1]["a.dcm"]["dicom"])


@pytest.fixture(scope="module")
def report(predicted):
    path = predicted[1]["a.dcm"]["dicom"].replace(".sc.dcm", ".sr.dcm")
    return highdicom.sr.srread(path)


def test_each_dicom_input_has_both_files_and_the_others_a_reason(predicted):
    folder, rows = predicted
    assert list(rows["a.dcm"])[-3:] == ["explained", "dicom", "error"]
    names = sorted(path.name for path in (folder / "dicom").iterdir())
    assert names == ["a.sc.dcm", "a.sr.dcm", "b.sc.dcm", "b.sr.dcm"]
    assert all(rows[name]["Edema"] for name in rows if name != "f.png")
    said = {name: row["warnings"].rpartition("no DICOM written: ")[2] for name, row in rows.items()}
    assert said["c.dcm"] == "no StudyInstanceUID"
    assert said["d.dcm"].startswith("its header cannot be taken over ('K' is not a valid")
    assert said["e.png"] == "not a DICOM file"
    assert [rows[f"{name}"]["dicom"] for name in ("c.dcm", "d.dcm", "e.png", "f.png")] == [""] * 4
    assert rows["f.png"]["error"]


def test_both_are_of_the_sources_patient_and_study(image, report):
    for made in (image, report):
        assert str(made.PatientName) == NAME
        assert (made.PatientID, made.PatientBirthDate, made.PatientSex) == ("0815", "19500102", "M")
        assert (made.StudyInstanceUID, made.StudyDate) == ("1.2.3", "20200304")
        assert made.StudyDescription == "Thorax für Ärzte"
        assert made.AccessionNumber == "A7"
        assert made.SOPInstanceUID != "1.2.3.4.1"
        assert made.SeriesInstanceUID != "1.2.3.4"
        assert pydicom.uid.UID(made.SOPInstanceUID).is_valid
    assert image.SeriesInstanceUID != report.SeriesInstanceUID
    assert (image.Modality, report.Modality) == ("OT", "SR")


def test_instances_of_a_source_series_share_a_series(predicted, image):
    other = pydicom.dcmread(predicted[1]["b.dcm"]["dicom"])
    assert other.SeriesInstanceUID == image.SeriesInstanceUID
    assert [image.InstanceNumber, other.InstanceNumber] == [1, 2]
    assert other.SOPInstanceUID != image.SOPInstanceUID


def test_the_image_is_derived_and_says_so_in_its_pixels(image, predicted, run_dir):
    assert image.SOPClassUID.name == "Secondary Capture Image Storage"
    assert list(image.ImageType[:2]) == ["DERIVED", "SECONDARY"]
    (source,) = image.SourceImageSequence
    assert (source.ReferencedSOPClassUID, source.ReferencedSOPInstanceUID) == (DX, "1.2.3.4.1")
    (series,) = image.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == "1.2.3.4"
    assert "Not for diagnosis" in image.DerivationDescription
    assert (image.LossyImageCompression, image.BurnedInAnnotation) == ("01", "NO")
    assert not set(LOSSY[1:]) & set(image.dir())
    shown = image.pixel_array
    assert (shown.dtype, shown.shape[2]) == (np.uint8, 3)
    # Yellow above, then what --explain draws of the same film.
    assert (shown[0] == (255, 255, 0)).all()
    folder, _ = predicted
    words = [f"--run_dir={run_dir}", f"--inputs={folder / 'films' / 'a.dcm'}"]
    words += [f"--out={folder / 'b.csv'}", f"--explain={folder / 'explained'}"]
    assert predict_main(words) == 0
    explained = np.asarray(Image.open(folder / "explained" / "a.png"))
    banner = shown.shape[0] - explained.shape[0]
    assert np.mean(np.abs(shown[banner:].astype(int) - explained) > 2) < 1e-3
    assert (shown[:banner] == 0).all(-1).any()  # letters


def test_the_report_has_the_probabilities_and_claims_nothing(report, predicted, run_dir):
    (group,) = report.content.get_image_measurement_groups()
    measured = {m.name.meaning: m for m in group.get_measurements()}
    row = predicted[1]["a.dcm"]
    assert set(measured) == {
        "Model probability of Edema",
        "Model probability of Pleural Effusion",
    }
    for name in ("Edema", "Pleural Effusion"):
        one = measured[f"Model probability of {name}"]
        assert one.value == pytest.approx(float(row[name]), abs=1e-6)
        assert (one.unit.value, one.unit.scheme_designator) == ("1", "UCUM")
    assert group.finding_type is None
    assert group.get_qualitative_evaluations() == []
    assert group.source_images[0].referenced_sop_instance_uid == "1.2.3.4.1"
    assert (report.VerificationFlag, report.PreliminaryFlag) == ("UNVERIFIED", "PRELIMINARY")
    text = str(report)
    assert file_sha256(run_dir / runs.BEST) in text
    assert "Miller" not in text
    comment = pydicom.sr.codedict.codes.DCM.Comment
    (item,) = highdicom.sr.utils.find_content_items(report, name=comment)
    assert "Not for diagnosis" in item.TextValue


def test_what_is_not_calibrated_is_not_called_so(run_dir, tmp_path, monkeypatch):
    film(tmp_path / "a.dcm")
    make: Any = predict_module.DicomOut
    monkeypatch.setattr(
        predict_module,
        "DicomOut",
        lambda *args: make(*args[:4], lambda logits: logits * 0 + [np.nan, 0.25]),
    )
    captions = drawn_captions(monkeypatch)
    words = [f"--run_dir={run_dir}", f"--inputs={tmp_path / 'a.dcm'}", f"--out={tmp_path / 'o'}"]
    assert predict_main([*words, f"--dicom_out={tmp_path / 'dicom'}"]) == 0
    report = highdicom.sr.srread(tmp_path / "dicom" / "a.sr.dcm")
    (group,) = report.content.get_image_measurement_groups()
    names = [m.name.meaning for m in group.get_measurements()]
    assert [name for name in names if "Calibrated" in name] == [
        f"Calibrated model probability of {OBSERVATIONS[1]}"
    ]
    assert ["calibrated" in caption for caption in captions] == [False, True]


def test_calibrated_probabilities_are_reported_beside_the_others(run_dir, tmp_path, monkeypatch):
    film(tmp_path / "a.dcm")
    make: Any = predict_module.DicomOut
    monkeypatch.setattr(
        predict_module, "DicomOut", lambda *args: make(*args[:4], lambda logits: logits * 0 + 0.25)
    )
    captions = drawn_captions(monkeypatch)
    words = [f"--run_dir={run_dir}", f"--inputs={tmp_path / 'a.dcm'}", f"--out={tmp_path / 'o'}"]
    assert predict_main([*words, f"--dicom_out={tmp_path / 'dicom'}"]) == 0
    report = highdicom.sr.srread(tmp_path / "dicom" / "a.sr.dcm")
    (group,) = report.content.get_image_measurement_groups()
    values = {m.name.meaning: m.value for m in group.get_measurements()}
    assert values["Calibrated model probability of Edema"] == 0.25
    assert values["Model probability of Edema"] != 0.25
    assert len(values) == 4
    assert len(captions) == 2
    assert all(caption.endswith(", calibrated 25.0 %") for caption in captions)


def test_what_cannot_be_met_is_refused_before_a_row_is_written(
    run_dir, tmp_path, monkeypatch, capsys
):
    (tmp_path / "a.png").write_bytes(encode(pixels(32, 32), "PNG"))
    words = [f"--run_dir={run_dir}", f"--inputs={tmp_path}", f"--out={tmp_path / 'out.csv'}"]
    assert predict_main([*words, f"--dicom_out={tmp_path / 'dicom'}"]) == 2
    assert "none of the 1 inputs is a DICOM file" in capsys.readouterr().err
    film(tmp_path / "b.dcm")
    report = tmp_path / "dicom" / "b.sr.dcm"
    report.parent.mkdir()
    report.write_text("another command's")
    of_one = [words[0], f"--inputs={tmp_path / 'b.dcm'}", words[2]]
    assert predict_main([*of_one, f"--dicom_out={tmp_path / 'dicom'}"]) == 2
    error = capsys.readouterr().err
    assert f"{report} exists and would be written over; expected a new or empty" in error
    assert report.read_text() == "another command's"
    report.unlink()
    report.parent.rmdir()
    assert predict_main([*words, f"--dicom_out={tmp_path}"]) == 2
    assert "is a folder of other images" in capsys.readouterr().err
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "highdicom" else find(name)
    )
    assert predict_main([*words, f"--dicom_out={tmp_path / 'dicom'}"]) == 2
    error = capsys.readouterr().err
    assert "--dicom_out needs highdicom" in error
    assert "pip install 'medcolor_tf[dicom]'" in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.dcm"]


def test_real_films_have_files_too(shared, tmp_path):
    """Of every film whose pixels are read; the patient's number is the source's."""
    films = sorted((shared / "dicom" / "dicom").glob("*.dcm"))
    assert len(films) > 10
    for path in films:
        source = read_source(path)
        assert source.PatientID == pydicom.dcmread(path, stop_before_pixels=True).PatientID


def test_a_source_without_an_identifier_is_named(tmp_path):
    with pytest.raises(CannotRefer, match="no SeriesInstanceUID"):
        read_source(film(tmp_path / "a.dcm", SeriesInstanceUID=None))
    path = film(tmp_path / "b.dcm")
    made = pydicom.dcmread(path)
    with pytest.warns(UserWarning, match="Invalid value for VR UI"):
        made.SeriesInstanceUID = "x.1"
    made.save_as(path)
    with pytest.raises(CannotRefer, match=r"SeriesInstanceUID is no UID: 'x\.1'"):
        read_source(path)
