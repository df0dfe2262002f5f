"""The authors' checkpoints through the import-torch command: what --init_from gets from them."""

import dataclasses
import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from medcolor_tf import colorizer
from medcolor_tf.models import build_backbone, build_colorizer
from medcolor_tf.models.torch_weights import _COLORIZER_NAMES, _RESNET_NAMES, torch_variables
from medcolor_tf.runs import checkpoint, folder
from medcolor_tf.runs.config import TrainConfig
from medcolor_tf.sharing import colorizer_file, pretrained
from medcolor_tf.training.plan import TrainPlan
from medcolor_tf.training.trainer import Trainer


def torch_state(model, names, prefix):
    """The model's own weights as PyTorch names and lays them out."""
    state = {}
    for name, variable in torch_variables(model, names).items():
        array = np.asarray(variable.numpy())
        array = np.transpose(array, (3, 2, 0, 1)) if array.ndim == 4 else array
        state[prefix + name] = np.ascontiguousarray(array)
    return state


def assert_same(first, second):
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


@pytest.fixture(scope="module")
def theta(tmp_path_factory):
    """A checkpoint under the authors' names: (file, T, E)."""
    T = build_colorizer("color_u", seed=3)
    E = build_backbone("ResNet18", weights=None, seed=1)
    state = torch_state(T, _COLORIZER_NAMES, "deco.")
    state |= torch_state(E, _RESNET_NAMES, "pt_model.")
    path = tmp_path_factory.mktemp("theta") / "theta_A.safetensors"
    save_file(state, path)
    return str(path), T, E


def named(model, part):
    return checkpoint.to_arrays(checkpoint.part_weights(part, model))


@pytest.mark.slow
def test_an_imported_checkpoint_brings_T_and_E(theta, small_dataset, tmp_path, capsys):
    path, T, E = theta
    assert colorizer.main(["import-torch", path, str(tmp_path / "theta")]) == 0
    out = capsys.readouterr().out
    assert "T (color_u) and E (ResNet18) arrived" in out
    config = TrainConfig(
        data_dir=str(small_dataset),
        run_dir=str(tmp_path / "run"),
        init_from=str(tmp_path / "theta.safetensors"),
        normalization="source",
        steps=1,
        batch_size=8,
    )
    for strategy in ("all", "last_layer"):
        plan = TrainPlan.from_config(dataclasses.replace(config, strategy=strategy))
        trainer = Trainer.build(plan, folder.Run(tmp_path / "run"))
        start = checkpoint.to_arrays(checkpoint.named_weights(trainer.classifier))
        expected = named(T, "colorizer") | named(E, "backbone")
        assert_same({k: v for k, v in start.items() if not k.startswith("head/")}, expected)
    assert (plan.spec.pixel_mean, plan.spec.pixel_std) == (0.5028, 0.2902)
    card = json.loads((tmp_path / "theta.json").read_text())
    assert (card["data"]["source"], card["image_size"], card["bits"]) == ("chexpert", 320, 8)
    assert card["origin"] == "PyTorch checkpoint theta_A.safetensors"


def test_T_alone_of_an_imported_checkpoint(theta, tmp_path):
    """The paper's transfer of T with an ImageNet backbone: save leaves E behind."""
    path, T, _ = theta
    colorizer_file.import_torch(path, str(tmp_path / "theta"))
    alone, _ = colorizer_file.save(str(tmp_path / "theta.safetensors"), str(tmp_path / "T"))
    source = pretrained.read_parts(str(alone))
    assert_same(source.arrays, named(T, "colorizer"))
    assert source.spec.backbone == ""
    assert source.card["training"]["backbone"] == "ResNet18"


def test_an_unknown_backbone_stays_behind(tmp_path, capsys):
    state = torch_state(build_colorizer("color_u"), _COLORIZER_NAMES, "deco.")
    save_file(
        state | {"pt_model.fire": np.zeros(2), "step": np.zeros(1)}, tmp_path / "t.safetensors"
    )
    words = ["import-torch", str(tmp_path / "t.safetensors"), str(tmp_path / "out")]
    assert colorizer.main(words) == 0
    out = capsys.readouterr().out
    assert "T (color_u) alone arrived: the backbone is neither" in out
    assert "(1 tensors, fire)" in out
    assert "ignored: step" in out
    assert pretrained.read_parts(str(tmp_path / "out.safetensors")).spec.backbone == ""
    assert colorizer.main(words) == 2
    assert "is there already" in capsys.readouterr().err
