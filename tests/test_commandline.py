"""Flags to a dataclass: values, flag files, typos, required options, help without TensorFlow."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from medcolor_tf import commandline
from medcolor_tf.commandline import option, parse
from medcolor_tf.errors import InputError

COMMANDS = (
    "medcolor_tf.train",
    "medcolor_tf.evaluate",
    "medcolor_tf.predict",
    "medcolor_tf.export",
    "medcolor_tf.find_lr",
    "medcolor_tf.colorizer",
    "medcolor_tf.experiment",
    "medcolor_tf.report",
    "data_prep.build",
    "data_prep.merge",
    "data_prep.verify",
    "data_prep.phantom",
)
CONFIGS = Path(__file__).parents[1] / "configs"


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
    assert "Words, in this order: WHERE ..." in commandline.help_text(ManyWords, "What it does.")
    with pytest.raises(InputError, match="WHERE is required"):
        parse(ManyWords, ["--loud"])


def test_help_lists_words_before_options():
    text = commandline.help_text(Words, "What it does.")
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
    import shlex

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


def test_bare_flag_file_names_are_found_in_configs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pairs = dict(commandline.expand_flagfiles(["--flagfile=stage1.flags"]))
    assert pairs["--strategy=color_module"].startswith(f"{CONFIGS / 'stage1.flags'} line ")


@pytest.mark.parametrize("file", sorted(path.name for path in CONFIGS.glob("*.flags")))
def test_every_flag_file_of_the_project_parses(file):
    from data_prep.options import BuildConfig
    from medcolor_tf.runs.config import TrainConfig
    from medcolor_tf.studies.grid import StudyConfig

    studies = ("table1", "table2", "table3", "figure6", "phantom")
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
    assert commandline.run(Options, None, "What it does.", ["--help"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("What it does.")
    for name in ("folder", "kind", "count", "share", "names", "loud"):
        assert f"--{name}" in text
    assert "a|b" in text


def test_help_and_flag_errors_import_neither_tensorflow_nor_keras():
    program = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]:\n"
        "    module = importlib.import_module(name)\n"
        "    assert module.main(['--help']) == 0, name\n"
        "    assert module.main(['--no_such_flag=1']) == 2, name\n"
        "assert not {'tensorflow', 'keras', 'torch'} & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", program, *COMMANDS], check=True, capture_output=True)
