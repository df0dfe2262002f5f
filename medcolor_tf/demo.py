"""A page to drop films on: ``python -m medcolor_tf.demo --run_dir=...``."""

import importlib.util
import sys
from dataclasses import dataclass

from medcolor_tf import commandline
from medcolor_tf.commandline import option
from medcolor_tf.errors import InputError

DESCRIPTION = """
Serves a page in the browser: drop JPEG, PNG, TIFF or DICOM files and see the gray image, the
colorized one, a heat map and the probability of every observation, as medcolor_tf.predict gives
them (with the calibrated probability, threshold and decision of a run that has decided them), and
what is known of the model. Several files give a table and a CSV. Needs the extra `demo`.

Only this computer can open the page, unless --host says otherwise. Nothing is sent anywhere; an
uploaded file is deleted once it is answered. Research software, not a medical device.
"""


@dataclass(frozen=True)
class DemoConfig:
    """Options of the command."""

    run_dir: str = option(
        "", "Folder of the run, or hf://owner/name of a published one; or give --model."
    )
    model: str = option("", "Folder of an exported SavedModel (it has no heat maps).")
    weights: str = option("best", "best by validation mean AUC, or last.", ("best", "last"))
    decision: str = option("", "Use another decision than the run's: a file, or none.")
    host: str = option(
        "127.0.0.1",
        "Address to listen on; 0.0.0.0 lets every computer of the network in, without a password.",
        group="Network",
    )
    port: int = option(7860, "Port to listen on; 0: any free one.", group="Network")
    share: bool = option(
        False,
        "Ask Gradio's servers for a public address: films then pass through them.",
        group="Network",
    )

    def check(self) -> None:
        """Raises InputError unless there is one model to show."""
        if bool(self.run_dir) == bool(self.model):
            raise InputError(
                "expected one of --run_dir (a run folder) and --model (an exported SavedModel), "
                f"received {'both' if self.model else 'neither'}"
            )
        if self.decision and self.model:
            raise InputError("--decision goes with --run_dir; an export holds its own")
        if not 0 <= self.port < 65536:
            raise InputError(f"--port={self.port}: expected 0 to 65535")


def _demo(config: DemoConfig) -> None:
    config.check()
    if importlib.util.find_spec("gradio") is None:
        raise InputError(
            "the page needs Gradio, which is not installed\nRun: pip install 'medcolor_tf[demo]'"
        )
    commandline.import_tensorflow()
    from medcolor_tf.serving import film, web
    from medcolor_tf.sharing import classifier_file, hub

    if hub.is_address(config.run_dir):
        folder, _ = classifier_file.download(config.run_dir)
        model = film.load_run_model(str(folder), config.weights, config.decision)
    elif config.run_dir:
        model = film.load_run_model(config.run_dir, config.weights, config.decision)
    else:
        model = film.load_exported_model(config.model)
    for address in web.serve(model, config.host, config.port, config.share):
        if config.host not in web.LOOPBACK or config.share:
            print("warning: other computers can open this page, without a password")
        print(f"Open {address} in a browser; Ctrl+C ends it", flush=True)


def main(argv=None) -> int:
    """Runs the command; returns the exit status."""
    return commandline.run(DemoConfig, _demo, DESCRIPTION, argv)


if __name__ == "__main__":
    sys.exit(main())
