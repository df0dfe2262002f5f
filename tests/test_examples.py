"""The examples in the docstrings of the public API run, and every public name has one."""

import doctest
import inspect
import io

import pytest

import medcolor_tf as mc
from data_prep import build
from medcolor_tf import train

# Names whose docstring is still to be completed.
pytestmark = pytest.mark.slow
NAMES = [name for name in mc.__all__ if name != "__version__"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """What examples call ``data_dir`` and ``run_dir``: drawn X-rays, and a run on them."""
    import keras

    folder = tmp_path_factory.mktemp("examples")
    data_dir, run_dir, backbone = (str(folder / name) for name in ("data", "run", "small.keras"))
    phantoms = ["--source=phantom", "--phantom_images=40", "--short_side=64", "--workers=1"]
    paths = [f"--data_root={folder / 'phantoms'}", f"--out={data_dir}"]
    assert build.main([*phantoms, "--valid_fraction=0.2", *paths]) == 0
    image = keras.Input((None, None, 3))
    features = keras.layers.Conv2D(4, 3, strides=4, padding="same", name="conv1")(image)
    keras.Model(image, features, name="small").save(backbone)
    options = ["--colorizer=color_map", f"--backbone={backbone}", "--batch_size=8", "--steps=2"]
    assert train.main([f"--data_dir={data_dir}", f"--run_dir={run_dir}", *options]) == 0
    return {"data_dir": data_dir, "run_dir": run_dir}


@pytest.mark.parametrize("name", NAMES)
def test_example(name, folders):
    parser = doctest.DocTestParser()
    text = inspect.getdoc(getattr(mc, name)) or ""
    test = parser.get_doctest(text, dict(folders), name, None, None)
    assert test.examples, f"medcolor_tf.{name} has no example"
    told = io.StringIO()
    result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=told.write)
    assert result.failed == 0, told.getvalue()


@pytest.mark.parametrize("name", NAMES)
def test_docstring_says_what_goes_in_and_what_comes_out(name):
    public = getattr(mc, name)
    text = inspect.getdoc(public) or ""
    returns = inspect.isfunction(public) and inspect.signature(public).return_annotation is not None
    sections = ["Args:", "Returns:"] if returns else ["Args:"]
    assert [section for section in sections if f"\n{section}\n" not in text] == []
    documented = [line.strip() for line in text.splitlines()]
    for parameter in inspect.signature(public).parameters.values():
        mark = {parameter.VAR_KEYWORD: "**", parameter.VAR_POSITIONAL: "*"}.get(parameter.kind, "")
        described = [line for line in documented if mark + parameter.name in line.split(":")[0]]
        assert described, f"medcolor_tf.{name} says nothing of {parameter.name}"
