"""The backbone E: ResNet18, every keras.applications network by name, or a Keras model file."""

import difflib
import inspect
import logging
import re
import warnings
from pathlib import Path

import keras

from medcolor_tf.errors import InputError
from medcolor_tf.models.cloning import has_automatic_names, input_scaling, rebuild
from medcolor_tf.models.fast.replace import use_fast_layers
from medcolor_tf.models.resnet import build_resnet18
from medcolor_tf.models.torch_weights import load_torch_resnet18

RESNET18_REPOSITORY, RESNET18_FILE = "timm/resnet18.tv_in1k", "model.safetensors"
RESNET18_URL = f"https://huggingface.co/{RESNET18_REPOSITORY}/resolve/main/{RESNET18_FILE}"

_log = logging.getLogger(__name__)


def backbone_names():
    """List every backbone that can be named: ResNet18, then keras.applications' in order."""
    return ["ResNet18", *sorted(_applications().values(), key=str.lower)]


def build_backbone(name_or_path, weights="imagenet", seed=None):
    """Build E without pooling and head.

    Args:
        name_or_path: "ResNet18" (torchvision's), the name of any keras.applications network, in
            any case, or the path of a .keras file.
        weights: "imagenet"; None for random ones; or a local file: .safetensors with torchvision's
            names for ResNet18, .h5 or .weights.h5 for keras.applications. A .keras file has its
            own, whether this says "imagenet" or None.
        seed: of random weights; None draws afresh.

    Returns:
        A functional model named "backbone", (B,H,W,3) to (B,h,w,c), to be fed with normalised
        images: a network's own input scaling (EfficientNet's, for one) is taken out.

    Raises:
        InputError: unknown name; unsuitable file; or no network, then in two lines: what failed,
            and what to do.
    """
    name = str(name_or_path)
    if Path(name).suffix or "/" in name or "\\" in name:
        return _from_file(Path(name), weights)
    if weights not in ("imagenet", None) and not Path(weights).is_file():
        raise InputError(
            f"--backbone_weights={weights}: no such file; expected a file, or imagenet or none"
        )
    if name.lower() == "resnet18":
        return _resnet18(weights, seed)
    if name.lower() in _applications():
        return _application(_applications()[name.lower()], weights, seed)
    close = difflib.get_close_matches(name.lower(), ["resnet18", *_applications()], n=3)
    proper = {known.lower(): known for known in backbone_names()}
    hint = f"; did you mean {' or '.join(proper[match] for match in close)}?" if close else ""
    raise InputError(
        f"--backbone={name}: unknown; expected ResNet18, a network of "
        f"https://keras.io/api/applications by name, or the path of a .keras file{hint} "
        "(medcolor_tf.models.backbone_names() lists all)"
    )


def _resnet18(weights, seed):
    backbone = build_resnet18(seed)
    if weights == "imagenet":
        weights = _download_resnet18()
    if weights is not None:
        load_torch_resnet18(backbone, _read_safetensors(weights))
    return backbone


def _download_resnet18():
    """Fetch torchvision's weights through huggingface_hub: its cache, offline mode and mirrors."""
    import huggingface_hub

    try:
        return huggingface_hub.hf_hub_download(RESNET18_REPOSITORY, RESNET18_FILE)
    except Exception as error:  # the hub, its HTTP client and the file system each have their own
        raise _download_error("ResNet18", RESNET18_URL, error) from error


def _download_error(name, url, error):
    lines = str(error).strip().splitlines() or [""]
    reason = f"{type(error).__name__}: {lines[0]}"[:200]
    return InputError(
        f"--backbone={name}: its ImageNet weights could not be downloaded ({reason})\n"
        f"Download {url} on a machine with a network and pass --backbone_weights=FILE"
    )


def _read_safetensors(path):
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    if Path(path).suffix != ".safetensors":
        raise InputError(
            f"{path}: expected ResNet18 weights as .safetensors with torchvision's names "
            f"({RESNET18_URL}), received {Path(path).suffix or 'no suffix'}"
        )
    try:
        return load_file(path)
    except (SafetensorError, OSError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not a readable .safetensors file ({error})") from error


def _applications():
    """Map lower-case names to keras.applications' constructors' names."""
    public = vars(keras.applications).items()
    return {name.lower(): name for name, item in public if inspect.isfunction(item)}


def _application(name, weights, seed):
    if keras.config.image_data_format() != "channels_last":
        raise InputError(
            "keras.config.image_data_format(): expected channels_last, received channels_first"
        )
    constructor = getattr(keras.applications, name)
    arguments = {"include_top": False, "weights": weights, "input_shape": (None, None, 3)}
    if "include_preprocessing" in inspect.signature(constructor).parameters:
        arguments["include_preprocessing"] = False
    with keras.name_scope("backbone"):
        model = _construct(constructor, name, arguments)
        reseed = seed if weights is None else None
        scaling = input_scaling(model)
        if scaling or reseed is not None or has_automatic_names(model):
            model = rebuild(model, without=scaling, seed=reseed, copy=weights is not None)
        return _as_backbone(model)


def _construct(constructor, name, arguments):
    weights = arguments["weights"]
    try:
        with warnings.catch_warnings():
            # MobileNet notes that its size is open, which is what we ask for.
            warnings.filterwarnings("ignore", message="`input_shape` is undefined")
            # Keras warns and leaves layers at random where a file has nothing for them.
            warnings.filterwarnings("error", message="(?s).*(could not be loaded|Skipping )")
            return constructor(**arguments)
    except Exception as error:  # keras.utils.get_file raises plain Exception
        if weights == "imagenet" and _is_download_failure(error):
            url = re.search(r"https?://[^\s:]+", str(error))
            url = url.group() if url else "its weights (see https://keras.io/api/applications)"
            raise _download_error(name, url, error) from error
        if weights not in ("imagenet", None):
            raise InputError(
                f"{weights}: expected weights of {name} without its top (.h5 or .weights.h5), "
                f"received what Keras refuses: {_first_line(error)}"
            ) from error
        raise


def _is_download_failure(error):
    text = str(error)
    return isinstance(error, OSError) or "URL fetch failure" in text or "corrupted file" in text


def _first_line(error):
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def _from_file(path, weights):
    if path.suffix != ".keras":
        raise InputError(
            f"--backbone={path}: expected a .keras file, received {path.suffix or 'no suffix'}; "
            "save yours with model.save('NAME.keras')"
        )
    if not path.is_file():
        raise InputError(f"--backbone={path}: no such file; expected a Keras model file")
    if weights not in ("imagenet", None):
        raise InputError(
            f"--backbone_weights={weights}: {path} has its own weights; leave this flag out"
        )
    with keras.name_scope("backbone"):
        try:
            # safe_mode: no Lambda, so that opening somebody's file runs none of their code.
            model = keras.saving.load_model(path, compile=False, safe_mode=True)
        except Exception as error:  # zip, JSON, HDF5 and Keras each have their own
            raise InputError(
                f"--backbone={path}: expected a Keras model file without Lambda layers or unknown "
                f"classes, received what Keras refuses: {_first_line(error)}"
            ) from error
        _check_image_model(model, path)
        if input_scaling(model):
            _log.warning(
                "--backbone=%s: scales its input itself (%s), but is fed with normalised images",
                path,
                ", ".join(input_scaling(model)),
            )
        return _as_backbone(model)


def _check_image_model(model, path):
    """Raise InputError unless `model` maps one (B,None,None,3) image to one (B,h,w,c) map."""
    inputs, outputs = getattr(model, "inputs", None), getattr(model, "outputs", None)
    if not inputs or not outputs:
        raise InputError(
            f"--backbone={path}: expected a functional or built Sequential model, "
            f"received a {type(model).__name__} of unknown input shape"
        )
    if len(inputs) != 1 or len(outputs) != 1:
        raise InputError(
            f"--backbone={path}: expected one input and one output, "
            f"received {len(inputs)} and {len(outputs)}"
        )
    shape, found = tuple(inputs[0].shape), tuple(outputs[0].shape)
    if len(shape) != 4 or shape[-1] != 3 or "float" not in inputs[0].dtype:
        raise InputError(
            f"--backbone={path}: expected input (batch, height, width, 3) of floats, "
            f"received {shape} of {inputs[0].dtype}"
        )
    if shape[1:3] != (None, None):
        raise InputError(
            f"--backbone={path}: expected an input of any size (None, None, None, 3), received "
            f"{shape}; build it with input_shape=(None, None, 3), set its weights and save it again"
        )
    if len(found) != 4 or found[-1] is None:
        raise InputError(
            f"--backbone={path}: expected output (batch, height, width, channels), received "
            f"{found}; cut the model before its pooling and save that"
        )


def _as_backbone(model):
    """Wrap, flat: same variables, the name every part of the project looks for, fused layers."""
    model = use_fast_layers(model)
    return keras.Model(model.inputs[0], model.outputs[0], name="backbone")
