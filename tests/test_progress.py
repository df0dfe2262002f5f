"""Progress: a bar on a terminal, lines without carriage returns in a log file."""

import io

import pytest

from medcolor_tf import progress
from medcolor_tf.progress import Progress, duration, progressing


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass as the test says."""
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def work(clock, seconds_each, notes=False):
    with Progress("predicting", total=100, done=20) as shown:
        for _ in range(80):
            clock[0] += seconds_each
            if notes:
                shown.note(loss="0.41", lr="1.0e-03")
            shown.update()


def test_a_log_file_gets_a_line_every_thirty_seconds(clock, monkeypatch):
    file = io.StringIO()
    monkeypatch.setattr("sys.stderr", file)
    work(clock, 1.0, notes=True)
    lines = file.getvalue().splitlines()
    assert lines == [
        "predicting: 50 of 100 images (50 %), 1 images/s, 50 s left, loss 0.41, lr 1.0e-03",
        "predicting: 80 of 100 images (80 %), 1 images/s, 20 s left, loss 0.41, lr 1.0e-03",
    ]
    assert "\r" not in file.getvalue()


def test_short_work_says_nothing_in_a_log_file(clock, monkeypatch):
    file = io.StringIO()
    monkeypatch.setattr("sys.stderr", file)
    work(clock, 0.3)
    assert file.getvalue() == ""


def test_a_terminal_gets_a_bar_that_starts_where_the_work_does(monkeypatch):
    file = Terminal()
    monkeypatch.setattr("sys.stderr", file)
    with Progress("predicting", total=100, done=20) as shown:
        shown.note(loss="0.41")
        shown.update(80)
    text = file.getvalue()
    first, last = text.split("\r")[1], text.split("\r")[-1]
    assert "predicting:  20%" in first
    assert "20/100" in first
    assert "100/100" in last
    assert last.endswith("loss=0.41]\n")
    shown.close()
    assert file.getvalue() == text


def test_items_come_through_and_are_counted(clock, monkeypatch):
    file = io.StringIO()
    monkeypatch.setattr("sys.stderr", file)
    seen = []
    for item in progressing(range(3), "caching", 3, "shards"):
        clock[0] += 31
        seen.append(item)
    assert seen == [0, 1, 2]
    assert file.getvalue().splitlines()[-1].startswith("caching: 3 of 3 shards (100 %)")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (99, "99 s"), (100, "2 min"), (5940, "99 min"), (12000, "3 h 20 min")],
)
def test_lengths_of_time_in_words(seconds, words):
    assert duration(seconds) == words
