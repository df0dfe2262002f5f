"""What the processes say when one of them fails or is lost; JAX' service stood in for."""

import subprocess
import sys
import threading

import pytest

from medcolor_tf.errors import InputError
from medcolor_tf.parallel import watch
from medcolor_tf.parallel.watch import LastWords, Watch

pytestmark = pytest.mark.slow

NAMES = ["process 0 (a)", "process 1 (b)", "process 2 (c)"]


class Service:
    """A key-value store of the coordination service's interface."""

    def __init__(self):
        self.values, self.changed = {}, threading.Condition()

    def key_value_set(self, key, value):
        with self.changed:
            if key in self.values:
                raise RuntimeError("ALREADY_EXISTS")
            self.values[key] = value
            self.changed.notify_all()

    def blocking_key_value_get(self, key, timeout_in_ms):
        with self.changed:
            if not self.changed.wait_for(lambda: key in self.values, 20):
                raise RuntimeError("DEADLINE_EXCEEDED")
            return self.values[key]

    def key_value_dir_get(self, folder):
        with self.changed:
            return [item for item in self.values.items() if item[0].startswith(folder)]


class Words(LastWords):
    """Keeps what a child process would say."""

    def __init__(self):
        self.text = ""

    def change(self, words):
        self.text = words

    def cancel(self):
        self.text = ""


class Group:
    """Watches of some of three processes, the others of which are dead."""

    def __init__(self, alive):
        service = Service()
        self.stopped, self.ended = {}, threading.Event()
        self.words = {number: Words() for number in alive}
        self.watches = {
            number: Watch(number, NAMES, self.words[number], service, self.stop(number))
            for number in alive
        }
        for each in self.watches.values():
            each.advise(lambda: "; ADVICE")

    def stop(self, number):
        def stop(text):
            self.stopped[number] = text
            if len(self.stopped) >= 2:
                self.ended.set()

        return stop

    def fail(self, number, error):
        """Returns the thread in which a process fails."""
        thread = threading.Thread(target=self.watches[number].fail, args=(error,), daemon=True)
        thread.start()
        return thread


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(watch, "ANSWER_SECONDS", 1.0)
    monkeypatch.setattr(watch, "SAME_ERROR_SECONDS", 0.2)
    monkeypatch.setattr(watch, "MAIN_PROCESS_SECONDS", 0.2)


@pytest.mark.parametrize("lost", [0, 1])
def test_whoever_does_not_answer_is_lost(lost):
    """A broken collective operation is an error here; its cause is elsewhere."""
    group = Group([number for number in range(3) if number != lost])
    failing = group.fail(2, RuntimeError("Connection closed by peer"))
    assert group.ended.wait(20)
    assert set(group.stopped.values()) == {f"{NAMES[lost]} was lost; ADVICE"}
    assert failing.is_alive(), "the main thread would print another error"


@pytest.mark.parametrize("failing", [0, 2])
@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ZeroDivisionError("oops"), "ZeroDivisionError: oops; ADVICE"),
        (KeyboardInterrupt(), "KeyboardInterrupt: ; ADVICE"),
        (InputError("--flag=1: wrong"), "--flag=1: wrong"),  # would be so another time
    ],
)
def test_an_error_is_told_to_the_others(failing, error, text):
    group = Group(range(3))
    thread = group.fail(failing, error)
    assert group.ended.wait(20)
    others = {number for number in range(3) if number != failing}
    assert group.stopped == dict.fromkeys(others, f"{NAMES[failing]} ended with an error: {text}")
    thread.join(20)
    assert not thread.is_alive(), "the main thread goes on to raise its error"
    assert not group.words[failing].text


def test_the_same_error_in_all_is_raised_by_each():
    group = Group(range(3))
    threads = [group.fail(number, InputError("--seed=3 (there: 0)")) for number in range(3)]
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    assert not group.ended.wait(0.5)
    assert not group.stopped


def test_nobody_misses_a_process_that_left():
    group = Group(range(3))
    group.watches[1].leave()
    assert group.words[0].text.startswith("process 0 (a) ended unexpectedly")
    assert group.words[0].text.endswith("; ADVICE")
    assert not group.words[1].text
    group.fail(0, ZeroDivisionError("oops"))
    assert not group.ended.wait(3)
    assert set(group.stopped) == {2}


def test_without_the_service_the_last_words_stay():
    words = {error: Words() for error in (InputError, ZeroDivisionError)}
    for error, spoken in words.items():
        Watch(1, NAMES, spoken, None).fail(error("wrong"))
    assert not words[InputError].text, "the error itself says it"
    assert words[ZeroDivisionError].text.startswith("process 1 (b) ended unexpectedly")


@pytest.mark.parametrize(
    ("end", "status", "expected"),
    [
        ("os.kill(os.getpid(), 9)", -9, "\nerror: THE LAST ONE é\n"),
        ("os.abort()", -6, "\nerror: THE LAST ONE é\n"),
        ("words.cancel(); os.kill(os.getpid(), 9)", -9, ""),
        ("words.cancel(); words.change('late'); words.cancel()", 0, ""),
    ],
)
def test_the_last_words_of_a_process_however_it_ends(end, status, expected):
    script = (
        "import os; from medcolor_tf.parallel.watch import LastWords\n"
        "words = LastWords('first'); words.change('THE LAST\\nONE é')\n" + end
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (status, expected)
