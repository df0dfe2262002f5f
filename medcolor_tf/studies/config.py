"""The options of ``python -m medcolor_tf.experiment``."""

from dataclasses import dataclass

from medcolor_tf.catalog import NO_COLORIZER, STRATEGIES
from medcolor_tf.commandline import option
from medcolor_tf.data import schema
from medcolor_tf.parallel.cluster import CLUSTER_HELP
from medcolor_tf.runs.config import SharedOptions

# What can be transferred, and the runs whose T it can start from.
TRANSFERRED = tuple(name for name, entry in STRATEGIES.items() if entry.colorizer != NO_COLORIZER)
ORIGINS = tuple(name for name, entry in STRATEGIES.items() if "colorizer" in entry.trains)


@dataclass(frozen=True)
class StudyConfig(SharedOptions):
    """Options of ``python -m medcolor_tf.experiment``; the fields' help is the documentation."""

    name: str = option(
        "study", "Of the study; several may share a --study_dir and its runs.", group="Study"
    )
    study_dir: str = option("", "Folder of the study.", required=True)
    data_dir: str = option("", "Data set on which --strategies learn.", required=True)
    strategies: tuple[str, ...] = option(
        ("baseline", "color_module", "baseline_all", "all"),
        "Strategies on --data_dir; what they start from is added.",
        group="Grid",
    )
    colorizers: tuple[str, ...] = option(("pixel_shuffle",), "Colorizers T.", group="Grid")
    colorizer_inits: tuple[str, ...] = option(
        ("paper",), "Initialisations of T: paper, gray.", group="Grid"
    )
    backbones: tuple[str, ...] = option(
        ("ResNet18",), "Backbones E, names or .keras files.", group="Grid"
    )
    seeds: tuple[str, ...] = option(("0", "1", "2"), "A repeat each.", group="Grid")
    train_fractions: tuple[str, ...] = option(
        ("1",), "Shares of the training images, up to 1.", group="Grid"
    )
    subset_seeds: tuple[str, ...] = option(
        (),
        "Subsets of each share, all with each seed; not set: seed k takes subset k.",
        group="Grid",
    )
    target_dirs: tuple[str, ...] = option((), "Data sets to transfer to.", group="Transfer")
    target_strategies: tuple[str, ...] = option(
        ("baseline", "color_module", "baseline_all", "all"),
        "Strategies on the targets alone.",
        group="Transfer",
    )
    transfers: tuple[str, ...] = option(
        ("last_layer@color_module", "last_layer@all", "all@color_module", "all@all"),
        "Strategies on the targets that start from --data_dir's runs (of the largest share): "
        "STRATEGY@ORIGIN, with color_module, all or last_layer, from color_module or all.",
        group="Transfer",
    )
    target_observations: tuple[str, ...] = option(
        (), "Labels of the targets; not set: all.", group="Transfer"
    )
    transfer_normalization: str = option(
        "source",
        "Mean and std of the transfers' input: source's (the paper's choice) or target's.",
        ("source", "target"),
        group="Transfer",
    )
    overrides: tuple[str, ...] = option(
        (), "Options of one strategy: baseline:max_lr=0.02,all:epochs=20.", group="Grid"
    )
    tune_max_lr: tuple[str, ...] = option(
        (),
        "Values of --max_lr among which each strategy, colorizer and share of the images chooses "
        "its own before the study, by validation AUC on --tune_seeds, with the same number of "
        "trials; with the other --tune options, all combinations.",
        group="Tuning",
    )
    tune_head: tuple[str, ...] = option(
        (), "As --tune_max_lr, factors of C's learning rate (--lr_multipliers).", group="Tuning"
    )
    tune_colorizer: tuple[str, ...] = option(
        (), "As --tune_max_lr, factors of T's learning rate.", group="Tuning"
    )
    tune_backbone: tuple[str, ...] = option(
        (), "As --tune_max_lr, factors of E's learning rate.", group="Tuning"
    )
    tune: tuple[str, ...] = option(
        (),
        "Values of any other option of a run: bn_momentum=0.9|0.99,optimizer=sgd|adamw.",
        group="Tuning",
    )
    tune_seeds: tuple[str, ...] = option(
        ("100",), "Seeds of the trials; none of the study's.", group="Tuning"
    )
    tune_fraction: str = option(
        "",
        "Share of the training images with which the trials run, and whose choice holds for all of "
        "--train_fractions; not set: each share chooses its own.",
        group="Tuning",
    )
    tune_keep: int = option(
        3,
        "Successive halving: one trial in so many goes on, with runs that many times as long.",
        group="Tuning",
    )
    tune_cost: float = option(
        1.0, "What the trials may cost, as a multiple of the study's own runs.", group="Tuning"
    )
    tune_only: bool = option(False, "Stop when the tuning is done.", group="Tuning")
    evaluate: str = option(
        "test", "Split on which every run is evaluated.", schema.SPLITS, group="Study"
    )
    jobs: int = option(
        0, "Runs at a time; 0: one, one per GPU of --gpus, or what --cluster takes.", group="Study"
    )
    cluster: str = option("", f"{CLUSTER_HELP} --jobs is then the most at a time.", group="Study")
    gpus: tuple[str, ...] = option(
        (), "Numbers of the GPUs, one run each; not set: all for each.", group="Study"
    )
    shard: str = option(
        "", "2/8: the second of eight machines; each gets whole chains of runs.", group="Study"
    )
    dry_run: bool = option(
        False, "List the runs and their train commands, and stop.", group="Study"
    )
