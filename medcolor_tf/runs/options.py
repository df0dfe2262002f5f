"""Options that commands on a finished run have in common."""

from dataclasses import dataclass

from medcolor_tf.catalog import VERIFICATIONS
from medcolor_tf.commandline import option


@dataclass(frozen=True, kw_only=True)
class InferenceOptions:
    """Which weights of a run, and how they are computed with."""

    weights: str = option(
        "best",
        "best by validation mean AUC, or last.",
        ("best", "last"),
        group="Images and weights",
    )
    batch_size: int = option(32, "Images at a time.", group="Memory and speed")
    mixed_precision: bool = option(
        False,
        "Compute T and E in bfloat16: faster where the processor has it, less exact.",
        group="Memory and speed",
    )


@dataclass(frozen=True, kw_only=True)
class LabelledImagesOptions(InferenceOptions):
    """The same, and how the images and labels of a prepared data set are read."""

    uncertain_policy: str = option(
        "", "Another policy than the data set's, as for training.", group="Images and weights"
    )
    verify: str = option(
        VERIFICATIONS[0],
        "How many of the shards are compared with their SHA-256: a sample of 64 MB, or all.",
        VERIFICATIONS,
        group="Images and weights",
    )
    max_bad_records: int = option(
        0,
        "Damaged records that may be left out; they are counted. 0: the first one is an error.",
        group="Images and weights",
    )
