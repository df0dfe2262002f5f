"""The public API: what ``import medcolor_tf`` gives, and that Keras then knows our classes."""

import ast
import importlib
import inspect
import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from training_helpers import SILENT

import medcolor_tf as mc
from medcolor_tf import registration
from medcolor_tf.catalog import resolve

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
OLD_MODEL = Path(__file__).parent / "data_files" / "version_0_1.keras"


def python(program: str, *arguments) -> str:
    """Runs a program in a process of its own and returns what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_names_are_imported_on_first_use():
    assert sorted(mc.__all__) == dir(mc)
    assert {name for name in mc.__all__ if getattr(mc, name) is None} == set()
    with pytest.raises(AttributeError, match="'medcolor_tf' has no attribute 'build_clasifier'"):
        mc.build_clasifier  # noqa: B018
    assert mc.build_classifier is importlib.import_module("medcolor_tf.models").build_classifier


def test_what_type_checkers_see_is_what_there_is():
    """The imports under TYPE_CHECKING, ``__all__`` and the table of sources name the same."""
    tree = ast.parse(Path(mc.__file__).read_text(encoding="utf-8"))
    branch = next(node for node in tree.body if isinstance(node, ast.If))
    imports = [node for node in branch.body if isinstance(node, ast.ImportFrom)]
    seen = {alias.name: node.module for node in imports for alias in node.names}
    assert seen == mc._SOURCES
    assert set(mc.__all__) == {*seen, "__version__"}


def test_a_command_does_not_hide_the_function_of_its_name():
    importlib.import_module("medcolor_tf.find_lr")
    assert inspect.isfunction(mc.find_lr)
    assert importlib.import_module("medcolor_tf.find_lr").main


# In a process that imports the package first, as a user's does.
FACTS = """
import importlib, importlib.util, inspect, json, pkgutil, sys
import medcolor_tf
facts = {"before": sorted({"keras", "tensorflow", "jax", "numpy"} & sys.modules.keys())}
spec = importlib.util.find_spec("keras")  # as a program that asks whether Keras is there
facts["looked for"] = [spec.loader.get_filename("keras") == spec.origin, "keras" in sys.modules]

import keras

def ours():
    return sorted(name for name in known if name.startswith("medcolor_tf>"))

known = keras.saving.get_custom_objects()
facts["registered"] = ours()
facts["loader"] = [keras.__spec__.loader is keras.__loader__, type(keras.__loader__).__name__]
facts["finders"] = sum(type(finder).__name__ == "_KerasFinder" for finder in sys.meta_path)

entry = keras.saving.get_registered_object("medcolor_tf>Normalize")
facts["entry"] = [inspect.isclass(entry), entry.__name__, "not yet imported" in repr(entry)]
layer = entry(0.5, 0.25)
facts["made"] = [type(layer) is known["medcolor_tf>Normalize"], type(layer).__module__]

for module in pkgutil.walk_packages(medcolor_tf.__path__, "medcolor_tf."):
    importlib.import_module(module.name)
facts["after all imports"] = ours()
facts["deferred"] = [name for name in ours() if type(known[name]).__name__ == "_Deferred"]
print(json.dumps(facts))
"""


@pytest.fixture(scope="module")
def facts():
    """What a new process finds."""
    return json.loads(python(FACTS).splitlines()[-1])


def test_importing_the_package_imports_no_framework(facts):
    assert facts["before"] == []


def test_keras_knows_every_class_from_its_import_on(facts):
    """As many as there are when every module of the package has been imported."""
    assert facts["registered"] == facts["after all imports"] == sorted(registration.CLASSES)
    assert facts["deferred"] == [], "each class takes the place of its entry"


def test_the_import_of_keras_shows_no_trace(facts):
    assert facts["looked for"] == [True, False]
    assert facts["loader"] == [True, "SourceFileLoader"]
    assert facts["finders"] == 0


def test_an_entry_is_as_good_as_the_class_before_that_is_imported(facts):
    assert facts["entry"] == [True, "Normalize", True]
    assert facts["made"] == [True, "medcolor_tf.models.layers"]


def test_keras_may_be_imported_first():
    known = keras.saving.get_custom_objects()
    before = known.pop("medcolor_tf>ICNR", None)
    try:
        registration.install()
        assert known["medcolor_tf>ICNR"](scale=2).scale == 2
    finally:
        if before is not None:
            known["medcolor_tf>ICNR"] = before


def test_every_registered_class_is_where_the_table_says():
    for name, address in registration.CLASSES.items():
        assert keras.saving.get_registered_name(resolve(address)) == name


def test_an_old_keras_is_told_and_its_import_does_not_fail():
    class Old:
        __version__ = "2.10"

    with pytest.warns(UserWarning, match=r"needs Keras 3.15 or newer, found 2.10"):
        registration._register(Old)


# The package alone, before or after Keras, and then model files.
LOAD = """
import json, sys
import medcolor_tf
import keras
import numpy as np
pixels = (np.arange(4 * 16 * 16).reshape(4, 16, 16, 1) ** 2 * 37 % 251).astype("float32")
labels = np.float32([[0, 1], [1, np.nan], [np.nan, 0], [1, 1]])
found = []
for path in sys.argv[1:]:
    model = keras.models.load_model(path)
    found.append(model.predict(pixels, verbose=0).tolist())
    model.fit(pixels, labels, batch_size=2, shuffle=False, verbose=0)
    found.append(model.predict(pixels, verbose=0).tolist())
print(json.dumps(found))
"""
# What version 0.1 predicted when it had loaded its file, and after one epoch more.
OLD_LOADED = [[0.2067502, -0.0223775], [0.2417224, -0.0359925], [0.2241890, 0.0072225]]
OLD_LOADED += [[0.2536636, -0.0415908]]
OLD_TRAINED = [[0.1856078, 0.3254048], [0.2242720, 0.3382940], [0.2204862, 0.3537111]]
OLD_TRAINED += [[0.2373151, 0.3602733]]


def test_model_files_of_this_and_the_first_version_load_in_a_new_process(tmp_path):
    """Version 0.1's holds every class it had, under modules that are no longer there.

    Both train on as in the process that saved or, for version 0.1, loaded them.
    """
    pixels = (np.arange(4 * 16 * 16).reshape(4, 16, 16, 1) ** 2 * 37 % 251).astype("float32")
    labels = np.array([[0, 1], [1, np.nan], [np.nan, 0], [1, 1]], "float32")
    image = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(4, 3, 2, name="conv")(image)
    backbone = keras.Model(image, keras.layers.BatchNormalization(name="bn")(x))
    model = mc.build_classifier("none", backbone, 2, pixel_mean=0.5, pixel_std=0.25, seed=0)
    model.compile(mc.MomentumSGD(0.01), mc.MaskedBinaryCrossentropy())
    options = {"batch_size": 2, "shuffle": False, "verbose": 0}
    model.fit(pixels, labels, callbacks=[mc.OneCycle(2, 0.01)], **options)
    model.save(tmp_path / "now.keras")
    saved = model.predict(pixels, verbose=SILENT)
    model.fit(pixels, labels, **options)
    trained = model.predict(pixels, verbose=SILENT)

    lines = python(LOAD, OLD_MODEL, tmp_path / "now.keras").splitlines()
    for found, expected in zip(
        json.loads(lines[-1]), (OLD_LOADED, OLD_TRAINED, saved, trained), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
