"""SavedModel that takes the image as the user has it and needs nothing but TensorFlow.

What comes before the model is data_prep's reading and resizing and the pipeline's centre square, in
TensorFlow operations (:mod:`medcolor_tf.serving.in_graph`), so that the exported model gives the
probabilities of ``medcolor_tf.predict``. Every export is compared with it before it has its name.
"""

from pathlib import Path

import tensorflow as tf

from medcolor_tf.errors import InputError
from medcolor_tf.files import remove_leftovers, replacing, write_json
from medcolor_tf.models import classify_and_colorize
from medcolor_tf.runs import folder
from medcolor_tf.serving.comparison import TOLERANCE, compare
from medcolor_tf.serving.saved_model import archive

EXTRA = "assets.extra"


def export(config) -> Path:
    """Exports a run; the folder appears under its name only when it is complete and was checked.

    Args:
        config: :class:`medcolor_tf.export.ExportConfig`.

    Returns:
        The SavedModel's folder.

    Raises:
        InputError: no such run, the folder exists or cannot be written, or the exported model does
            not give what ``predict`` gives.
    """
    out = Path(config.out or Path(config.run_dir) / folder.SAVED_MODEL)
    if out.exists():
        raise InputError(f"--out={out}: exists; expected a new folder")
    spec, classifier, step = folder.load_predictor(config.run_dir, config.weights)
    model = classify_and_colorize(classifier)
    remove_leftovers(out.parent, out.name)
    with replacing(out) as temporary:
        try:
            archive(spec, model).write_out(str(temporary), verbose=False)
            (temporary / EXTRA).mkdir()
            about = spec.to_dict() | {"step": step, "weights": config.weights}
            write_json(temporary / EXTRA / folder.MODEL, about)
            difference = compare(tf.saved_model.load(str(temporary)), model, spec)
        except tf.errors.OpError as error:
            raise OSError(0, error.message) from None
        if not difference <= TOLERANCE:
            raise InputError(
                f"--run_dir={config.run_dir}: the exported model and predict are up to "
                f"{difference:.2g} apart on made-up images; expected at most {TOLERANCE:g}, so "
                "nothing was exported"
            )
        if out.exists():
            raise InputError(f"--out={out}: another process has made it meanwhile")
    return out
