"""Colorizers that travel: ``python -m medcolor_tf.colorizer save|table|publish|...``."""

import re
import sys
from dataclasses import dataclass

from medcolor_tf import commandline
from medcolor_tf.commandline import option
from medcolor_tf.errors import InputError

DESCRIPTION = """
Passes a trained colorizer T on, to other data sets, other labels and other people:

  python -m medcolor_tf.colorizer save RUN FILE
      T of a finished run's best checkpoint as FILE.safetensors, and FILE.json, which says how it
      was trained. --init_from=FILE.safetensors starts from it. RUN may also be a colorizer file
      (of one imported from PyTorch it keeps T alone) or hf://owner/name.
  python -m medcolor_tf.colorizer table RUN FILE
      The colours of a color_map: FILE.png, the gray values and their colours below, and FILE.csv,
      a row of value, r, g, b for each of 256 gray values from black to white (of 16-bit images
      every 257th). 0 is black and 1 white; T may go beyond, the picture stops there. RUN is as for
      save; every run with --colorizer=color_map leaves both beside its weights.
  python -m medcolor_tf.colorizer publish RUN_OR_FILE hf://owner/name
      uploads both and a README.md to the Hugging Face hub, for --init_from=hf://owner/name. The
      token is HF_TOKEN's or that of `hf auth login`. With --what=model it uploads a run's whole
      classifier, for mc.load_classifier("hf://owner/name") and the page (medcolor_tf.demo), and
      with --space=FOLDER it writes a Hugging Face Space that runs this page on it.
  python -m medcolor_tf.colorizer import-torch CHECKPOINT FILE
      turns a checkpoint of the paper's authors (.pth or .safetensors) into a file for --init_from:
      T and, when it is torchvision's ResNet18 or DenseNet121, E.
"""


@dataclass(frozen=True)
class ColorizerConfig:
    """Words and options of the command."""

    action: str = option(
        "",
        "What to do, see above.",
        ("save", "table", "publish", "import-torch"),
        required=True,
        positional=True,
    )
    source: str = option(
        "", "Run folder, colorizer file, hf://owner/name, or checkpoint.", None, True, True
    )
    target: str = option("", "New file, or hf://owner/name.", None, True, True)
    what: str = option(
        "colorizer",
        "publish: the colorizer alone, or the whole classifier of a run folder.",
        ("colorizer", "model"),
        group="Publishing",
    )
    space: str = option(
        "",
        "publish --what=model: new folder for a Space (app.py, requirements.txt, README.md).",
        group="Publishing",
    )
    private: bool = option(False, "publish: nobody else sees it.", group="Publishing")
    license: str = option(
        "",
        "publish: licence of the weights as the hub names it (mit, cc-by-4.0); not set: unknown.",
        group="Publishing",
    )

    def check(self) -> None:
        """Raises InputError for options that contradict the action."""
        for name in ("private", "license"):
            if getattr(self, name) and self.action != "publish":
                raise InputError(f"--{name} goes with publish, not with {self.action}")
        if self.what == "model" and self.action != "publish":
            raise InputError(f"--what=model goes with publish, not with {self.action}")
        if self.space and self.what != "model":
            raise InputError("--space goes with publish --what=model")
        if not re.fullmatch(r"[a-z0-9.-]*", self.license):
            raise InputError(
                f"--license={self.license}: expected an identifier of "
                "https://huggingface.co/docs/hub/repositories-licenses, such as mit or cc-by-4.0"
            )


def _act(config: ColorizerConfig) -> None:
    config.check()
    commandline.import_tensorflow()
    from medcolor_tf.sharing import colorizer_file

    if config.action == "save":
        weights, card = colorizer_file.save(config.source, config.target)
        print(f"saved {weights} and {card}\nuse it with --init_from={weights}")
    elif config.action == "table":
        from medcolor_tf.sharing import colormap

        picture, table = colormap.save_table(config.source, config.target)
        print(f"saved {picture} and {table}")
    elif config.action == "publish" and config.what == "model":
        _publish_model(config)
    elif config.action == "publish":
        private, license_id = config.private, config.license
        address = colorizer_file.publish(config.source, config.target, private, license_id)
        print(f"published; this very version is --init_from={address}")
    else:
        weights, arrived = colorizer_file.import_torch(config.source, config.target)
        print(f"{arrived}\nuse it with --init_from={weights}")


def _publish_model(config: ColorizerConfig) -> None:
    from medcolor_tf.sharing import classifier_file

    if config.space:
        classifier_file.check_space(config.space)
    address = classifier_file.publish(config.source, config.target, config.private, config.license)
    print(f'published; this very version is mc.load_classifier("{address}")')
    if config.space:
        written = classifier_file.write_space(address, config.space)
        print(f"wrote {', '.join(map(str, written))}: upload them to a Space of the Gradio SDK")


def main(argv=None) -> int:
    """Runs the command; returns the exit status."""
    return commandline.run(ColorizerConfig, _act, DESCRIPTION, argv)


if __name__ == "__main__":
    sys.exit(main())
