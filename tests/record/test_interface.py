"""Flags, defaults, import paths and names in model files are those of version 0.1."""

import importlib
import json
from pathlib import Path

import pytest

from tests.record import interface

RECORD = json.loads((Path(__file__).parent / "interface.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("command", RECORD["commands"])
def test_flags_and_defaults(command):
    now, recorded = interface.options(command), RECORD["commands"][command]
    assert {name: json.loads(json.dumps(now.get(name))) for name in recorded} == recorded


@pytest.mark.parametrize("package", RECORD["public"])
def test_import_paths(package):
    module = importlib.import_module(package)
    missing = [name for name in RECORD["public"][package] if not hasattr(module, name)]
    assert not missing


@pytest.mark.slow
def test_names_inside_model_files():
    now = interface.models()
    assert now["weights"] == RECORD["models"]["weights"]
    assert now["layers"] == RECORD["models"]["layers"]
    assert set(RECORD["models"]["registered"]) <= set(now["registered"])


def test_fields_of_a_data_set():
    now = interface.data()
    for name, fields in RECORD["data"].items():
        assert [field for field in now[name] if field in fields] == fields
