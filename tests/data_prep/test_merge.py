"""Parts built apart and merged: the same bytes as one build, and what is said when it cannot be."""

import errno

import pytest

from data_prep import build, merge
from data_prep.building import output, shards
from medcolor_tf.data.schema import DatasetInfo
from medcolor_tf.errors import InputError

HALVES = ("--valid_fraction=0.25", "--test_fraction=0.25", "--records_per_shard=2")


@pytest.fixture
def id_key(tmp_path):
    path = tmp_path / "key"
    path.write_text("0123456789abcdef" * 2)
    return f"--id_key_file={path}"


@pytest.fixture
def run_merge(capsys):
    """The function that merges in this process; returns (status, output)."""

    def run(*words):
        status = merge.main([str(word) for word in words])
        captured = capsys.readouterr()
        return status, captured.out + captured.err

    return run


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def parts(make_table, run_build, table_flags, id_key):
    """The build's flags without --shard, and the whole that one machine makes of them."""
    flags = table_flags(make_table(), *HALVES, id_key)
    status, text, whole = run_build(*flags, out="whole")
    assert status == 0, text
    return flags, whole


def test_parts_in_one_folder_become_what_one_machine_makes(parts, run_build, run_merge):
    flags, whole = parts
    made = []
    for number in (3, 1, 2):  # in any order
        status, text, folder = run_build(*flags, f"--shard={number}/3")
        assert status == 0, text
        assert f"part {number}/3 is complete" in text
        assert f"python -m data_prep.merge --out={folder}" in text
        assert not (folder / "dataset.json").exists()
        made.append(len(list(folder.glob("*.tfrecord"))))
    assert made[0] < made[1] < made[2] == len(DatasetInfo.load(whole).shards)
    status, text = run_merge(f"--out={folder}")
    assert status == 0, text
    assert "data_prep.verify" in text
    assert contents(folder) == contents(whole)
    status, text = run_merge(f"--out={folder}")
    assert status == 0
    assert "already complete" in text
    assert "already complete" in run_build(*flags, "--shard=1/3")[1]


def test_parts_in_folders_of_their_own_are_gathered(parts, run_build, run_merge, tmp_path):
    flags, whole = parts
    for number in (1, 2):
        assert run_build(*flags, f"--shard={number}/2", out=f"part{number}")[0] == 0
    before = contents(tmp_path / "part1")
    status, text = run_merge(tmp_path / "part1", tmp_path / "part2", f"--out={tmp_path / 'out'}")
    assert status == 0, text
    assert contents(tmp_path / "out") == contents(whole)
    assert contents(tmp_path / "part1") == before


def test_files_are_copied_where_they_cannot_be_linked(
    parts, run_build, run_merge, tmp_path, monkeypatch
):
    flags, whole = parts
    assert run_build(*flags, "--shard=1/1", out="part")[0] == 0

    def refuse(*paths):
        raise OSError("another file system")

    monkeypatch.setattr(merge.os, "link", refuse)
    assert run_merge(tmp_path / "part", f"--out={tmp_path / 'out'}")[0] == 0
    assert contents(tmp_path / "out") == contents(whole)


def test_a_part_that_is_complete_is_not_made_again(parts, run_build, monkeypatch):
    flags, _ = parts
    _, _, folder = run_build(*flags, "--shard=2/3")
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*.tfrecord")}
    monkeypatch.setattr(build, "build_shard", lambda task: pytest.fail(task.file))
    status, text, _ = run_build(*flags, "--shard=2/3")
    assert status == 0
    assert "continuing" in text
    assert {path: path.stat().st_mtime_ns for path in folder.glob("*.tfrecord")} == before


def test_an_interrupted_part_continues(parts, run_build, run_merge, monkeypatch):
    flags, whole = parts
    real, seen = shards.build_shard, []

    def failing(task):
        seen.append(task.file)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return real(task)

    monkeypatch.setattr(build, "build_shard", failing)
    assert run_build(*flags, "--shard=1/2")[0] == 130
    monkeypatch.setattr(build, "build_shard", lambda task: seen.append(task.file) or real(task))
    for number in (1, 2):
        status, text, folder = run_build(*flags, f"--shard={number}/2")
        assert status == 0, text
    assert len(seen) == len(set(seen)) + 1  # only what was interrupted was begun again
    assert run_merge(f"--out={folder}")[0] == 0
    assert contents(folder) == contents(whole)


def test_a_whole_build_goes_on_in_parts_and_ends_without_merge(parts, run_build, monkeypatch):
    flags, whole = parts
    real = shards.build_shard

    def stop(task):
        raise KeyboardInterrupt

    monkeypatch.setattr(build, "build_shard", stop)
    assert run_build(*flags)[0] == 130
    monkeypatch.setattr(build, "build_shard", real)
    assert run_build(*flags, "--shard=2/3")[0] == 0
    status, text, folder = run_build(*flags)
    assert status == 0, text
    assert "continuing" in text
    assert contents(folder) == contents(whole)


def test_a_missing_part_is_named_with_its_command(parts, run_build, run_merge, tmp_path):
    flags, _ = parts
    for number in (1, 3):
        _, _, folder = run_build(*flags, f"--shard={number}/3")
    status, text = run_merge(f"--out={folder}")
    assert status == 2
    total = len(output.PlanRecord.load(folder).shards)
    count = total - len(list(folder.glob("*.tfrecord")))
    assert f"{count} of {total} shards are missing" in text
    assert "train-00001-of-" in text
    line = next(line for line in text.splitlines() if "--shard=" in line)
    assert line.startswith("  python -m data_prep.build --source=table --out=")
    assert line.endswith("--shard=2/3")
    assert text.count("--shard=") == 1
    assert not (folder / "dataset.json").exists()
    assert build.main(line.split()[3:]) == 0  # the command as it is printed
    assert run_merge(f"--out={folder}")[0] == 0


def test_rejects_are_counted_over_all_parts(
    make_table, run_build, table_flags, run_merge, id_key, capsys
):
    table = make_table()
    for name in ("SECRETFILE003.png", "SECRETFILE008.png"):
        (table.parent / "img" / name).write_bytes(b"")
    flags = table_flags(table, *HALVES, id_key, "--max_rejects=2")
    whole = run_build(*flags, out="whole")[2]
    builds = [run_build(*flags, f"--shard={number}/12") for number in range(1, 13)]
    assert not any(status for status, _, _ in builds), builds
    folder = builds[0][2]
    assert len(list(folder.glob("rejects-*-of-12.csv"))) == 2
    status, text = run_merge(f"--out={folder}", "--max_rejects=1")
    assert status == 2
    assert "2 images cannot be used, --max_rejects=1" in text
    assert "SECRETFILE008.png: empty file" in text
    status, text = run_merge(f"--out={folder}", "--max_rejects=2")
    assert status == 0, text
    assert contents(folder) == contents(whole)
    assert not list(folder.glob("rejects-*"))


def test_parts_of_different_builds_are_refused(
    parts, run_build, run_merge, tmp_path, make_table, table_flags
):
    flags, _ = parts
    key = tmp_path / "other_key"
    key.write_text("f" * 32)
    assert run_build(*flags, "--shard=1/2", out="part1")[0] == 0
    status, text, _ = run_build(*flags, f"--id_key_file={key}", "--shard=2/2", out="part1")
    assert status == 2
    assert "unfinished build with other options (id_key)" in text
    status, text, _ = run_build(*flags, "--shard=2/3", out="part1")
    assert status == 2
    assert "--shard=2/3: " in text
    assert "holds a build in 2 parts; expected --shard=NUMBER/2" in text
    other = {
        "other options (id_key)": (*flags, f"--id_key_file={key}", "--shard=2/2"),
        "other options (seed)": (*flags, "--seed=3", "--shard=2/2"),
        "other tables": (*table_flags(make_table(10, "less"), *HALVES, flags[-1]), "--shard=2/2"),
        "another number of parts (3, not 2)": (*flags, "--shard=2/3"),
    }
    for number, (message, words) in enumerate(other.items()):
        name = f"other{number}"
        assert run_build(*words, out=name)[0] == 0
        status, text = run_merge(tmp_path / "part1", tmp_path / name, f"--out={tmp_path / 'out'}")
        assert status == 2
        assert f"{tmp_path / name}: holds a part of a build with {message}" in text
        assert not (tmp_path / "out").exists()


def test_a_damaged_shard_is_found(parts, run_build, run_merge):
    flags, _ = parts
    for number in (1, 2):
        _, _, folder = run_build(*flags, f"--shard={number}/2")
    file = folder / output.PlanRecord.load(folder).shards[1][0]
    content = bytearray(file.read_bytes())
    content[50] ^= 1
    file.write_bytes(content)
    status, text = run_merge(f"--out={folder}")
    assert status == 2
    assert f"{file}: SHA-256 is not the one it was built with" in text
    assert "--shard=2/2" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--out=nowhere"], "plan.json: no such file; expected an unfinished build"),
        (["part", "--out=nowhere"], "plan.json: no such file"),
        (["--out=x", "--max_rejects=-1"], "--max_rejects=-1: expected at least 0"),
        ([], "flag --out is required"),
    ],
)
def test_bad_words(run_merge, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    status, text = run_merge(*words)
    assert status == 2
    assert message in text
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("shard", ["3/2", "0/2", "2", "a/b", "1/2/3", "-1/2"])
def test_bad_shards(make_table, run_build, table_flags, id_key, shard):
    status, text, _ = run_build(*table_flags(make_table(2), id_key, f"--shard={shard}"))
    assert status == 2
    assert f"--shard={shard}: expected NUMBER/COUNT, as 2/8" in text


def test_a_part_needs_a_key_and_writes_no_key_table(make_table, run_build, table_flags, id_key):
    flags = table_flags(make_table(2), "--shard=1/2")
    assert "--shard=1/2 needs --id_key_file=FILE" in run_build(*flags)[1]
    text = run_build(*flags, id_key, "--write_key_table")[1]
    assert "--write_key_table is not for a part" in text


def test_two_parts_write_at_once_but_not_the_same(tmp_path, make_table, run_build, table_flags):
    pytest.importorskip("fcntl")
    key = tmp_path / "key"
    key.write_text("0123456789abcdef")
    flags = table_flags(make_table(), *HALVES, f"--id_key_file={key}")
    _, _, folder = run_build(*flags, "--shard=1/2")
    record = output.PlanRecord.load(folder)
    with output.open_build(folder, record, "1/2"):
        with output.open_build(folder, record, "2/2"):
            pass
        with (
            pytest.raises(InputError, match=r"--shard=1/2: process \d+ on .* is writing there"),
            output.open_build(folder, record, "1/2"),
        ):
            pass
        with (
            pytest.raises(InputError, match="is writing there"),
            output.open_build(folder, record),
        ):
            pass


def test_file_systems_without_locks_are_built_on_with_a_warning(parts, run_build, monkeypatch):
    fcntl = pytest.importorskip("fcntl")

    def refuse(*arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    status, text, _ = run_build(*parts[0], "--shard=1/2")
    assert status == 0, text
    assert "lock-1-of-2: no locks there" in text
