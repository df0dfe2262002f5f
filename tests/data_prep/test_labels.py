import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.labels import Observation, parse_cell, parse_columns
from data_prep.labels import parse_observations as parse
from data_prep.tables import read_table
from medcolor_tf.data.labels import count_raw_labels
from medcolor_tf.errors import InputError

SPELLINGS = {1.0: ["1", "1.0", " 1.00 ", "True", "1e0"], 0.0: ["0", "0.0", "-0", "false"]}
BLANKS = ["", "  ", "nan", "NaN", "NA", "n/a", "None", "null"]


@pytest.mark.parametrize(
    ("text", "value"), [(text, value) for value, texts in SPELLINGS.items() for text in texts]
)
def test_cell_spellings(text, value):
    assert parse_cell(text) == value
    assert math.copysign(1, parse_cell(text)) == 1  # no negative zero


@pytest.mark.parametrize("text", BLANKS)
def test_cell_blank(text):
    assert math.isnan(parse_cell(text))


@given(st.one_of(st.text(), st.floats().map(str), st.integers().map(str)))
def test_any_cell_is_a_label_or_an_error(text):
    try:
        value = parse_cell(text)
    except ValueError:
        return
    assert math.isnan(value) or value in (0, 1, -1)
    if not math.isnan(value) and text.strip().lower() not in ("true", "false"):
        assert float(text) == value


@given(st.lists(st.sampled_from(["0", "1", "-1", "", "1.0"]), min_size=1, max_size=30))
def test_negation_swaps_only_zero_and_one(tmp_path_factory, cells):
    path = tmp_path_factory.mktemp("t") / "t.csv"
    path.write_text("x,c\n" + "".join(f"x,{cell}\n" for cell in cells))
    table = read_table(path, ("c",))
    plain = parse_columns(table, [Observation("c", "c")])
    negated = parse_columns(table, [Observation("n", "c", True)])
    known = plain >= 0
    np.testing.assert_array_equal(negated[known], 1 - plain[known])
    np.testing.assert_array_equal(negated[~known], plain[~known])
    counts = count_raw_labels(plain, ["c"])["c"]
    assert sum(counts.values()) == len(cells)
    assert counts["uncertain"] == cells.count("-1")
    assert counts["blank"] == cells.count("")


def test_label_seven_names_file_line_and_column(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("path,Edema\na,1\nb,7\n")
    with pytest.raises(
        InputError, match=r"t\.csv line 3, column 'Edema': label '7'; expected 1, 0"
    ):
        parse_columns(read_table(path, ("Edema",)), [Observation("Edema", "Edema")])


def test_observation_entries():
    assert parse(["A", "B=C", "D=!E"]) == (
        Observation("A", "A"),
        Observation("B", "C"),
        Observation("D", "E", True),
    )
    for bad in (["A", "A"], ["=A"], ["A="], ["A=!"]):
        with pytest.raises(InputError, match="--observations"):
            parse(bad)
