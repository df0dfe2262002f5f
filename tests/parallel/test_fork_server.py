"""Calls in forks of a server: their exit statuses, signals, and what a death costs."""

import os
import signal
import sys
import time

import pytest

from medcolor_tf.parallel.fork_server import ForkExecutor, ServerLostError

IMPORTED = []


def preload():
    IMPORTED.append(os.getpid())


def leave(status, folder, seconds=0.0):
    """Notes process, parent and what was imported before; sleeps; ends with a status."""
    (folder / f"{status}.txt").write_text(f"{os.getpid()} {os.getppid()} {IMPORTED}")
    time.sleep(seconds)
    return status


def die(signum):
    os.kill(os.getpid(), signum)


def fail():
    raise ValueError("not this way")


def catch(folder):
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    (folder / "ready").touch()
    time.sleep(60)


def wait_for(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert condition()


def test_each_call_is_a_fork_of_one_server_and_ends_with_its_status(tmp_path, capfd):
    with ForkExecutor(2, preload) as executor:
        calls = [executor.submit(leave, status, tmp_path) for status in (0, 3, 4)]
        assert [call.result(30) for call in calls] == [0, 3, 4]
        assert executor.submit(die, signal.SIGSEGV).result(30) == -signal.SIGSEGV
        assert executor.submit(fail).result(30) == 1
    assert "ValueError: not this way" in capfd.readouterr().err
    notes = [(tmp_path / f"{status}.txt").read_text().split() for status in (0, 3, 4)]
    assert len({pid for pid, _, _ in notes}) == 3
    assert len({parent for _, parent, _ in notes}) == 1
    assert {imported for _, _, imported in notes} == {f"[{notes[0][1]}]"}
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(fail)


@pytest.mark.slow
def test_a_signal_reaches_its_call_alone(tmp_path):
    with ForkExecutor(2) as executor:
        stopped, other = executor.submit(catch, tmp_path), executor.submit(leave, 0, tmp_path, 1.0)
        waiting = executor.submit(leave, 5, tmp_path)
        assert not waiting.running(), "two at a time"
        wait_for((tmp_path / "ready").exists)
        executor.send_signal(stopped, signal.SIGTERM)
        assert [call.result(30) for call in (stopped, other, waiting)] == [143, 0, 5]


def test_a_dead_server_costs_the_calls_at_work(tmp_path):
    with ForkExecutor(1) as executor:
        lost = executor.submit(leave, 0, tmp_path, 2.0)
        after = executor.submit(leave, 1, tmp_path)
        note = tmp_path / "0.txt"
        wait_for(lambda: note.exists() and len(note.read_text().split()) == 3)
        os.kill(int(note.read_text().split()[1]), signal.SIGKILL)
        with pytest.raises(ServerLostError):
            lost.result(30)
        assert after.result(30) == 1
