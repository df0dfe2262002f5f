"""Cost against size: what is drawn can be built, and the table says what an image takes."""

import pytest

from benchmarks import size
from benchmarks.size import Cost
from medcolor_tf.data.schema import DatasetInfo


@pytest.mark.slow
def test_what_is_drawn_is_a_data_set(tmp_path):
    size.draw(12, tmp_path)
    names = ",".join(size.OBSERVATIONS)
    cost = size.command(
        *("data_prep.build", "--flagfile=prep_table.flags", f"--table={tmp_path / 'labels.csv'}"),
        *(f"--observations={names}", "--short_side=64", f"--out={tmp_path / 'data'}"),
    )
    info = DatasetInfo.load(tmp_path / "data")
    assert sum(info.images.values()) == 12
    assert sum(info.patients.values()) == 4
    assert 0 < cost.processor < 120
    assert cost.memory > 50


def test_the_table_has_a_column_for_each_size(monkeypatch, capsys):
    monkeypatch.setattr(size, "measure", lambda n, _: [("open", Cost(2.5, n / 500, 1234.5))])
    assert size.main(["--counts=1000,5000"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "| | 1,000 images | 5,000 images |" in lines
    cell = "2.5 s (2 ms of a core per image), 1,234 MB"
    assert lines[-1] == f"| open | {cell} | {cell} |"
