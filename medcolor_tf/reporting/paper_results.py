"""The values that the paper prints, to stand beside ours where a study is the paper's."""

from collections.abc import Mapping

from medcolor_tf.reporting.collect import EvaluationSet
from medcolor_tf.reporting.settings import Setting

OBSERVATIONS = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")

# Table I, CheXpert: (backbone, colorizer, strategy) -> (mean AUC, std), in percent.
TABLE_1: Mapping[tuple[str, str, str], tuple[float, float]] = {
    ("ResNet18", "none", "baseline"): (78.4, 0.5),
    ("ResNet18", "deconv", "color_module"): (84.0, 0.3),
    ("ResNet18", "pixel_shuffle", "color_module"): (83.4, 0.4),
    ("ResNet18", "color_u", "color_module"): (83.9, 0.8),
    ("ResNet18", "none", "baseline_all"): (89.6, 0.2),
    ("ResNet18", "deconv", "all"): (88.9, 0.3),
    ("ResNet18", "pixel_shuffle", "all"): (88.9, 0.1),
    ("ResNet18", "color_u", "all"): (89.3, 0.3),
    ("DenseNet121", "none", "baseline"): (78.6, 0.2),
    ("DenseNet121", "deconv", "color_module"): (83.5, 0.3),
    ("DenseNet121", "pixel_shuffle", "color_module"): (84.3, 0.8),
    ("DenseNet121", "color_u", "color_module"): (83.9, 0.5),
    ("DenseNet121", "none", "baseline_all"): (89.8, 0.2),
    ("DenseNet121", "deconv", "all"): (89.2, 0.2),
    ("DenseNet121", "pixel_shuffle", "all"): (89.6, 0.1),
    ("DenseNet121", "color_u", "all"): (89.7, 0.3),
}

# Table II, CheXpert with DenseNet121: (colorizer, strategy) -> (mean, std) in OBSERVATIONS' order.
TABLE_2: Mapping[tuple[str, str], tuple[tuple[float, float], ...]] = {
    ("none", "baseline_all"): ((85.4, 0.5), (82.7, 0.6), (94.9, 1.0), (93.2, 0.3), (89.8, 0.2)),
    ("pixel_shuffle", "all"): ((84.7, 1.7), (85.0, 1.8), (93.8, 0.8), (93.8, 0.9), (91.0, 0.6)),
}

# Table II's first row: CheXpert's authors (Irvin et al.), an ensemble of 30 checkpoints.
TABLE_2_CHEXPERT: Mapping[str, float] = dict(
    zip(OBSERVATIONS, (85.8, 84.0, 93.2, 94.1, 93.4), strict=True)
)

# Table III, ResNet18 and pixel_shuffle: (target, origin of T and E on CheXpert or "", strategy).
TABLE_3: Mapping[tuple[str, str, str], tuple[float, float]] = {
    ("mura", "", "baseline"): (73.0, 0.11),
    ("mura", "color_module", "last_layer"): (67.1, 1.2),
    ("chestxray14", "", "baseline"): (66.9, 0.1),
    ("chestxray14", "color_module", "last_layer"): (68.3, 1.4),
    ("chestxray14", "", "color_module"): (72.9, 0.1),
    ("chestxray14", "all", "last_layer"): (77.3, 0.5),
    ("chestxray14", "", "baseline_all"): (79.9, 0.06),
    ("chestxray14", "color_module", "all"): (79.4, 0.06),
    ("chestxray14", "", "all"): (79.2, 0.3),
    ("chestxray14", "all", "all"): (81.0, 0.1),
}


def mean_auc(group: EvaluationSet, setting: Setting) -> tuple[float, float] | None:
    """What the paper prints for a setting: (mean AUC, std) in percent; None if nothing.

    Only where the setting is the paper's own experiment: its data set, five labels, pretrained
    backbone, initialisation and all training images.
    """
    if not _is_papers(group, setting):
        return None
    if group.source == "chexpert" and not setting.origin:
        return TABLE_1.get((setting.backbone, setting.colorizer, setting.strategy))
    if setting.backbone == "ResNet18" and setting.colorizer in ("none", "pixel_shuffle"):
        return TABLE_3.get((group.source, setting.origin, setting.strategy))
    return None


def observation_auc(
    group: EvaluationSet, setting: Setting, observation: str
) -> tuple[float, float] | None:
    """As :func:`mean_auc`, of one observation (Table II)."""
    plain = group.source == "chexpert" and not setting.origin and setting.backbone == "DenseNet121"
    values = TABLE_2.get((setting.colorizer, setting.strategy)) if plain else None
    if values is None or not _is_papers(group, setting):
        return None
    return values[OBSERVATIONS.index(observation)]


def _is_papers(group: EvaluationSet, setting: Setting) -> bool:
    labels = set(group.observations)
    right = labels == set(OBSERVATIONS) if group.source != "mura" else len(labels) == 1
    pretrained = dict(setting.options).get("backbone_weights", "imagenet") == "imagenet"
    from_chexpert = setting.origin_source in ("", "chexpert")
    plain = setting.colorizer_init == "paper" and setting.fraction == 1
    return right and pretrained and from_chexpert and plain
