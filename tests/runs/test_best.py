"""The best weights agree with the checkpoint that a run goes on from, or are written again."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from medcolor_tf.errors import InputError
from medcolor_tf.runs import checkpoint, resume
from medcolor_tf.runs import folder as runs
from medcolor_tf.runs.checkpoint import Best, TrainState


class Spec:
    """Stands for a model's description."""

    def to_dict(self):
        return {"backbone": "tiny"}


SPEC: Any = Spec()


def state_of(step, best):
    return TrainState(step, best, {"head/kernel": np.full(3, step, np.float32)}, {}, {})


def make(run, *best_steps):
    """Writes checkpoints of steps 2, 4, ...; a number is the step of the best by then."""
    run.folder.mkdir()
    log = "step,loss,valid_mean_auc\n"
    for number, best_step in enumerate(best_steps, start=1):
        step, best = 2 * number, Best(0.5 + 0.01 * best_step, best_step)
        state = state_of(step, best)
        log += f"{step},0.5,0.5\n"
        content = resume.best_content(state.weights, best, SPEC) if best_step == step else b""
        resume.write_checkpoint(run, state, content, log)


def spoil(path):
    path.write_bytes(path.read_bytes()[:-1] + b"?")


def loaded(run):
    answer = resume.load_state(run)
    assert answer is not None
    return answer


def best_file(run):
    """(its bytes, what its weights are of)."""
    path = run.checked(runs.BEST)
    return path.read_bytes(), checkpoint.load(path)[0]["head/kernel"][0]


def test_weights_of_a_later_checkpoint_that_was_lost_count(tmp_path):
    """Doing that checkpoint again finds the same; where it does not, file and record agree."""
    run = runs.Run(tmp_path / "run")
    make(run, 2, 4)
    before = best_file(run)
    spoil(run.folder / runs.LAST)
    state, origin = loaded(run)
    assert (state.step, state.best.step, origin.name) == (2, 2, runs.PREVIOUS)
    assert resume.mend(run, state, origin, SPEC) == Best(0.54, 4)
    assert best_file(run) == before
    assert loaded(run)[1].name == runs.LAST, "the damaged file was replaced"


@pytest.mark.parametrize("best_steps", [(2, 4), (2, 2)])
@pytest.mark.parametrize("missing", [True, False])
def test_they_are_written_again_where_a_checkpoint_has_them(tmp_path, capsys, best_steps, missing):
    """The last one, or the one before it."""
    run = runs.Run(tmp_path / "run")
    make(run, *best_steps)
    before = best_file(run)
    spoil(run.folder / runs.BEST)
    if missing:
        (run.folder / runs.BEST).unlink()
    state, origin = loaded(run)
    assert resume.mend(run, state, origin, SPEC) == state.best
    assert best_file(run) == before
    assert f"written again from the checkpoint of step {best_steps[-1]}" in capsys.readouterr().out


def test_weights_that_no_checkpoint_has_are_an_error(tmp_path):
    run = runs.Run(tmp_path / "run")
    make(run, 2, 2, 2)
    spoil(run.folder / runs.BEST)
    state, origin = loaded(run)
    with pytest.raises(InputError, match=r"(?s)best.safetensors: damaged.*of step 2; restore"):
        resume.mend(run, state, origin, SPEC)


def test_weights_older_than_the_checkpoint_says_are_another_runs(tmp_path):
    """A folder without a manifest: the step tells it."""
    run = runs.Run(tmp_path / "run")
    make(run, 2, 4)
    old = resume.best_content(state_of(2, Best()).weights, Best(0.52, 2), SPEC)
    (run.folder / runs.BEST).write_bytes(old)
    (run.folder / runs.MANIFEST).unlink()
    state, origin = loaded(run)
    resume.mend(run, state, origin, SPEC)
    assert best_file(run)[1] == 4


def test_a_checkpoint_between_two_others_leaves_best_and_log(tmp_path):
    """As a signal makes one: the state alone."""
    run = runs.Run(tmp_path / "run")
    make(run, 2, 4)
    before = best_file(run), run.log_text()
    state = dataclasses.replace(state_of(5, Best(0.54, 4)))
    resume.write_checkpoint(run, state)
    assert (best_file(run), run.log_text()) == before
    assert loaded(run)[0].step == 5
    assert checkpoint.load_metadata(run.checked(runs.PREVIOUS))["step"] == 4
