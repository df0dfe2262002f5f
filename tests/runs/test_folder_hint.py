"""A folder that is no run: the message names the runs below it."""

import pytest

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
