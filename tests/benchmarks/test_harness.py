"""The harness of the benchmarks: its table, its workers' failures, and one row from end to end."""

import ast
import importlib
import itertools
import sys
import types

import pytest

from benchmarks import machine, profile, rows, run
from benchmarks.accelerator import AcceleratorConfig, accelerator_rows
from benchmarks.profile import Call, ProfileConfig, report
from benchmarks.table import OURS, STOCK, ratio, table_lines
from benchmarks.variant import Variant
from medcolor_tf import commandline
from medcolor_tf.errors import InputError
from medcolor_tf.parallel.runtime import precision

pytestmark = pytest.mark.slow


def measured(name, *rates, processor=2.0, peak=2**30):
    return types.SimpleNamespace(
        name=name, rates=list(rates), processor=[processor] * len(rates), peak=peak
    )


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_ratio_is_taken_round_by_round():
    # The machine slows to a half in the second round, for both: the ratio does not move.
    assert ratio(measured("a", 30, 15, 33), measured("b", 20, 10, 20)) == "1.50 (1.50 to 1.65)"


def test_table_compares_with_the_best_of_the_rivals_and_with_stock_keras():
    row = [
        measured(OURS, 30.0, 30.0, 30.0, processor=12.345, peak=3 * 2**29),
        measured(STOCK, 10.0, 12.0, 15.0),
        measured("torch eager", 20.0, 20.0, 90.0),  # the higher mean, the lower median
        measured("torch compile", 24.0, 25.0, 24.0),
    ]
    ours, stock, eager, compiled = map(
        cells, table_lines("row", row, ("torch eager", "torch compile"))
    )
    assert ours == [
        "row",
        OURS,
        "30.0",
        "1.25 (1.20 to 1.25)",
        "2.50 (2.00 to 3.00)",
        "12.3",
        "1.50",
    ]
    assert stock[3:5] == ["0.48 (0.42 to 0.62)", ""]
    assert eager[3] == "0.83 (0.80 to 3.75)"
    assert compiled[1] == "torch compile (best)"
    assert compiled[3] == ""


def test_table_without_rivals_has_no_ratios():
    (line,) = table_lines("row", [measured(OURS, 1234.5, 1234.5)], ("torch eager",))
    assert cells(line) == ["row", OURS, "1,234", "", "", "2.00", "1.00"]


def a_worker(monkeypatch, tmp_path, code, environment=None):
    """A variant whose module is `code`, imported as benchmarks.made_up."""
    (tmp_path / "made_up.py").write_text(code)
    (tmp_path / "sitecustomize.py").write_text(
        f"import benchmarks; benchmarks.__path__.append({str(tmp_path)!r})"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{run.RESULTS.parents[1]}")
    return Variant("made up", {"module": "made_up", "work": "build", "batch": 2}, 60, environment)


def test_worker_that_works_is_measured(monkeypatch, tmp_path):
    code = "import time\ndef build(spec): return lambda steps: time.sleep(0.02 * steps)"
    variant = a_worker(monkeypatch, tmp_path, code)
    assert variant.ready
    assert variant.calibrate(seconds=0.1)
    assert variant.rates == []
    assert 1 <= variant.steps <= 5
    assert variant.measure(5)
    assert 0 < variant.rates[0] <= 100  # two images a step of 20 ms or more
    assert variant.peak > 2**20
    variant.close()


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("import no_such_framework", "ModuleNotFoundError: No module named 'no_such_framework'"),
        ("def build(spec): raise ValueError('too small')", "ValueError: too small"),
        ("import os\ndef build(spec): os._exit(3)", "ended with status 3: nothing on"),
        (
            "import os, sys\n"
            "def build(spec):\n"
            "    os.write(2, b'first\\nout of memory\\n')\n"
            "    os.kill(os.getpid(), 9)",
            "ended with status -9: out of memory",
        ),
    ],
)
def test_worker_that_cannot_start_says_why(monkeypatch, tmp_path, code, problem):
    variant = a_worker(monkeypatch, tmp_path, code)
    assert not variant.ready
    assert problem in variant.problem
    variant.close()


def test_worker_that_dies_later_is_reported(monkeypatch, tmp_path):
    code = "import os\ndef build(spec): return lambda steps: steps < 7 or os._exit(5)"
    variant = a_worker(monkeypatch, tmp_path, code)
    assert variant.ready
    assert variant.measure(6)
    assert not variant.measure(7)
    assert variant.problem.startswith("ended with status 5")
    variant.close()


def test_worker_that_hangs_is_given_up(monkeypatch, tmp_path):
    code = "import time\ndef build(spec): return lambda steps: time.sleep(1000 * (steps > 2))"
    variant = a_worker(monkeypatch, tmp_path, code)
    assert variant.ready
    variant.timeout = 0.3
    assert not variant.measure(3)
    assert variant.problem == "no answer in 0.3 s"
    variant.close()
    assert variant._process.poll() is not None


CHILD = """
import os, time

def build(spec):
    ask, tell = os.pipe()
    done, say = os.pipe()
    if os.fork() == 0:
        os.close(tell)
        block = bytearray(b"x") * (50 << 20)
        while os.read(ask, 1):
            end = time.process_time() + 0.1
            while time.process_time() < end:
                pass
            os.write(say, b"x")
        os._exit(0)

    def run(steps):
        for _ in range(steps):
            os.write(tell, b"x")
            os.read(done, 1)

    return run
"""


def test_a_loaders_processes_count(monkeypatch, tmp_path):
    variant = a_worker(monkeypatch, tmp_path, CHILD)
    assert variant.ready
    assert variant.measure(2)
    assert variant.processor[0] > 40  # ms: the child burns 100 a step of two images
    assert variant.peak > 50 << 20
    variant.close()


def test_threads_wait_asleep_where_others_use_the_machine(monkeypatch, tmp_path):
    code = "import os\ndef build(spec): raise ValueError(os.environ.get('OMP_WAIT_POLICY'))"
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    for user, idle, found in ((5, 95, "None"), (60, 40, "PASSIVE")):
        times = iter([[0] * 8, [user, 0, 0, idle, 0, 0, 0, 0]])
        monkeypatch.setattr(machine, "_times", lambda times=times: next(times))
        busy = machine.busy_share(0)
        assert busy == pytest.approx(user / 100)
        variant = a_worker(monkeypatch, tmp_path, code, machine.waiting(busy))
        assert not variant.ready
        assert variant.problem == f"ValueError: {found}"
        variant.close()


def test_data_that_cannot_be_made_are_reported(tmp_path):
    def fails(folder):
        raise RuntimeError("disk full")

    config = run.BenchConfig()
    results = run.Results(config, tmp_path / "results.md")
    row = rows.Row("input/files", 1, {OURS: {}}, prepare=fails)
    assert run.measure_row(row, config, results, tmp_path) == []
    results.write()
    expected = "- input/files: its data could not be made, disk full"
    assert expected in results.path.read_text()


def test_one_row_from_end_to_end(tmp_path, monkeypatch, capsys):
    """Data preparation needs neither framework; the other rows differ in their workers alone."""
    all_rows = rows.all_rows

    def with_a_failure(config):
        found = all_rows(config)
        for row in found:
            row.specs.update({"broken": {"module": "no_such_module", "work": "step", "batch": 1}})
        return found

    monkeypatch.setattr(run, "all_rows", with_a_failure)
    out = tmp_path / "results.md"
    flags = ["--rows=preparation", "--picture_side=640", "--pictures=1", "--rounds=2"]
    flags += ["--seconds=0.05", f"--out={out}", "--leave_out=preparation:Pillow LANCZOS"]
    assert commandline.run(run.BenchConfig, run.benchmark, run.DESCRIPTION, flags) == 0
    text = out.read_text()
    assert capsys.readouterr().out.endswith(f"written to {out}\n")
    table = [cells(line) for line in text.splitlines() if line.startswith("| ")]
    names = [line[1] for line in table[1:]]
    assert names == [OURS, "Pillow BILINEAR", "Pillow thumbnail"]
    assert all(float(line[2].replace(",", "")) > 0 and float(line[6]) > 0 for line in table[1:])
    assert [bool(line[3]) for line in table[1:]] == [True, False, True]
    assert "- preparation, broken: ModuleNotFoundError" in text
    assert "- preparation, Pillow LANCZOS: --leave_out" in text
    assert "not asked for (--rows): augmentation, input/files" in text
    assert f"Python {sys.version.split()[0]}" in text
    assert "--picture_side=640" in text


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--rows=color_modul/ResNet18", "--rows=color_modul/ResNet18: no such row; its parts are"),
        ("--rounds=0", "--rounds=0: expected a number above zero"),
        ("--size=30", "--size=30: expected a multiple of 4"),
        ("--leave_out=ResNet18:torch fast", "no row has that one"),
    ],
)
def test_flags_that_make_no_sense(flag, message, capsys):
    assert commandline.run(run.BenchConfig, run.benchmark, run.DESCRIPTION, [flag]) == 2
    assert message in capsys.readouterr().err


def test_rows_are_chosen_by_their_parts():
    found = rows.all_rows(run.BenchConfig())
    names = {row.name for row in rows.choose(found, ("all/ResNet18", "inference/bfloat16"))}
    assert names == {
        "all/ResNet18/float32",
        "all/ResNet18/bfloat16",
        "inference/ResNet18/bfloat16",
        "inference/DenseNet121/bfloat16",
    }
    assert rows.choose(found, ()) == found
    with pytest.raises(InputError, match="no such row"):
        rows.choose(found, ("ResNet50",))


def test_profile_reads_and_sums_oneDNN_lines():
    head = "onednn_verbose,v1,primitive,exec,cpu"
    shape = "mb2_ic4oc8_ih6oh5kh3sh1dh0ph0_iw6ow5kw3sw1dw0pw0"
    lines = [
        "onednn_verbose,v1,info,cpu,runtime:OpenMP,nthr:2",
        f"{head},convolution,jit:avx512_core,forward_training,src wei,attr,alg:direct,{shape},3",
        f"{head},convolution,jit:avx512_core,backward_data,src wei,attr,alg:direct,{shape},1",
        f"{head},reorder,jit:uni,undef,src dst,,,2x4x6x6,0.5",
    ]
    assert Call.parse(lines[0]) is None
    calls = [call for line in lines[1:] if (call := Call.parse(line))]
    assert len(calls) == 3
    assert calls[0].direction == "forward"
    assert calls[0].flops == 2 * 2 * 4 * 8 * 5 * 5 * 3 * 3
    grouped = Call("convolution", "forward", "mb2_g4ic4oc4_ih6oh5kh3sh1dh0ph0", 1.0)
    assert grouped.flops == 2 * 2 * 4 * 5 * 5 * 3 * 3  # a square, one filter a channel
    text = "\n".join(report("ours", 0.01, calls, steps=2, shapes=5))
    assert "ours: 0.010 s a step" in text
    for name, numbers in (("forward", "1.5"), ("backward data", "0.5"), ("together", "2.0")):
        assert f"  {name:<20}{numbers:>9}" in text
    assert f"  {'reorder':<20}{'0.2':>9}" in text
    assert f"  {'outside oneDNN':<20}{'7.8':>9}" in text


def test_profile_of_a_row_says_how_much_faster_its_convolutions_alone_would_be(
    monkeypatch, tmp_path, capsys
):
    """PyTorch's step of 20 ms against 8 ms of ours in convolutions: at most 2.5 times as fast."""
    shape = "mb2_ic4oc8_ih6oh5kh3sh1dh0ph0"
    calls = {
        "ours": [
            Call("convolution", "forward", shape, 16.0),  # of two steps
            Call("batch_normalization", "forward", "", 2.0),
            Call("reorder", "", "", 4.0),
            Call("pooling", "", "", 2.0),
        ],
        "pytorch": [Call("convolution", "forward", shape, 20.0)],
    }
    seconds = {"ours": 0.015, "pytorch": 0.020}
    asked = []

    def run_worker(spec, steps):
        asked.append((spec["module"], spec.get("compile"), spec["size"], steps))
        return seconds[spec["module"]], calls[spec["module"]]

    monkeypatch.setattr(profile, "run", run_worker)
    out = tmp_path / "profile.md"
    rows_named = ("all/ResNet18/float32", "last_layer/DenseNet121/bfloat16")
    config = ProfileConfig(rows=rows_named, size=64, densenet_size=32, steps=2, out=str(out))
    profile.profile(config)
    # PyTorch is compiled where only the head trains: there that is its faster variant.
    assert asked == [
        ("ours", None, 64, 2),
        ("pytorch", False, 64, 2),
        ("ours", None, 32, 2),
        ("pytorch", True, 32, 2),
    ]
    lines = [cells(line) for line in out.read_text().splitlines() if line.startswith("| ")]
    ours, theirs = lines[1], lines[2]
    numbers = ["15", "8", "0.0", "0", "2", "1", "1", "3", "2.50"]
    assert ours == ["all/ResNet18/float32", OURS, *numbers]
    assert theirs[1:4] == ["torch eager", "20", "10"]
    assert theirs[-1] == "2.00"
    assert lines[4][1] == "torch compile"
    assert "outside oneDNN" in capsys.readouterr().out
    with pytest.raises(InputError, match=r"--rows=ResNet50: no such row"):
        profile.profile(ProfileConfig(rows=("ResNet50",)))
    with pytest.raises(InputError, match=r"--steps=0: expected a number above zero"):
        profile.profile(ProfileConfig(steps=0))


def test_every_row_names_functions_that_are_there():
    """By the source, since PyTorch may not be installed."""
    groups = [rows.all_rows(run.BenchConfig()), *accelerator_rows(AcceleratorConfig())]
    for row in itertools.chain(*groups):
        for spec in row.specs.values():
            source = (run.RESULTS.parent / f"{spec['module']}.py").read_text(encoding="utf-8")
            defined = {
                node.name
                for node in ast.parse(source).body
                if isinstance(node, (ast.FunctionDef, ast.ClassDef))
            }
            assert spec["work"] in defined


def do_here(spec, steps, **more):
    """Does a row's work in this process, and puts Keras' policy back."""
    with precision(spec.get("bfloat16", False)):
        work = getattr(importlib.import_module(f"benchmarks.{spec['module']}"), spec["work"])
        work(spec | more)(steps)


@pytest.mark.parametrize(
    ("name", "in_a_worker"),
    [("color_module/ResNet18/float32", OURS), ("inference/bfloat16", STOCK)],
)
def test_a_step_of_ours_and_of_stock_keras_runs(name, in_a_worker):
    """One of the two in a process of its own, as the benchmark does."""
    config = run.BenchConfig(size=32, densenet_size=32, batch=2)
    row = rows.choose(rows.all_rows(config), (name,))[0]
    for variant in (OURS, STOCK):
        if variant != in_a_worker:
            do_here(row.specs[variant], 1)
            continue
        worker = Variant(variant, row.specs[variant], 300)
        assert worker.ready, worker.problem
        assert worker.measure(1)
        worker.close()


def test_augmentation_and_input_run(tmp_path):
    config = run.BenchConfig(image_side=32, images=8, distinct=2, batch=4)
    by_name = {row.name: row for row in rows.all_rows(config)}
    for name in (OURS, STOCK):
        do_here(by_name["augmentation"].specs[name], 3)
    prepare = by_name["input/files"].prepare
    assert prepare is not None
    prepare(tmp_path)  # "memory" reads the same folder
    for kind in ("files", "memory"):
        do_here(by_name[f"input/{kind}"].specs[OURS], 3, folder=str(tmp_path))
