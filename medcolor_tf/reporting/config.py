"""The options of ``python -m medcolor_tf.report``."""

from dataclasses import dataclass

from medcolor_tf.commandline import option
from medcolor_tf.data.schema import SPLITS
from medcolor_tf.private_paths import PRIVATE_HELP


@dataclass(frozen=True)
class ReportConfig:
    """What to report, and where to."""

    runs: tuple[str, ...] = option(
        (), "Folders of studies or runs.", required=True, positional=True
    )
    out: str = option(
        "", "Folder for the report; an older report there is replaced.", required=True
    )
    split: str = option("test", "Whose evaluations to report.", SPLITS)
    private_paths: bool = option(False, PRIVATE_HELP)
    bootstrap_samples: int = option(2000, "Resamples of the test patients.")
