"""The comparisons of tests/serving/test_export.py with more files; minutes, so `-m nightly`."""

import pytest
from odd_pictures import mutated, odd_pictures
from serving_helpers import compare_files, encode, make_run, pixels

from medcolor_tf.export import ExportConfig
from medcolor_tf.serving.export import export

pytestmark = [pytest.mark.nightly, pytest.mark.slow]


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("nightly") / "run")


@pytest.fixture(scope="module")
def exported(run_dir):
    return export(ExportConfig(run_dir=str(run_dir)))


def test_500_odd_files(exported, run_dir, tmp_path):
    compared = compare_files(exported, run_dir, odd_pictures(500, seed=1), tmp_path)
    print(f"500 odd files: pixels {compared.pixels}, probabilities {compared.probabilities:.1e}")
    assert (compared.read, compared.only_predict, compared.only_graph) == (500, {}, {})
    assert compared.pixels == 0
    assert compared.probabilities <= 1e-5


def test_1000_x_rays(exported, run_dir, tmp_path, shared):
    paths = sorted((shared / "xray" / "nih1000" / "images").glob("*.jpg"))
    files = ((path.name, path.read_bytes()) for path in paths)
    compared = compare_files(exported, run_dir, files, tmp_path)
    print(f"X-rays: pixels {compared.pixels}, probabilities {compared.probabilities:.1e}")
    assert (compared.read, compared.pixels) == (1000, 0)
    assert compared.probabilities <= 1e-5


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_1500_mutated_files(exported, run_dir, tmp_path, form):
    files = mutated(encode(pixels(60, 50), form), 750)
    compared = compare_files(exported, run_dir, files, tmp_path)
    unseen = [why for why in compared.only_graph.values() if "JPEG is damaged" not in why]
    print(
        f"750 mutated {form}: read by both {compared.read}, refused by both {compared.refused}, "
        f"by the graph alone {len(compared.only_predict)}, by predict alone "
        f"{len(compared.only_graph)}; pixels {compared.pixels}"
    )
    assert unseen == []
    assert compared.pixels == 0
    assert compared.probabilities <= 1e-5
