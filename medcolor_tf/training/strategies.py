"""Where T, E and C of a run start and what trains, by the strategy's entry in the catalog."""

import keras

from medcolor_tf.catalog import STRATEGIES, colorizer_init
from medcolor_tf.errors import InputError
from medcolor_tf.runs import checkpoint
from medcolor_tf.runs.config import TrainConfig
from medcolor_tf.sharing.pretrained import PretrainedParts

DEFAULT_COLORIZER = "pixel_shuffle"
DEFAULT_BACKBONE = "ResNet18"


def choose_parts(config: TrainConfig, source: PretrainedParts | None) -> tuple[str, str, str]:
    """Returns (colorizer, its initialisation, backbone) of a run; flags win only where they may.

    Args:
        config: the run's flags.
        source: what --init_from holds; None without the flag.

    Raises:
        InputError: flags that contradict the strategy or what --init_from holds.
    """
    strategy = STRATEGIES[config.strategy]
    name = f"--strategy={config.strategy}"
    if strategy.colorizer == "none":
        _refuse(config.colorizer not in ("", "none"), f"{name} has no T", "colorizer", config)
        _refuse(config.colorizer_init != "", f"{name} has no T", "colorizer_init", config)
        _refuse(source is not None, f"{name} starts from ImageNet", "init_from", config)
        return "none", "paper", config.backbone or DEFAULT_BACKBONE
    if source is None:
        if strategy.colorizer == "source":
            raise InputError(
                f"{name} needs --init_from: the run folder (or colorizer file) of an earlier run "
                "whose T it goes on with, for example --strategy=color_module's --run_dir"
            )
        _refuse(config.colorizer == "none", f"{name} trains a colorizer", "colorizer", config)
        colorizer = config.colorizer or DEFAULT_COLORIZER
        init = colorizer_init(colorizer, config.colorizer_init)
        return colorizer, init, config.backbone or DEFAULT_BACKBONE
    spec = source.spec
    if not spec.has_colorizer and config.strategy != "last_layer":
        raise InputError(f"{name}: {source.origin} has no colorizer (it was trained without)")
    for flag in ("colorizer", "colorizer_init", "backbone"):
        given, there = getattr(config, flag), getattr(spec, flag)
        if given and there and given != there and not _same_backbone_file(flag, given, there):
            raise InputError(f"--{flag}={given}: {source.origin} has {there}; leave the flag out")
    backbone = spec.backbone or config.backbone or DEFAULT_BACKBONE
    return spec.colorizer, spec.colorizer_init, backbone


def _same_backbone_file(flag: str, given: str, there: str) -> bool:
    return flag == "backbone" and given.endswith(".keras") and there.endswith(".keras")


def _refuse(condition: bool, why: str, flag: str, config: TrainConfig) -> None:
    if condition:
        raise InputError(f"{why}: --{flag}={getattr(config, flag)} contradicts it; leave it out")


def set_trainable(classifier: keras.Model, strategy: str, frozen_bn: str = "moving") -> None:
    """Freezes what the strategy does not train. Compile afterwards: fit ignores later changes.

    Args:
        classifier: with parts ``colorizer`` (not in baselines), ``backbone`` and ``head``.
        strategy: a key of STRATEGIES.
        frozen_bn: how a frozen part's batch normalisation works while training: "moving" uses the
            stored statistics (Keras' meaning of frozen); "batch" uses each batch's own and
            updates the stored ones, as in PyTorch where only requires_grad was switched off.
    """
    for name, part in checkpoint.parts(classifier).items():
        trains = name in STRATEGIES[strategy].trains
        part.trainable = trains
        if not trains and frozen_bn == "batch":
            # Layers stay "trainable", which is what batch statistics hang on; weights do not.
            part.trainable = True
            for variable in part.trainable_weights:
                variable.trainable = False
