"""Says what this machine offers: ``python -m medcolor_tf.doctor``, for a bug report."""

import importlib.metadata
import os
import platform
import re
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from medcolor_tf import __version__, commandline
from medcolor_tf.commandline import option

DESCRIPTION = """
Prints what a bug report should say: versions of the program and its packages, devices that compute,
memory, decoders of DICOM files, settings of the environment, and whether the hub can be reached.
It writes nothing, and shows no user name, no host name and no path. Lines that begin with
"problem:" say what to do; the exit status is 1 where there is one.

  python -m medcolor_tf.doctor
"""
PACKAGE = "medcolor_tf"
HUB = ("huggingface.co", 443)
SECONDS = 5.0
# What changes how the program computes or where it looks; of proxies only that one is set.
SETTINGS = re.compile(r"(TF|XLA|KERAS|CUDA|NVIDIA|OMP|MKL|ONEDNN|JAX|HF_HUB|MEDCOLOR)_\w+")
PROXIES = re.compile(r"(https?|all)_proxy", re.IGNORECASE)
SECRET = re.compile(r"TOKEN|KEY|SECRET|PASSWORD|CREDENTIAL")


@dataclass(frozen=True)
class DoctorConfig:
    """Options of ``python -m medcolor_tf.doctor``."""

    offline: bool = option(False, f"Do not look whether {HUB[0]} can be reached.")


@dataclass
class Report:
    """Lines that are printed, in sections, and what is wrong.

    Attributes:
        problems: sentences that say what to do.
    """

    problems: list[str] = field(default_factory=list)

    def section(self, title: str, lines: Iterator[str]) -> None:
        """Prints a section; one that breaks is a problem, and the others are still printed."""
        print(f"\n{title}:")
        try:
            for line in lines:
                print(f"  {line}", flush=True)
        except Exception as error:  # the point of the command is to say what is broken
            self.problem(f"{title.lower()}: {type(error).__name__}: {error}")

    def problem(self, text: str) -> None:
        """Notes and prints what is wrong."""
        self.problems.append(without_home(text))
        print(f"  problem: {self.problems[-1]}")


def examine(config: DoctorConfig) -> int:
    """Prints all sections; returns 0, or 1 where something is wrong."""
    print(f"{PACKAGE} {__version__}")
    report = Report()
    report.section("Machine", machine())
    report.section("Packages", packages(report))
    report.section("Devices", devices(report))
    report.section("DICOM", decoders(report))
    report.section("Environment", environment())
    if not config.offline:
        report.section("Network", network())
    count = len(report.problems)
    print(f"\n{f'{count} problem' + 's' * (count > 1) if count else 'all is well'}")
    return 1 if count else 0


def machine() -> Iterator[str]:
    """Yields the system, processors, memory and disk."""
    yield f"Python {platform.python_version()} on {platform.platform()}"
    if hasattr(os, "sched_getaffinity"):
        yield f"{len(os.sched_getaffinity(0))} of {os.cpu_count()} processors may be used"
    else:
        yield f"{os.cpu_count()} processors"
    disk = shutil.disk_usage(tempfile.gettempdir())
    yield f"free on the disk of temporary files: {_gigabytes(disk.free)}"


def packages(report: Report) -> Iterator[str]:
    """Yields the installed version of each package that the program asks for."""
    from packaging.requirements import Requirement

    try:
        required = importlib.metadata.requires(PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        report.problem(f"{PACKAGE} is not installed, only its files are here: pip install .")
        return
    missing: dict[str, list[str]] = {}
    for requirement in map(Requirement, required):
        extra = _extra(str(requirement.marker or ""))
        if requirement.name == PACKAGE or not _applies(requirement, extra):
            continue
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            missing.setdefault(extra, []).append(requirement.name)
            continue
        yield f"{requirement.name} {version}" + (f" [{extra}]" if extra else "")
        if not requirement.specifier.contains(version, prereleases=True):
            report.problem(
                f"{requirement.name} {version}, expected {requirement.specifier}: "
                f"pip install '{requirement.name}{requirement.specifier}'"
            )
    for extra, names in missing.items():
        if extra:
            yield f"without [{extra}] ({', '.join(names)}): pip install '{PACKAGE}[{extra}]'"
        else:
            report.problem(f"{', '.join(names)} missing: pip install {' '.join(names)}")
    if _installed("tensorflow-addons"):
        report.problem(
            "tensorflow-addons is installed, which cannot be imported beside this TensorFlow and "
            "is not needed: pip uninstall tensorflow-addons"
        )


def devices(report: Report) -> Iterator[str]:
    """Yields what computes, after a convolution on each device, and the memory that is free."""
    tf = commandline.import_tensorflow()
    import keras

    from medcolor_tf.parallel import runtime

    policy = keras.config.dtype_policy().name
    yield f"Keras computes with {keras.backend.backend()}, precision {policy}"
    onednn = os.environ.get("TF_ENABLE_ONEDNN_OPTS", "not set")
    yield f"oneDNN: TF_ENABLE_ONEDNN_OPTS={onednn}"
    yield f"free memory: {_gigabytes(runtime.available_memory())}"
    found = tf.config.list_physical_devices()
    for device in found:
        name = tf.config.experimental.get_device_details(device).get("device_name", "")
        yield f"{device.name.removeprefix('/physical_device:')} {name}".rstrip()
    with tf.device("/GPU:0" if any(d.device_type == "GPU" for d in found) else "/CPU:0"):
        result = tf.nn.conv2d(tf.ones((1, 8, 8, 3)), tf.ones((3, 3, 3, 4)), 1, "VALID")
    if float(tf.reduce_max(tf.abs(result - 27.0))) > 1e-3:
        report.problem(f"a convolution of ones gave {float(result[0, 0, 0, 0])}, expected 27")
    doubled = tf.function(lambda x: x + x, jit_compile=True)(tf.constant(3.0))
    yield f"XLA: {'works' if float(doubled) == 6 else f'3 + 3 gave {float(doubled)}'}"
    if shutil.which("nvidia-smi") and all(d.device_type != "GPU" for d in found):
        report.problem(
            "this machine has an NVIDIA driver but TensorFlow finds no GPU: "
            "pip install 'tensorflow[and-cuda]'"
        )


def decoders(report: Report) -> Iterator[str]:
    """Yields which compressed DICOM files can be read."""
    if not _installed("pydicom"):
        yield f"DICOM files cannot be read: pip install '{PACKAGE}[dicom]'"
        return
    from pydicom import uid
    from pydicom.pixels.decoders.base import get_decoder

    for syntax in (
        *(uid.RLELossless, uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit, uid.JPEGLossless),
        *(uid.JPEGLosslessSV1, uid.JPEGLSLossless, uid.JPEGLSNearLossless),
        *(uid.JPEG2000Lossless, uid.JPEG2000),
    ):
        can = get_decoder(syntax).is_available
        bits = " (of 8 bits, not of 12)" if syntax == uid.JPEGExtended12Bit else ""
        yield f"{syntax.name}: {f'yes{bits}' if can else 'no'}"
        if not can:
            report.problem(f"{syntax.name} cannot be decoded: pip install '{PACKAGE}[dicom]'")


def environment() -> Iterator[str]:
    """Yields variables that change what the program does; no secret and no path."""
    nothing = True
    for name, value in sorted(os.environ.items()):
        if PROXIES.fullmatch(name) or (SETTINGS.fullmatch(name) and SECRET.search(name)):
            nothing = False
            yield f"{name} is set"
        elif SETTINGS.fullmatch(name):
            nothing = False
            yield f"{name}={'(a path)' if os.sep in value else value}"
    if nothing:
        yield "nothing is set"


def network() -> Iterator[str]:
    """Yields whether the hub can be reached; that it cannot is no problem of the program."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        yield f"HF_HUB_OFFLINE: {HUB[0]} is not asked"
        return
    try:
        with socket.create_connection(HUB, SECONDS):
            yield f"{HUB[0]} can be reached"
    except OSError as error:
        yield f"{HUB[0]} cannot be reached ({error}): weights and colorizers must be files"


def without_home(text: str) -> str:
    """Replaces what tells who and where somebody is: the home folder and other folders."""
    for folder, word in ((str(Path.home()), "~"), (str(Path.cwd()), "."), (sys.prefix, "(prefix)")):
        if len(folder) > 1:
            text = text.replace(folder, word)
    return text


def _extra(marker: str) -> str:
    match = re.search(r'extra == ["\']([^"\']+)["\']', marker)
    return match.group(1) if match else ""


def _applies(requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB"


def main(argv=None) -> int:
    """Runs the command; returns the exit status."""
    return commandline.run(DoctorConfig, examine, DESCRIPTION, argv)


if __name__ == "__main__":
    sys.exit(main())
