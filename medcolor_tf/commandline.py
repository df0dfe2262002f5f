"""Flags in, one frozen dataclass out: what every command of the project shares.

A command declares its options as the fields of a frozen dataclass (:func:`option`) and calls
:func:`run`. Values are parsed by absl, so ``--flag=value``, ``--flag value``, ``--noflag`` and
comma-separated lists behave as in any absl program. Flag files are expanded here, not by absl,
because an error in one should name the file and the line. ``--help``, ``--helpshort`` and
``--version`` need no other option. Nothing here imports TensorFlow.
"""

import contextlib
import dataclasses
import difflib
import errno
import gc
import importlib
import importlib.abc
import importlib.resources
import os
import shlex
import sys
import typing
from collections.abc import Callable, Collection, Iterator, Sequence
from importlib.resources.abc import Traversable
from pathlib import Path

from absl import flags

from medcolor_tf import __version__, interrupts
from medcolor_tf.errors import InputError
from medcolor_tf.help_text import full_help, meaning, own_first, positional, short_help, usage

CONFIG_FOLDER = "configs"
# For TensorFlow, before anything imports it; what the user has set stays. Its oneDNN kernels are
# off by default on some processors where they are faster, and it logs a page at every start.
ENVIRONMENT = {"TF_ENABLE_ONEDNN_OPTS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
# What TensorFlow and Keras import where it is installed, for uses that no command has: plots,
# notebooks, data frames given to `fit`, models of scikit-learn, conversion from JAX. A command
# without it starts in six tenths of the time. Our own imports of them come later and are as ever.
NOT_NEEDED = ("IPython", "jax", "matplotlib", "pandas", "scipy", "sklearn")
# Not empty where TensorFlow was imported and has not looked for devices yet.
_LEFT_TO_FORKS: list[bool] = []
# What disks and permissions refuse, where nobody has said more: a message, not a traceback.
REFUSED = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.EIO, errno.ENAMETOOLONG),
}


def option(
    default,
    help,
    choices: Sequence[str] | None = None,
    required: bool = False,
    positional: bool = False,
    group: str = "Options",
    replaces: Sequence[str] = (),
) -> typing.Any:
    """Declares a command's option as a dataclass field.

    Args:
        default: value without the flag; None for a number means "not set".
        help: one sentence for ``--help``.
        choices: the allowed values of a string option.
        required: whether an empty value is an error.
        positional: a string given as a bare word, in the order of the fields, not as a flag; the
            last one may be a tuple, which takes all words that are left.
        group: heading of ``--help`` under which the option stands; a required one stands above.
        replaces: other options that say the same in another way; where this one is given on the
            command line, what flag files say of those is dropped.
    """
    meta = {
        "help": help,
        "choices": choices,
        "required": required,
        "positional": positional,
        "group": group,
        "replaces": tuple(replaces),
    }
    if isinstance(default, list | dict):
        raise TypeError("defaults are immutable: use a tuple")
    return dataclasses.field(default=default, metadata=meta)


def parse(config_class: type, argv: Sequence[str]):
    """Parses ``argv`` (without the program's name) into ``config_class``.

    Raises:
        InputError: unknown flag, bad value, missing required flag, or an unreadable flag file; the
            message names the flag and, when it came from a flag file, the file and line.
    """
    arguments = expand_flagfiles(argv)
    values = _define(config_class)
    known = set(values)
    for argument, origin in arguments:
        _check_known(argument, origin, known)
    arguments = _without_replaced(config_class, arguments)
    try:
        rest = values(["program", *(argument for argument, _ in arguments)])[1:]
    except flags.Error as error:
        raise InputError(_with_origin(str(error), arguments)) from None
    words = _take_words(config_class, rest)
    settings = {}
    for field in dataclasses.fields(config_class):
        word = field.metadata["positional"]
        value = words.get(field.name, field.default) if word else values[field.name].value
        settings[field.name] = tuple(value) if isinstance(value, list) else value
        if field.metadata["required"] and value in (None, "", [], ()):
            name = field.name.upper() if word else f"flag --{field.name}"
            raise InputError(f"{name} is required: {meaning(field)}")
    return config_class(**settings)


def _without_replaced(
    config_class: type, arguments: list[tuple[str, str]]
) -> list[tuple[str, str]]:
    """Drops what flag files say where the command line says it by another option."""
    given = {_flag_name(argument) for argument, origin in arguments if not origin}
    replaced = {
        name
        for field in dataclasses.fields(config_class)
        if field.name in given
        for name in field.metadata["replaces"]
    }
    return [(a, origin) for a, origin in arguments if not origin or _flag_name(a) not in replaced]


def _flag_name(argument: str) -> str:
    return argument.lstrip("-").partition("=")[0]


def _take_words(config_class: type, words: list[str]) -> dict[str, str | tuple[str, ...]]:
    """Gives the words that are no flags to the positional fields, in their order."""
    fields = positional(config_class)
    for field, word in zip(fields, words, strict=False):
        choices = field.metadata["choices"]
        if choices and word not in choices:
            near = difflib.get_close_matches(word, choices, n=1)
            raise InputError(
                f"{field.name.upper()}: expected one of {', '.join(choices)}, received {word!r}"
                + (f"; did you mean {near[0]}?" if near else "")
            )
    values: dict[str, str | tuple[str, ...]] = dict(
        zip((field.name for field in fields), words, strict=False)
    )
    if words and fields and isinstance(fields[-1].default, tuple):
        return values | {fields[-1].name: tuple(words[len(fields) - 1 :])}
    if len(words) > len(fields):
        expected = f"expected {usage(fields)}; " if fields else ""
        raise InputError(
            f"unexpected argument {words[len(fields)]!r}: {expected}every option is given as "
            "--name=value"
        )
    return values


def run(config_class: type, function: Callable, description: str, argv=None) -> int:
    """Runs a command: parses, calls ``function(config)``, turns InputError into a short message.

    Args:
        config_class: frozen dataclass whose fields were made with :func:`option`.
        function: called with the parsed config; returns None or an exit status.
        description: what ``--help`` prints above the options.
        argv: arguments without the program's name; ``sys.argv[1:]`` when None.

    Returns:
        The exit status: 0, what ``function`` returned, 2 for bad input and for files that cannot be
        written, 130 or 143 after SIGINT or SIGTERM.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    argv = sys.argv[1:] if argv is None else list(argv)
    information = _information(config_class, description, argv)
    if information:
        print(information)
        return 0
    try:
        with interrupts.raising():
            return function(parse(config_class, argv)) or 0
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno not in REFUSED:
            raise
        print(f"error: {error.filename or 'a file'}: {error.strerror}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        words = getattr(error, "words", "") or "what was finished is kept, the same command goes on"
        print(f"\ninterrupted; {words}", file=sys.stderr)
        return interrupts.exit_status(error)


def _information(config_class: type, description: str, argv: Sequence[str]) -> str:
    """Returns what ``--help``, ``--helpshort`` or ``--version`` asks for, "" without them."""
    asked = set(argv)
    if asked & {"--version", "-version"}:
        return f"medcolor_tf {__version__}"
    if asked & {"--help", "-help", "-h", "--helpfull"}:
        return full_help(config_class, description)
    if asked & {"--helpshort", "-helpshort"}:
        return short_help(config_class, description)
    return ""


class _Absent(importlib.abc.MetaPathFinder):
    """Has some packages look as if they were not installed."""

    def __init__(self, names: Collection[str]):
        self.names = names

    def find_spec(self, fullname, path, target=None):
        """Raises what ``import`` raises where there is no such package."""
        if fullname in self.names:
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)
        return None


@contextlib.contextmanager
def _absent(names: Collection[str]) -> Iterator[None]:
    """Hides packages that are not imported yet; afterwards they can be imported as before."""
    finder = _Absent({name for name in names if name not in sys.modules})
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


@contextlib.contextmanager
def _without_collection() -> Iterator[None]:
    """Looks for no garbage meanwhile, nor ever among what is there afterwards.

    TensorFlow makes half a million objects that stay: looking through them again and again was a
    seventh of the time to a run's first step.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        if enabled:
            gc.enable()


@contextlib.contextmanager
def silent_errors() -> Iterator[None]:
    """Closes standard error to libraries that write to it below Python; exceptions come through."""
    kept, silent = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(silent, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(silent)


def import_tensorflow(devices: bool = True):
    """Returns TensorFlow, imported without its lines on the terminal and without NOT_NEEDED.

    It writes some, on missing GPUs above all, before its own log level counts; so standard error
    is closed to it while it is imported and looks for devices. Exceptions come through.

    Args:
        devices: also look for devices now. A process whose forks compute leaves that to them, with
            another call: what CUDA has begun does not survive a fork.
    """
    if "tensorflow" not in sys.modules or (devices and _LEFT_TO_FORKS):
        with silent_errors():
            on_tensorflow = os.environ.get("KERAS_BACKEND", "tensorflow") == "tensorflow"
            with _absent(NOT_NEEDED if on_tensorflow else ()), _without_collection():
                config = importlib.import_module("tensorflow").config
            if devices:
                config.list_physical_devices()
                if not on_tensorflow:  # it only reads data then, and would take all
                    config.set_visible_devices([], "GPU")
                _LEFT_TO_FORKS.clear()
            else:
                _LEFT_TO_FORKS.append(True)
    return sys.modules["tensorflow"]


def command_line(module: str, config) -> str:
    """Returns the shell command that runs ``module`` with every non-default value of ``config``."""
    words = ["python", "-m", module]
    for field in own_first(type(config)):
        value = getattr(config, field.name)
        if value == field.default:
            continue
        if field.metadata["positional"]:
            words += map(shlex.quote, value if isinstance(value, tuple) else (value,))
        elif isinstance(value, bool):
            words.append(f"--{'' if value else 'no'}{field.name}")
        else:
            text = ",".join(value) if isinstance(value, tuple) else value
            words.append(shlex.quote(f"--{field.name}={text}"))
    return " ".join(words)


def parse_shard(text: str) -> tuple[int, int] | None:
    """Reads a ``--shard``: "2/8" is (2, 8), "" is None; InputError for anything else."""
    number, slash, count = text.partition("/")
    if slash and number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count):
        return int(number), int(count)
    if text:
        raise InputError(f"--shard={text}: expected NUMBER/COUNT, as 2/8")
    return None


def expand_flagfiles(
    argv: Sequence[str], seen: tuple[Traversable, ...] = ()
) -> list[tuple[str, str]]:
    """Replaces each ``--flagfile=FILE`` by the file's lines.

    Returns:
        Pairs (argument, origin); origin is "" for the command line, else "FILE line N".
    """
    pairs: list[tuple[str, str]] = []
    words = iter(argv)
    for word in words:
        name, equals, value = word.partition("=")
        if name not in ("--flagfile", "-flagfile"):
            pairs.append((word, ""))
            continue
        value = value if equals else next(words, "")
        pairs += _read_flagfile(value, seen)
    return pairs


def _read_flagfile(name: str, seen: tuple[Traversable, ...]) -> list[tuple[str, str]]:
    path = _find_flagfile(name)
    if path in seen:
        raise InputError(f"flag file {path} includes itself")
    pairs = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        line = line.strip()
        if not line or line.startswith(("#", "//")):
            continue
        if not line.startswith("-"):
            raise InputError(f"{path} line {number}: expected --name=value, got {line!r}")
        for argument, origin in expand_flagfiles([line], (*seen, path)):
            pairs.append((argument, origin or f"{path} line {number}"))
    return pairs


def _find_flagfile(name: str) -> Traversable:
    """Finds a flag file; a bare name also in ./configs and among those of the installed package."""
    candidates: list[Traversable] = [Path(name)]
    if Path(name).name == name:
        candidates.append(Path(CONFIG_FOLDER) / name)
        candidates.append(importlib.resources.files("medcolor_tf") / CONFIG_FOLDER / name)
    for candidate in candidates:
        if name and candidate.is_file():
            return candidate
    raise InputError(
        f"--flagfile={name}: no such file; looked for {' and '.join(map(str, candidates))}"
    )


def _define(config_class: type) -> flags.FlagValues:
    """Defines one absl flag per field, in a registry of its own (no global state)."""
    values = flags.FlagValues()
    values.set_gnu_getopt(True)  # flags may follow positional words
    types = typing.get_type_hints(config_class)
    for field in dataclasses.fields(config_class):
        if not field.metadata["positional"]:
            _define_flag(field, types[field.name], values)
    return values


def _define_flag(field: dataclasses.Field, kind, values: flags.FlagValues) -> None:
    """Defines the flag of a field whose type is ``kind``: bool, int, ..., or that and None."""
    name, default, text = field.name, typing.cast(typing.Any, field.default), field.metadata["help"]
    if field.metadata["choices"]:
        choices = list(field.metadata["choices"])
        flags.DEFINE_enum(name, default, choices, text, flag_values=values)
    elif typing.get_origin(kind) is tuple:
        flags.DEFINE_list(name, list(default), text, flag_values=values)
    else:
        base = next((part for part in typing.get_args(kind) if part is not type(None)), kind)
        define = _DEFINITIONS.get(base, flags.DEFINE_string)
        define(name, default, text, flag_values=values)


_DEFINITIONS = {
    bool: flags.DEFINE_boolean,
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
}


def _check_known(argument: str, origin: str, known: set[str]) -> None:
    if not argument.startswith("-") or argument[1:2].isdigit():  # a negative number is a value
        return
    name = _flag_name(argument)
    plain = name.removeprefix("no") if name not in known else name
    if plain in known:
        return
    near = difflib.get_close_matches(name, sorted(known), n=1)
    hint = f"; did you mean --{near[0]}?" if near else "; --help lists the options"
    raise InputError(f"{origin + ': ' if origin else ''}unknown flag --{name}{hint}")


def _with_origin(message: str, arguments: list[tuple[str, str]]) -> str:
    """Adds the flag file and line to absl's message about a bad value."""
    for argument, origin in arguments:
        name = _flag_name(argument)
        if origin and f"--{name}=" in message:
            return f"{origin}: {message}"
    return message
