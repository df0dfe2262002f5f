"""The sources of images and labels: one file each, and one entry in :data:`SOURCES`.

A source's module has a function ``read(config)``, which returns a
:class:`data_prep.sources.source.Source`, and, where it has options of its own, a dataclass
``Options`` of :func:`medcolor_tf.commandline.option` fields, which become options of
``python -m data_prep.build``.
"""

import dataclasses
import importlib
from dataclasses import dataclass
from types import ModuleType

from data_prep.sources.groups import with_headers
from data_prep.sources.paths import refuse_unusable_paths
from data_prep.sources.patients import settle_patients
from medcolor_tf.data.labels import PAPER_POLICY


@dataclass(frozen=True)
class SourceEntry:
    """A kind of data set that can be built.

    Attributes:
        title: what it is, for ``--help``.
        module: where its reader and its own options are.
        shared_options: options of the build and of other sources that it takes as well.
        observations: labels that are read unless ``--observations`` names others; () where the
            source has no choice or no default.
        blank_policy: what a blank cell means unless ``--blank_policy`` says otherwise.
    """

    title: str
    module: str
    shared_options: tuple[str, ...] = ()
    observations: tuple[str, ...] = ()
    blank_policy: str = "zeros"

    def load(self) -> ModuleType:
        """Returns the module."""
        return importlib.import_module(self.module)

    def own_options(self) -> type | None:
        """Returns the dataclass of the options that the source declares, or None."""
        return getattr(self.load(), "Options", None)

    def option_names(self) -> tuple[str, ...]:
        """Returns the names of the options that the source takes and that are not for all."""
        own = self.own_options()
        fields = dataclasses.fields(own) if own else ()
        return (*(field.name for field in fields), *self.shared_options)


SOURCES = {
    "chexpert": SourceEntry(
        title="CheXpert, full size or small",
        module="data_prep.sources.chexpert",
        shared_options=("data_root", "observations"),
        observations=tuple(PAPER_POLICY),
    ),
    "chestxray14": SourceEntry(
        title="ChestX-ray14 of the NIH",
        module="data_prep.sources.chestxray14",
        shared_options=("data_root", "observations", "table"),
        observations=tuple(PAPER_POLICY),
    ),
    "mura": SourceEntry(
        title="MURA, a body part or all of them",
        module="data_prep.sources.mura",
        shared_options=("data_root",),
    ),
    "table": SourceEntry(
        title="any CSV or TSV file",
        module="data_prep.sources.table",
        shared_options=("observations",),
        blank_policy="ignore",
    ),
    "phantom": SourceEntry(
        title="drawn phantoms",
        module="data_prep.sources.phantom",
        shared_options=("data_root", "observations", "views"),
        observations=tuple(PAPER_POLICY),
    ),
}


def read_source(config):
    """Reads the data set that the build's options describe.

    Args:
        config: :class:`data_prep.options.BuildConfig`.

    Returns:
        A :class:`data_prep.sources.source.Source` with a patient for every image, and paths below
        its root unless ``--allow_outside_root``.

    Raises:
        InputError: a file or folder is missing, or holds something else than expected.
    """
    entry = SOURCES[config.source]
    observations = config.observations or entry.observations
    source = entry.load().read(dataclasses.replace(config, observations=observations))
    refuse_unusable_paths(source, config.allow_outside_root)
    source = with_headers(source, config, getattr(entry.load(), "GROUP_COLUMNS", {}))
    return settle_patients(source, config.unknown_patients, config.normalize_ids)
