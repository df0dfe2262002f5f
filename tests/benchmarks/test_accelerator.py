"""The accelerator's benchmark, on the processor: its table, its rows and what its workers do."""

import importlib.util
from types import SimpleNamespace

import pytest
from forks import Forks

from benchmarks import accelerator
from benchmarks.accelerator import COMPILED, COUNTED, GRAPHS, AcceleratorConfig
from benchmarks.table import OURS

needs_jax = pytest.mark.skipif(
    importlib.util.find_spec("jax") is None, reason="jax is not installed"
)
WORKERS = """
import keras, numpy as np
from benchmarks import ours_jax
assert keras.backend.backend() == "jax"
ours_jax.augmentation({"size": 16, "batch": 2})(2)
ours_jax.device_images({"size": 8, "batch": 3, "count": 400})(2)
assert ours_jax.peak_bytes() >= 400 * 8 * 9
inputs = keras.Input((16, 16, 1), dtype="float32")
x = keras.layers.Conv2D(4, 3, padding="same", use_bias=False, name="learns")(inputs)
x = keras.layers.Conv2D(8, 1, use_bias=False, trainable=False, name="frozen")(x)
model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x))
model.compile(keras.optimizers.SGD(0.1), "mse")
ours_jax._model = lambda spec: model
spec = {"strategy": "some", "size": 16, "batch": 2}
ours_jax.counted(spec)(3)
forward = 2 * 16 * 16 * (9 * 4 + 4 * 8)
expected = 2 * (forward + 2 * 16 * 16 * (9 * 4 + 4 * 8))  # learns' kernel, frozen's input
flops = ours_jax.program()["flops"]
assert 0.85 * expected < flops < 1.3 * expected, (flops, expected)  # at borders less, sums more
ours_jax.batch_of = lambda spec: (np.ones((2, 16, 16, 1), "uint8"), np.ones((2, 8), "float32"))
before = model.get_layer("learns").get_weights()[0]
ours_jax.step(spec)(2)
after = model.get_layer("learns").get_weights()[0]
assert np.abs(after - before).max() > 0 and ours_jax.program()["bytes"] > 0
ours_jax.step({**spec, "strategy": ""})(2)
print("fine")
"""


@pytest.mark.slow
@needs_jax
def test_workers_train_infer_and_count():
    with Forks(KERAS_BACKEND="jax") as forks:
        done = forks.run(["-c", WORKERS])
    assert done.stdout.strip().endswith("fine"), done.stderr[-2000:]


def test_a_line_has_ratio_times_and_memory():
    row = accelerator.accelerator_rows(AcceleratorConfig(batch=64))[0][0]
    assert row.name == "color_module/ResNet18"
    program = {COUNTED: {"flops": 4e12}, OURS: {"bytes": 3e10}}
    rates = {OURS: [3000.0, 3200.0], COMPILED: [3100.0, 3000.0], GRAPHS: [3200.0, 3200.0]}
    variants = [
        SimpleNamespace(
            name=name, rates=rates.get(name, []), program=program.get(name, {}), peak=2**31
        )
        for name in row.specs
    ]
    device = {"flops": 8e14, "bytes": 3e12}
    assert accelerator.line(row, variants, device) == (
        "| color_module/ResNet18 | 3,100 | 3,050 | 3,200 | 0.97 (0.94 to 1.00) | 20.65 | 5.00 "
        "| 10.00 | 2.00 | 2.00 |"
    )
    failed = accelerator.line(row, variants[1:], device)
    assert failed == "| color_module/ResNet18 | failed | 3,050 | 3,200 |  |  | 5.00 |  |  | 2.00 |"


def test_rows_are_those_of_the_processor_in_bfloat16_and_the_devices_own():
    groups = accelerator.accelerator_rows(AcceleratorConfig(size=64, images=10))
    names = [row.name for group in groups for row in group]
    assert names[:2] == ["color_module/ResNet18", "all/ResNet18"]
    assert len(names) == 12
    assert names[-2:] == ["augmentation", "device_images"]
    specs = [spec for group in groups for row in group for spec in row.specs.values()]
    assert {spec["size"] for spec in specs} == {64}
    assert all(spec["bfloat16"] for spec in specs if "strategy" in spec)
    assert {spec["module"] for spec in specs} == {"ours_jax", "pytorch"}


@needs_jax
def test_rates_of_the_device_are_measured():
    found = accelerator.ceilings(side=64, count=1024)
    assert found["device"]
    assert found["flops"] > 0
    assert found["bytes"] > 0


def test_a_device_that_cannot_be_measured_is_an_error(monkeypatch):
    monkeypatch.setattr(accelerator, "CEILINGS", "raise SystemExit('no device')")
    with pytest.raises(accelerator.InputError, match="JAX says no device"):
        accelerator.ceilings()


def test_a_row_that_is_none_is_an_error(capsys):
    assert accelerator.main(["--rows=every"]) == 2
    assert "--rows=every: no such row" in capsys.readouterr().err
