"""Flags to a dataclass: values, flag files, typos, required options, help without TensorFlow."""

import dataclasses
import importlib
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from medcolor_tf import __version__, commandline
from medcolor_tf.commandline import option, parse
from medcolor_tf.errors import InputError
from medcolor_tf.help_text import full_help, short_help

COMMANDS = (
    "medcolor_tf.train",
    "medcolor_tf.evaluate",
    "medcolor_tf.calibrate",
    "medcolor_tf.predict",
    "medcolor_tf.export",
    "medcolor_tf.find_lr",
    "medcolor_tf.colorizer",
    "medcolor_tf.demo",
    "medcolor_tf.doctor",
    "medcolor_tf.experiment",
    "medcolor_tf.report",
    "data_prep.build",
    "data_prep.merge",
    "data_prep.verify",
    "data_prep.phantom",
)
ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "medcolor_tf" / "configs"


@dataclass(frozen=True)
class Options:
    folder: str = option("", "Where.", required=True)
    kind: str = option("a", "Which.", ("a", "b"))
    count: int = option(3, "How many.")
    share: float | None = option(None, "How much.")
    names: tuple[str, ...] = option((), "Who.")
    loud: bool = option(False, "Whether.")


@dataclass(frozen=True)
class Words:
    action: str = option("", "What.", ("push", "pull"), required=True, positional=True)
    folder: str = option("", "Where.", required=True, positional=True)
    note: str = option("none", "Why.", positional=True)
    loud: bool = option(False, "Whether.")


@dataclass(frozen=True)
class Length:
    steps: int = option(0, "How many steps.", replaces=("epochs", "least"))
    epochs: float = option(0.0, "How many epochs.", replaces=("steps",))
    least: int = option(0, "At least.")


def test_the_command_line_replaces_what_a_flag_file_says_in_another_way(tmp_path):
    file = tmp_path / "long.flags"
    file.write_text("--epochs=10\n--least=100\n")
    flagfile = f"--flagfile={file}"
    assert parse(Length, [flagfile]) == Length(0, 10.0, 100)
    assert parse(Length, ["--steps=24", flagfile]) == Length(24, 0.0, 0)
    assert parse(Length, [flagfile, "--steps=24"]) == Length(24, 0.0, 0)
    assert parse(Length, [flagfile, "--epochs=2"]) == Length(0, 2.0, 100)
    # On one level the two contradict each other, which is for the options' own check.
    assert parse(Length, ["--steps=24", "--epochs=2"]) == Length(24, 2.0, 0)
    file.write_text("--epochs=10\n--steps=5\n")
    assert parse(Length, [flagfile]) == Length(5, 10.0, 0)


def test_words_before_and_after_flags():
    assert parse(Words, ["push", "a b", "--loud", "c"]) == Words("push", "a b", "c", True)
    assert parse(Words, ["--noloud", "pull", "x"]) == Words("pull", "x")
    line = commandline.command_line("m", Words("push", "a b", "c", True))
    assert line == "python -m m push 'a b' c --loud"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "ACTION is required: push|pull. What."),
        (["pul", "x"], "ACTION: expected one of push, pull, received 'pul'; did you mean pull?"),
        (["push"], "FOLDER is required: Where."),
        (["push", "a", "b", "c"], "unexpected argument 'c': expected ACTION FOLDER NOTE; every"),
        (["push", "a", "--lout"], "unknown flag --lout; did you mean --loud?"),
        (["push", "--folder=a"], "unknown flag --folder"),
    ],
)
def test_errors_name_the_word(arguments, message):
    with pytest.raises(InputError) as error:
        parse(Words, arguments)
    assert message in str(error.value)


@dataclass(frozen=True)
class ManyWords:
    where: tuple[str, ...] = option((), "Folders.", required=True, positional=True)
    loud: bool = option(False, "Whether.")


def test_the_last_words_may_be_many():
    assert parse(ManyWords, ["a", "--loud", "b c"]) == ManyWords(("a", "b c"), True)
    assert commandline.command_line("m", ManyWords(("a", "b c"))) == "python -m m a 'b c'"
    assert "Words, in this order: WHERE ..." in full_help(ManyWords, "What it does.")
    with pytest.raises(InputError, match="WHERE is required"):
        parse(ManyWords, ["--loud"])


def test_help_lists_words_before_options():
    text = full_help(Words, "What it does.")
    assert "Words, in this order: ACTION FOLDER NOTE" in text
    assert text.index("push|pull. What.") < text.index("Where.") < text.index("--loud")
    assert "--folder" not in text


def test_values_of_every_type():
    found = parse(
        Options,
        ["--folder=x", "--kind", "b", "--count=5", "--share=.5", "--names=a b,c", "--loud"],
    )
    assert found == Options("x", "b", 5, 0.5, ("a b", "c"), True)
    assert parse(Options, ["--folder=x", "--noloud"]) == Options("x")
    assert parse(Options, ["--folder=x", "--count", "-2"]).count == -2


def test_the_command_line_of_a_config_parses_back():
    config = Options("a folder", "b", 5, 0.25, ("Any finding", "Edema"), True)
    words = shlex.split(commandline.command_line("some.module", config))
    assert words[:3] == ["python", "-m", "some.module"]
    assert parse(Options, words[3:]) == config


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "flag --folder is required: Where"),
        (["--folder=x", "--kin=b"], "unknown flag --kin; did you mean --kind?"),
        (["--folder=x", "--qqqqq"], "unknown flag --qqqqq; --help lists"),
        (["--folder=x", "--kind=c"], "kind"),
        (["--folder=x", "--count=many"], "--count=many"),
        (["--folder=x", "stray"], "unexpected argument 'stray'"),
        (["--flagfile=nowhere.flags"], "--flagfile=nowhere.flags: no such file; looked for"),
    ],
)
def test_errors_name_the_flag(arguments, message):
    with pytest.raises(InputError) as error:
        parse(Options, arguments)
    assert message in str(error.value)


def test_flag_files_nest_and_later_values_win(tmp_path):
    (tmp_path / "inner.flags").write_text("--count=7\n--kind=b\n")
    outer = tmp_path / "outer.flags"
    outer.write_text(f"# comment\n\n--folder=there\n--flagfile={tmp_path / 'inner.flags'}\n")
    found = parse(Options, [f"--flagfile={outer}", "--count=9"])
    assert found == Options("there", "b", 9)


def test_a_typo_in_a_flag_file_names_file_and_line(tmp_path):
    file = tmp_path / "my.flags"
    file.write_text("--folder=x\n# fine\n--cuont=4\n")
    with pytest.raises(InputError, match=r"my.flags line 3: unknown flag --cuont; .*--count"):
        parse(Options, [f"--flagfile={file}"])
    file.write_text("--folder=x\n--count=four\n")
    with pytest.raises(InputError, match=r"my.flags line 2: .*--count=four"):
        parse(Options, [f"--flagfile={file}"])
    file.write_text("folder=x\n")
    with pytest.raises(InputError, match=r"my.flags line 1: expected --name=value"):
        parse(Options, [f"--flagfile={file}"])
    file.write_text(f"--flagfile={file}\n")
    with pytest.raises(InputError, match="includes itself"):
        parse(Options, [f"--flagfile={file}"])


def test_a_flag_file_is_looked_up_here_then_in_configs_then_in_the_package(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def origin():
        pairs = commandline.expand_flagfiles(["--flagfile=stage1.flags"])
        return dict(pairs)["--strategy=color_module"]

    assert origin().startswith(f"{CONFIGS / 'stage1.flags'} line ")
    Path("configs").mkdir()
    Path("configs/stage1.flags").write_text("--strategy=color_module")
    assert origin() == "configs/stage1.flags line 1"
    Path("stage1.flags").write_text("\n--strategy=color_module")
    assert origin() == "stage1.flags line 2"


def test_a_missing_flag_file_is_an_error_that_names_where_it_was_looked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    places = f"looked for no.flags and configs/no.flags and {CONFIGS / 'no.flags'}"
    with pytest.raises(InputError, match=re.escape(places)):
        parse(Options, ["--flagfile=no.flags"])
    with pytest.raises(InputError, match=r"looked for sub/stage1.flags$"):
        parse(Options, ["--flagfile=sub/stage1.flags"])


def test_configs_in_the_checkout_are_those_of_the_package():
    assert (ROOT / "configs").resolve() == CONFIGS
    assert len(list((ROOT / "configs").glob("*.flags"))) > 10


@pytest.mark.parametrize("file", sorted(path.name for path in CONFIGS.glob("*.flags")))
def test_every_flag_file_of_the_project_parses(file):
    from data_prep.options import BuildConfig
    from medcolor_tf.runs.config import TrainConfig
    from medcolor_tf.studies.grid import StudyConfig

    studies = ("table1", "table2", "table3", "figure6", "phantom", "evidence")
    if file.startswith("prep_"):
        config_class = BuildConfig
    else:
        config_class = StudyConfig if file.removesuffix(".flags") in studies else TrainConfig
    extra = {
        "prep_": ["--out=x", "--data_root=x"],
        "demo.": ["--run_dir=x"],
    }.get(file[:5], ["--data_dir=x"])
    assert parse(config_class, [f"--flagfile={file}", *extra])


def test_the_flag_files_of_the_stages_fit_each_other():
    from medcolor_tf.runs.config import TrainConfig

    stage1, stage2 = (
        parse(TrainConfig, [f"--flagfile={name}.flags", "--data_dir=x"])
        for name in ("stage1", "stage2")
    )
    stage1.check()
    stage2.check()
    assert (stage1.strategy, stage2.strategy) == ("color_module", "all")
    assert stage2.init_from == stage1.run_dir
    assert stage1.checkpoint_every == stage2.checkpoint_every == 4800


def test_bad_input_ends_with_status_2_and_no_traceback(capsys):
    def refuse(config):
        raise InputError("row 3: no")

    assert commandline.run(Options, refuse, "Text.", ["--folder=x"]) == 2
    assert capsys.readouterr().err == "error: row 3: no\n"
    assert commandline.run(Options, lambda config: None, "Text.", ["--folder=x"]) == 0
    assert commandline.run(Options, lambda config: 1, "Text.", ["--folder=x"]) == 1


def test_help_lists_every_option(capsys):
    assert commandline.run(Options, print, "What it does.", ["--help"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("What it does.")
    for name in ("folder", "kind", "count", "share", "names", "loud"):
        assert f"--{name}" in text
    assert "a|b" in text


@dataclass(frozen=True)
class Common:
    size: int = option(8, "Pixels.", group="Images")
    quiet: bool = option(True, "Whether.")


@dataclass(frozen=True)
class Grouped(Common):
    folder: str = option("", "Where.", required=True, group="Images")
    kind: str = option("", "Which.", ("", "a", "b"), group="Own")
    names: tuple[str, ...] = option(("x", "y"), "Who. " + 30 * "words ", group="Own")


def test_options_stand_in_groups_the_required_ones_first_then_the_commands_own():
    expected = """\
What it does:

  in short

Required:
  --folder
Own:
  --kind=a|b  --names=x,y
Images:
  --size=8
Options:
  --noquiet

--help explains every option; --flagfile=FILE reads options from a file."""
    description = "\nWhat it does:\n\n  in short\n\nMore.\n"
    assert short_help(Grouped, description) == expected
    lines = full_help(Grouped, description).splitlines()
    headings = [line for line in lines if line.endswith(":") and not line.startswith(" ")]
    assert headings == ["What it does:", "Required:", "Own:", "Images:", "Options:"]
    assert "More." in lines
    assert "  --names  (default x,y)" in lines
    assert max(map(len, lines)) <= 100


def test_a_group_changes_nothing_in_what_is_parsed():
    assert parse(Grouped, ["--folder=f", "--noquiet", "--names=z"]) == Grouped(
        8, False, "f", "", ("z",)
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_help_fits_100_columns_and_short_help_one_screen(name, monkeypatch):
    calls = []
    monkeypatch.setattr(commandline, "run", lambda *arguments: calls.append(arguments))
    importlib.import_module(name).main([])
    config_class, _, description, _ = calls[0]
    fields = dataclasses.fields(config_class)
    flags = sorted(field.name for field in fields if not field.metadata["positional"])
    for make_help, screen in ((full_help, 1000), (short_help, 40)):
        lines = make_help(config_class, description).splitlines()
        assert max(map(len, lines)) <= 100
        assert len(lines) <= screen
        options = "\n".join(line for line in lines if line.startswith("  --"))
        assert sorted(re.findall(r"  --(\w+)", options)) == flags


@pytest.mark.parametrize("flag", ["--version", "-version"])
def test_version(flag, capsys):
    assert commandline.run(Options, print, "Text.", ["--count=3", flag]) == 0
    assert capsys.readouterr().out == f"medcolor_tf {__version__}\n"


def test_help_and_flag_errors_import_neither_tensorflow_nor_keras():
    program = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]:\n"
        "    module = importlib.import_module(name)\n"
        "    assert module.main(['--help']) == 0, name\n"
        "    assert module.main(['--helpshort']) == 0, name\n"
        "    assert module.main(['--version']) == 0, name\n"
        "    assert module.main(['--no_such_flag=1']) == 2, name\n"
        "assert not {'tensorflow', 'keras', 'torch'} & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", program, *COMMANDS], check=True, capture_output=True)


@pytest.mark.slow
def test_what_no_command_needs_is_not_imported_with_tensorflow():
    script = (
        "import gc, sys\n"
        "from medcolor_tf.commandline import NOT_NEEDED, import_tensorflow\n"
        "tf = import_tensorflow()\n"
        "import keras, medcolor_tf.training.trainer\n"
        "assert gc.isenabled() and gc.get_freeze_count() > 100_000\n"  # what is there for good
        "assert tf.__name__ == 'tensorflow' and keras.backend.backend() == 'tensorflow'\n"
        "assert not set(NOT_NEEDED) & set(sys.modules), set(NOT_NEEDED) & set(sys.modules)\n"
        "import matplotlib, pandas, scipy.stats, sklearn.metrics\n"  # as ever
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize(
    ("module", "flags", "words"),
    [
        (
            "train",
            ["--data_dir={}/no", "--run_dir={}/r", "--steps=1"],
            "no/dataset.json: no such file",
        ),
        (
            "find_lr",
            ["--data_dir={}/no", "--run_dir={}/r", "--steps=1"],
            "no/dataset.json: no such file",
        ),
        ("evaluate", ["--run_dir={}/no", "--data_dir={}/d"], "no/model.json: no such file"),
        ("predict", ["--run_dir={}/no", "--inputs={}", "--out={}/o"], "no/model.json: no such"),
        ("export", ["--run_dir={}/no"], "no/model.json: no such file"),
    ],
)
def test_a_folder_that_is_not_there_is_told_before_tensorflow_is_imported(
    module, flags, words, tmp_path, monkeypatch, capsys
):
    def imported(*arguments):
        raise AssertionError("TensorFlow was imported")

    monkeypatch.setattr(commandline, "import_tensorflow", imported)
    command = importlib.import_module(f"medcolor_tf.{module}")
    assert command.main([flag.format(tmp_path) for flag in flags]) == 2
    assert words in capsys.readouterr().err
