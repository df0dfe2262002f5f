"""Files that are whole or not there, locks, and signals to commands."""

import errno
import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass

import pytest

from medcolor_tf import commandline, files, interrupts, locks
from medcolor_tf.errors import InputError


@pytest.fixture
def small_files():
    """No file may have more than 4,000 bytes: a real error of the system in the middle of one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_file_that_cannot_be_written_stays_what_it_was(tmp_path, small_files):
    path = tmp_path / "a.txt"
    files.write_atomically(path, "before")
    message = rf"^{re.escape(str(path))}: cannot be written \(File too large\)\. What was there"
    with pytest.raises(InputError, match=message):
        files.write_atomically(path, b"x" * 10_000)
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
    assert path.read_text() == "before"


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match=r"no/a\.txt: cannot be written \(No such file or dir"):
        files.write_atomically(tmp_path / "no" / "a.txt", "x")


def test_whatever_is_raised_leaves_nothing(tmp_path):
    def write():
        with files.replacing(tmp_path / "a") as temporary:
            temporary.mkdir()
            (temporary / "part").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert not list(tmp_path.iterdir())


def test_writers_of_one_file_never_share_a_part(tmp_path):
    path, failures = tmp_path / "a.txt", []

    def write(letter):
        try:
            for _ in range(30):
                files.write_atomically(path, letter * 5000)
                text = path.read_text()
                assert len(text) == 5000
                assert len(set(text)) == 1
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(letter,)) for letter in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_left_overs_go_and_what_others_write_stays(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    own = files.temporary_for(tmp_path / "own")
    of_pid = files.temporary_for(tmp_path / "a").name.replace(f".{os.getpid()}@", f".{gone.pid}@")
    dead = tmp_path / re.sub(r"-[0-9a-f]{8}", "-00000000", of_pid)
    pid_again = tmp_path / re.sub(r"-[0-9a-f]{8}", "-00000000", own.name)
    far = tmp_path / ".b.1@elsewhere-000000000.tmp"
    old_far = tmp_path / ".c.1@elsewhere-000000000.tmp"
    older_version = tmp_path / ".d.tmp"
    for path in (own, dead, pid_again, far, old_far, older_version, tmp_path / "kept.tmp"):
        path.write_text("half")
    for path in (old_far, older_version):
        os.utime(path, (1, 1))
    files.remove_leftovers(tmp_path, "other")
    assert len(list(tmp_path.iterdir())) == 7
    files.remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {own.name, far.name, "kept.tmp"}


# -- locks ----------------------------------------------------------------------------------------

HOLD = """
import sys, time
from medcolor_tf import locks
with locks.only_writer(sys.argv[1], "--run_dir"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_the_second_writer_is_refused_until_the_first_is_gone(tmp_path):
    folder = tmp_path / "run"
    first = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True
    )
    with first:
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        message = f"--run_dir={folder}: process {first.pid} on {socket.gethostname()} (since "
        with (
            pytest.raises(InputError, match=re.escape(message)),
            locks.only_writer(folder, "--run_dir"),
        ):
            pass
        first.kill()
        first.wait()
    assert locks.holder_file(folder / locks.LOCK).exists()
    with locks.only_writer(folder, "--run_dir"):
        (folder / "result").write_text("mine")
    assert {path.name for path in folder.iterdir()} == {"result", locks.LOCK}


def test_without_locks_the_holder_is_asked_for(tmp_path, monkeypatch, capsys):
    fcntl = pytest.importorskip("fcntl")

    def refuse(*arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with locks.only_writer(tmp_path, "--out"):
        assert "no locks there" in capsys.readouterr().out
        with (
            pytest.raises(
                InputError, match=r"has no locks: if that process is gone, delete .*json"
            ),
            locks.only_writer(tmp_path, "--out"),
        ):
            pass
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    locks.write_holder(tmp_path / locks.LOCK)
    holder = locks.holder_file(tmp_path / locks.LOCK)
    holder.write_text(json.dumps(json.loads(holder.read_text()) | {"pid": gone.pid}))
    with locks.only_writer(tmp_path, "--out"):
        pass


# -- commands -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NoOptions:
    """Options of a command that has none."""


def run(function):
    return commandline.run(NoOptions, function, "text", [])


@pytest.mark.parametrize(
    ("signum", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["TERM", "INT"]
)
def test_a_signal_ends_a_command_and_what_it_has_open(tmp_path, capsys, signum, status):
    def command(config):
        with files.replacing(tmp_path / "a") as temporary:
            temporary.write_text("half")
            os.kill(os.getpid(), signum)
            time.sleep(10)

    before = signal.getsignal(signum)
    assert run(command) == status
    assert "interrupted; what was finished is kept" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    assert signal.getsignal(signum) == before


def test_the_first_signal_waits_for_the_work_that_looks_for_it(capsys):
    with interrupts.deferred("saving") as stop:
        assert not stop.signum
        os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(100):
            time.sleep(0.01)
        assert stop.signum == signal.SIGTERM
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL, "the next one ends the process"
    assert "SIGTERM: saving; a second signal stops at once" in capsys.readouterr().err


def test_errors_of_disks_and_permissions_are_messages_and_others_are_not(capsys):
    def full(config):
        raise OSError(errno.ENOSPC, "No space left on device", "/data/x")

    assert run(full) == 2
    assert capsys.readouterr().err == "error: /data/x: No space left on device\n"

    def ours(config):
        raise OSError(errno.EBADF, "Bad file descriptor")

    with pytest.raises(OSError, match="Bad file"):
        run(ours)
