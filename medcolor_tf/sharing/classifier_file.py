"""A whole classifier C∘E∘T on the Hugging Face hub: published from a run, and loaded back.

A repository is a small run folder: the description of the model (model.json), its best weights
(best.safetensors), the copy of a backbone that came from a file, the decision where the run has
one, and the manifest with their SHA-256. To these come a card for people (README.md) and for
programs (card.json), and a drawn phantom with its heat map. No path and no image of the data.
"""

import json
import tempfile
from pathlib import Path

from medcolor_tf import __version__
from medcolor_tf.errors import InputError
from medcolor_tf.files import write_atomically
from medcolor_tf.models.spec import ModelSpec
from medcolor_tf.runs import folder as runs
from medcolor_tf.runs.load import LoadedRun, load_run
from medcolor_tf.sharing import classifier_card, hub
from medcolor_tf.sharing.colorizer_file import card_of_run

CARD, README, PICTURE = "card.json", "README.md", "phantom.jpg"
GRADIO = "6.31.0"  # that the page was tested with
SPACE_APP = '''\
"""Runs the page of medcolor_tf on a published classifier. Not a medical device."""

from medcolor_tf.demo import main

raise SystemExit(main(["--run_dir={address}", "--host=0.0.0.0", "--port=7860"]))
'''
SPACE_README = """\
---
title: {title}
sdk: gradio
sdk_version: {gradio}
python_version: "3.11"
app_file: app.py
models:
- {repository}
pinned: false
---

The page of medcolor_tf (`python -m medcolor_tf.demo`) with the classifier
[{repository}](https://huggingface.co/{repository}), at the commit that `app.py` names.

Films that visitors drop are read on this Space's computer and deleted once they are answered. Do
not invite anybody to send patients' images to a computer that is not allowed to have them.
Research software, not a medical device, not for diagnosis.

`requirements.txt` asks for this version of medcolor_tf; where no package index has it, put its
wheel into this folder and name the file there instead.
"""


def publish(source: str, address: str, private: bool = False, license_id: str = "") -> str:
    """Uploads a finished run's classifier and its card to the Hugging Face hub.

    Args:
        source: the run folder.
        address: hf://owner/name.
        private: whether nobody else may see it.
        license_id: the hub's name of the weights' licence; "" for none chosen.

    Returns:
        The address with the commit.

    Raises:
        InputError: no finished run there, damaged files, or see :func:`hub.publish`.
    """
    repository = hub.Address.parse(address).repository
    run = runs.Run(Path(source))
    if not run.folder.is_dir():
        raise InputError(f"{source}: no such folder; --what=model publishes a run folder")
    spec, classifier, _ = runs.load_classifier(source)  # what does not load is not passed on
    if not run.finished:
        raise InputError(
            f"{source}: the run has not finished (no {runs.RESULT}); the training command it was "
            "started with goes on with it"
        )
    card = card_of_run(run.folder, spec)
    picture = classifier_card.draw_picture(spec, classifier)
    files = _model_files(run, spec)
    files[CARD] = (json.dumps(card, indent=2) + "\n").encode()
    readme = classifier_card.make(card, spec, repository, license_id, PICTURE if picture else "")
    files[README] = str(readme).encode()
    if picture:
        files[PICTURE] = picture
    return hub.publish(address, files, private, "Classifier")


def _model_files(run: runs.Run, spec: ModelSpec) -> dict[str, bytes]:
    """Returns the files that make the model, as the run has them, and a manifest of these alone."""
    names = [runs.MODEL, runs.BEST]
    names += [runs.BACKBONE] if spec.backbone.endswith(".keras") else []
    names += [runs.DECISION] if (run.folder / runs.DECISION).is_file() else []
    contents = {name: run.checked(name).read_bytes() for name in names}
    with tempfile.TemporaryDirectory() as folder:
        copy = runs.Run(Path(folder))
        copy.write({**contents})
        manifest = (copy.folder / runs.MANIFEST).read_bytes()
    return contents | {runs.MANIFEST: manifest}


def download(address: str) -> tuple[Path, str]:
    """Fetches a published classifier, or finds it in the hub's cache.

    Returns:
        (the folder, which is read as a run's, and the address with its commit).

    Raises:
        InputError: no address, nothing arrived, or what arrived is damaged.
    """
    path, pinned = hub.download(address, runs.MANIFEST)
    manifest = json.loads(path.read_text(encoding="utf-8"))
    for name in (runs.MODEL, runs.BEST, runs.BACKBONE, runs.DECISION):
        if name in manifest.get("files", {}):
            hub.download(pinned, name)
    return path.parent, pinned


def load_classifier(source: str | Path, which: str = "best") -> LoadedRun:
    """Loads a classifier from a run folder or from the Hugging Face hub.

    Args:
        source: a run folder, or ``hf://owner/name`` (``hf://owner/name@commit`` always means the
            same weights), as ``python -m medcolor_tf.colorizer publish --what=model`` uploads it.
        which: "best" or, of a run folder alone, "last".

    Returns:
        As :func:`load_run`: a named tuple ``(model, observations, spec)``.

    Raises:
        InputError: no classifier there, no network, or damaged files.

    Example:
        >>> import medcolor_tf as mc
        >>> model, observations, spec = mc.load_classifier(run_dir)
        >>> len(observations) == model.output_shape[-1]
        True
    """
    if hub.is_address(str(source)):
        source, _ = download(str(source))
    return load_run(source, which)


def write_space(address: str, folder: str) -> list[Path]:
    """Writes a Hugging Face Space that runs the page: app.py, requirements.txt and README.md.

    Args:
        address: of the classifier, with its commit.
        folder: new, or empty.

    Returns:
        The files.

    Raises:
        InputError: the folder holds something, or cannot be written.
    """
    path, repository = Path(folder), hub.Address.parse(address).repository
    title = repository.partition("/")[2]
    contents = {
        "app.py": SPACE_APP.format(address=address),
        "requirements.txt": f"medcolor_tf[demo,dicom]=={__version__}\n",
        "README.md": SPACE_README.format(title=title, repository=repository, gradio=GRADIO),
    }
    try:
        path.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            write_atomically(path / name, content)
    except OSError as error:
        raise InputError(f"--space={folder}: cannot be written ({error.strerror})") from None
    return [path / name for name in contents]


def check_space(folder: str) -> None:
    """Raises InputError where a Space would be written over something."""
    path = Path(folder)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InputError(f"--space={folder}: not empty; expected a new folder")
