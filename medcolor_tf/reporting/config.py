"""The options of ``python -m medcolor_tf.report``."""

from dataclasses import dataclass

from medcolor_tf.commandline import option
from medcolor_tf.data.schema import SPLITS


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
    bootstrap_samples: int = option(2000, "Resamples of the test patients.")
