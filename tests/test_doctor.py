"""The doctor: what is broken is said, what tells who somebody is, is not."""

import getpass
import importlib.metadata
import socket
from pathlib import Path

import pytest

from medcolor_tf import __version__, doctor

pytest.importorskip("packaging")


@pytest.fixture
def closed(monkeypatch):
    """No network."""

    def refuse(*arguments):
        raise OSError("no route")

    monkeypatch.setattr(socket, "create_connection", refuse)


@pytest.mark.slow
def test_a_sound_machine(closed, monkeypatch, capsys):
    monkeypatch.setenv("CUDA_HOME", f"{Path.home()}/cuda")
    monkeypatch.setenv("HF_HUB_TOKEN", "hf_secret")
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "2")
    assert doctor.main([]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"medcolor_tf {__version__}\n")
    assert f"tensorflow {importlib.metadata.version('tensorflow')}" in out
    assert f"pydicom {importlib.metadata.version('pydicom')} [dicom]" in out
    for line in (
        *(
            "Keras computes with tensorflow",
            "CPU:0",
            "XLA: works",
            "JPEG Baseline (Process 1): yes",
        ),
        *("CUDA_HOME=(a path)", "HF_HUB_TOKEN is set", "TF_NUM_INTRAOP_THREADS=2"),
        "huggingface.co cannot be reached (no route)",
    ):
        assert f"  {line}" in out
    assert out.endswith("\nall is well\n")
    for secret in (str(Path.home()), socket.gethostname(), "hf_secret", getpass.getuser() + "/"):
        assert secret not in out


def test_what_is_broken_has_a_line_that_says_what_to_do(closed, monkeypatch, capsys):
    real = importlib.metadata.version

    def version(name):
        if name == "pylibjpeg":
            raise importlib.metadata.PackageNotFoundError
        return {"numpy": "1.0", "tensorflow-addons": "0.23"}.get(name) or real(name)

    def broken(report):
        yield "CPU"
        raise RuntimeError(f"no kernel image in {Path.home()}/cuda")

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(doctor, "devices", broken)
    assert doctor.main(["--offline"]) == 1
    out = capsys.readouterr().out
    assert "problem: numpy 1.0, expected" in out
    assert "without [dicom] (pylibjpeg): pip install 'medcolor_tf[dicom]'" in out
    assert "pip uninstall tensorflow-addons" in out
    assert "problem: devices: RuntimeError: no kernel image in ~/cuda" in out
    assert "Network" not in out
    assert out.endswith("\n3 problems\n")
