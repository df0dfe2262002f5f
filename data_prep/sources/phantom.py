"""Phantom radiographs, drawn into ``--data_root`` in CheXpert's layout and read as CheXpert."""

from dataclasses import dataclass

from data_prep.phantom import MIN_IMAGES, PhantomConfig, generate
from data_prep.sources import chexpert
from data_prep.sources.source import Source
from medcolor_tf.commandline import option
from medcolor_tf.errors import InputError


@dataclass(frozen=True)
class Options:
    """Options of this source alone."""

    phantom_images: int = option(
        700, "Number of images to draw for --source=phantom.", group="Phantoms"
    )


def read(config) -> Source:
    """Draws the data set if it is not there, then reads it as CheXpert.

    Raises:
        InputError: fewer images than make a data set, or the folder holds something else.
    """
    if config.phantom_images < MIN_IMAGES:
        raise InputError(
            f"--phantom_images={config.phantom_images}: expected at least {MIN_IMAGES}"
        )
    generate(PhantomConfig(out=config.data_root, images=config.phantom_images, seed=config.seed))
    return chexpert.read(config)
