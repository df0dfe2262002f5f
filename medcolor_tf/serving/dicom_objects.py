"""DICOM objects of a prediction: a Secondary Capture and a Structured Report, by highdicom.

Both belong to the source's patient and study, in series of their own, and refer to the source. The
report is a TID 1500 Measurement Report with a number per observation, whose name says that it is a
probability which a model gave: no finding is coded, and nothing says that one is present.
"""

import contextlib
import hashlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medcolor_tf import __version__

MAKER = "medcolor_tf"
CODING_SCHEME = "99MEDCOLOR"
NOTICE = "Not for diagnosis. Research software, not a medical device."
SC_SERIES_NUMBER, SR_SERIES_NUMBER = 9001, 9002
# Without these a source cannot be referred to.
NEEDED = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
# They may be empty, but must be there (type 2).
MAY_BE_EMPTY = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID"),
    *("StudyDate", "StudyTime", "ReferringPhysicianName"),
)
LOSSY = ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod")
MEANING_LENGTH = 64


class CannotRefer(ValueError):
    """A source of which no object can be made; the message is a reason without the file's name."""


@dataclass(frozen=True)
class Algorithm:
    """What computed the numbers.

    Attributes:
        name: of the model: strategy or run.
        digest: SHA-256 of the weights, hexadecimal.
        description: of the model in words.
    """

    name: str
    digest: str
    description: str

    @property
    def uid(self) -> str:
        """A UID that these weights alone have."""
        return f"2.25.{int(self.digest[:32], 16)}"


@dataclass(frozen=True)
class Place:
    """Where a pair of objects goes.

    Attributes:
        image_series, report_series: UIDs of the two series.
        number: of the instance in either, from 1 on.
    """

    image_series: str
    report_series: str
    number: int


def read_source(path: Path) -> Any:
    """Reads the header of a DICOM file, without its pixels, with text as Unicode.

    Raises:
        CannotRefer: an identifier is missing or is none, or a text cannot be decoded.
    """
    import pydicom

    with _taking_over():
        source = pydicom.dcmread(path, force=True, stop_before_pixels=True)
        for name in NEEDED:
            _check_identifier(name, source.get(name))
        source.decode()
        source.SpecificCharacterSet = "ISO_IR 192"
        for name in MAY_BE_EMPTY:
            if name not in source:
                setattr(source, name, "")
        return source


def _check_identifier(name: str, value: Any) -> None:
    from pydicom.uid import UID

    if not value:
        raise CannotRefer(f"no {name}")
    if not UID(str(value)).is_valid:
        raise CannotRefer(f"{name} is no UID: {str(value)[:70]!r}")


@contextlib.contextmanager
def _taking_over() -> Iterator[None]:
    """Turns what libraries raise of a header into CannotRefer; odd but allowed values pass."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # names without "^" and the like: copied as they are
            yield
    except CannotRefer:
        raise
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise CannotRefer(f"its header cannot be taken over ({error})") from error


def make_objects(
    source: Any,
    picture: np.ndarray,
    measurements: Mapping[str, float],
    algorithm: Algorithm,
    place: Place,
) -> tuple[Any, Any]:
    """Makes both objects of an image.

    Args:
        source: of :func:`read_source`.
        picture: (H, W, 3) uint8, with what has to be burned in.
        measurements: name, such as "Probability of Edema", to a number.
        algorithm: that gave the numbers.
        place: series and number of both.

    Returns:
        (Secondary Capture, Structured Report), pydicom datasets to be saved.

    Raises:
        CannotRefer: the source's header has a value that DICOM does not allow.
    """
    with _taking_over():
        image = _secondary_capture(source, picture, algorithm, place)
        return image, _report(source, measurements, algorithm, place)


def _described(algorithm: Algorithm) -> dict[str, Any]:
    return {
        "manufacturer": MAKER,
        "manufacturer_model_name": algorithm.name[:MEANING_LENGTH],
        "software_versions": __version__,
        "device_serial_number": algorithm.digest[:MEANING_LENGTH],
    }


def _secondary_capture(source, picture: np.ndarray, algorithm: Algorithm, place: Place) -> Any:
    from highdicom.sc import SCImage
    from pydicom.uid import generate_uid

    image: Any = SCImage(
        pixel_array=picture,
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        patient_orientation=("L", "F"),
        study_instance_uid=source.StudyInstanceUID,
        series_instance_uid=place.image_series,
        series_number=SC_SERIES_NUMBER,
        sop_instance_uid=generate_uid(prefix=None),
        instance_number=place.number,
        series_description=f"{MAKER} heat maps, not for diagnosis",
        specific_character_set=source.SpecificCharacterSet,
        **_described(algorithm),
    )
    image.copy_patient_and_study_information(source)
    # Several panels with captions: no direction of the picture is one of the patient.
    image.PatientOrientation = ""
    image.ConversionType = "WSD"
    image.DerivationDescription = (
        f"{algorithm.description} Panels: the film as the model saw it (resized, centre square), "
        f"colorized, and heat maps of a classifier over it. {NOTICE}"
    )
    image.ImageComments = NOTICE
    image.SourceImageSequence = [_reference(source, purpose=True)]
    image.ReferencedSeriesSequence = [_series_reference(source)]
    # Whether a name or date can be read in the picture is what it was in the film.
    for name in ("BurnedInAnnotation", *LOSSY):
        if name in source:
            image[name] = source[name]
    return image


def _reference(source, purpose: bool = False):
    from pydicom.dataset import Dataset
    from pydicom.sr.codedict import codes

    item = Dataset()
    item.ReferencedSOPClassUID = source.SOPClassUID
    item.ReferencedSOPInstanceUID = source.SOPInstanceUID
    if purpose:
        item.PurposeOfReferenceCodeSequence = [
            _code(*codes.DCM.SourceImageForImageProcessingOperation[:3])
        ]
    return item


def _series_reference(source):
    from pydicom.dataset import Dataset

    item = Dataset()
    item.SeriesInstanceUID = source.SeriesInstanceUID
    item.ReferencedInstanceSequence = [_reference(source)]
    return item


def _code(value: str, scheme: str, meaning: str):
    from highdicom.sr import CodedConcept

    return CodedConcept(value, scheme, meaning)


def _named(name: str):
    """Returns the concept of a measurement's name; the same name has the same code everywhere."""
    digest = hashlib.sha256(name.encode()).hexdigest()
    return _code(f"P{digest[:15]}".upper(), CODING_SCHEME, name[:MEANING_LENGTH])


def _report(source, measurements: Mapping[str, float], algorithm: Algorithm, place: Place) -> Any:
    from highdicom import sr
    from highdicom.coding_schemes import CodingSchemeIdentificationItem
    from pydicom.sr.codedict import codes
    from pydicom.uid import generate_uid

    group = sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(
            uid=generate_uid(prefix=None), identifier=f"{MAKER} classifier output"
        ),
        algorithm_id=sr.AlgorithmIdentification(
            name=algorithm.name,
            version=__version__,
            parameters=[algorithm.description, f"weights SHA-256 {algorithm.digest}"],
            manufacturer=MAKER,
        ),
        measurements=[
            sr.Measurement(
                name=_named(name),
                value=round(float(number), 7),
                unit=_code("1", "UCUM", "no units"),
            )
            for name, number in measurements.items()
        ],
        source_images=[sr.SourceImageForMeasurementGroup.from_source_image(source)],
    )
    content = sr.MeasurementReport(
        observation_context=_observer(algorithm),
        procedure_reported=codes.cid100.ImagingProcedure,
        imaging_measurements=[group],
    )
    content[0].ContentSequence.append(
        sr.TextContentItem(
            name=codes.DCM.Comment,
            value=f"{NOTICE} Numbers are outputs of a statistical model for one image; no finding "
            "is claimed to be present or absent.",
            relationship_type="CONTAINS",
        )
    )
    scheme = CodingSchemeIdentificationItem(
        designator=CODING_SCHEME,
        name=f"{MAKER} measurements",
        responsible_organization=MAKER,
    )
    return sr.ComprehensiveSR(
        evidence=[source],
        content=content,
        series_instance_uid=place.report_series,
        series_number=SR_SERIES_NUMBER,
        sop_instance_uid=generate_uid(prefix=None),
        instance_number=place.number,
        is_complete=True,
        series_description=f"{MAKER} probabilities, not for diagnosis",
        coding_schemes=[scheme],
        **_described(algorithm),
    )


def _observer(algorithm: Algorithm):
    from highdicom import sr
    from pydicom.sr.codedict import codes

    return sr.ObservationContext(
        observer_device_context=sr.ObserverContext(
            observer_type=codes.DCM.Device,
            observer_identifying_attributes=sr.DeviceObserverIdentifyingAttributes(
                uid=algorithm.uid,
                name=MAKER,
                manufacturer_name=MAKER,
                model_name=algorithm.name,
                serial_number=algorithm.digest,
            ),
        )
    )


def probability_names(observations: Sequence[str], calibrated: bool = False) -> list[str]:
    """Returns what the report calls the probabilities of observations."""
    kind = "Calibrated model probability" if calibrated else "Model probability"
    return [f"{kind} of {name}" for name in observations]
