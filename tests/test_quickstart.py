"""examples/quickstart.ipynb: a valid notebook without outputs that runs from top to bottom."""

import copy
import os
import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
pytest.importorskip("ipykernel", reason="ipykernel is not installed")

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "examples" / "quickstart.ipynb"


@pytest.fixture(scope="module")
def notebook():
    return nbformat.read(NOTEBOOK, as_version=nbformat.NO_CONVERT)


def test_it_is_valid_and_holds_no_outputs(notebook):
    nbformat.validate(notebook)
    assert notebook.nbformat == 4
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
    assert len(notebook.cells) - len(code) >= len(code), "every step is explained"


def test_it_runs(notebook, tmp_path, monkeypatch):
    """The AUC is well above chance, and the reloaded model predicts the same.

    Half of the epochs are enough for both.
    """
    notebook = copy.deepcopy(notebook)
    (training,) = (cell for cell in notebook.cells if cell.source.startswith("EPOCHS = 8\n"))
    training.source = training.source.replace("EPOCHS = 8", "EPOCHS = 4", 1)
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))  # the kernel starts in tmp_path
    resources = {"metadata": {"path": str(tmp_path)}}
    done = nbclient.NotebookClient(notebook, timeout=300, resources=resources).execute()
    printed = "".join(
        output.text
        for cell in done.cells
        for output in cell.get("outputs", [])
        if output.get("name") == "stdout"
    )
    found = re.search(r"mean AUC +([0-9.]+)[\s\S]*after reloading: (\S+)", printed)
    assert found is not None, printed
    assert float(found[1]) > 0.6
    assert float(found[2]) < 1e-5
    assert (tmp_path / "quickstart" / "classifier.keras").is_file()
