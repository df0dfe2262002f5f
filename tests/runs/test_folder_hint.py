"""A folder that is not what a flag expects: the message says what it is, or names runs below."""

import pytest

from medcolor_tf.data.schema import check_is_dataset
from medcolor_tf.errors import InputError
from medcolor_tf.runs.folder import check_is_run


def test_runs_below_a_folder_are_named(tmp_path):
    with pytest.raises(InputError, match=r"made by `python -m medcolor_tf.train`$"):
        check_is_run(tmp_path)
    for name in ("all", "baseline"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.json").write_text("{}")
    with pytest.raises(InputError, match=r"runs below that folder: all, baseline$"):
        check_is_run(tmp_path)
    check_is_run(tmp_path / "all")


def test_a_run_is_no_data_set_nor_the_other_way_round(tmp_path):
    with pytest.raises(InputError, match=r"data_prep.build` \(an unfinished build has none"):
        check_is_dataset(tmp_path)
    (tmp_path / "model.json").write_text("{}")
    with pytest.raises(InputError, match=r"that folder is a run, which is for --run_dir"):
        check_is_dataset(tmp_path)
    (tmp_path / "model.json").rename(tmp_path / "dataset.json")
    with pytest.raises(InputError, match=r"that folder is a data set, which is for --data_dir$"):
        check_is_run(tmp_path)
