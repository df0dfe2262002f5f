"""Runs the same short commands in two checkouts and compares every file that they leave.

    python -m tests.record.compare_checkouts BEFORE AFTER --work=FOLDER

Weights, logs, shards, predictions, pictures and the report's tables must be the same byte for byte;
in JSON files, and in the metadata of safetensors files, what names versions, times or this
machine's folders is left out. It takes some ten minutes on two cores; --only=train,report runs a
part. Exit status 1 where anything differs.
"""

import argparse
import csv
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

PYTHON = sys.executable
SMALL = (
    "--data_dir=data --colorizer=color_u --backbone=ResNet18 --backbone_weights=none "
    "--batch_size=8 --steps=6 --checkpoint_every=2 --max_lr=0.02 --deterministic --log_every=2"
)
BARE = SMALL.replace("--colorizer=color_u ", "")
FROM = SMALL.replace("--colorizer=color_u --backbone=ResNet18 ", "")
TRAIN = "medcolor_tf.train --run_dir=runs/{}"
# name -> (commands, environment); a command is the text after `python -m`.
PARTS = {
    "prep": (
        "data_prep.build --source=phantom --phantom_images=60 --short_side=48 --data_root=drawn "
        "--out=data --workers=1 --id_key_file=key --records_per_shard=16",
        "data_prep.verify data",
        "data_prep.build --source=chexpert --data_root=drawn --out=jpeg "
        "--workers=1 --id_key_file=key --short_side=32 --encoding=jpeg --views=frontal",
        "data_prep.build --source=table --table=table.csv --observations=Edema,Any=!No "
        "--patient_column=who --out=table --workers=1 --id_key_file=key --short_side=32 --bits=16 "
        "--valid_fraction=0.2",
        *(
            "data_prep.build --source=phantom --phantom_images=60 --short_side=48 "
            "--data_root=drawn --out=parts --workers=1 --id_key_file=key --records_per_shard=16 "
            f"--shard={part}/2"
            for part in (1, 2)
        ),
        "data_prep.merge --out=parts",
    ),
    "train": (
        f"{TRAIN.format('color_module')} --strategy=color_module {SMALL} --evaluate=test",
        f"{TRAIN.format('gray')} --strategy=color_module --colorizer_init=gray {SMALL}",
        f"{TRAIN.format('baseline')} --strategy=baseline {BARE}",
        f"{TRAIN.format('baseline_all')} --strategy=baseline_all {BARE}",
        f"{TRAIN.format('all')} --strategy=all --init_from=runs/color_module {FROM}",
        f"{TRAIN.format('last_layer')} --strategy=last_layer --init_from=runs/all {FROM}",
    ),
    "options": (
        f"{TRAIN.format('auto')} --strategy=color_module {SMALL} --max_lr=auto --cache=none",
        f"{TRAIN.format('once')} --strategy=baseline {BARE} --features=once --views=2",
        f"{TRAIN.format('policy')} --strategy=baseline_all {BARE} --uncertain_policy=ignore "
        "--train_fraction=0.5 --observations=Edema,Cardiomegaly --cache=device",
        f"{TRAIN.format('bfloat16')} --strategy=color_module {SMALL} --mixed_precision "
        "--frozen_bn=batch --image_size=32",
        f"{TRAIN.format('devices')} --strategy=all --init_from=runs/color_module {FROM} "
        "--devices=2",
        f"medcolor_tf.find_lr --run_dir=runs/find --strategy=color_module {SMALL}",
    ),
    "jax": (f"{TRAIN.format('jax')} --strategy=color_module {SMALL} --evaluate=test",),
    "resume": (f"{TRAIN.format('killed')} --strategy=color_module {SMALL} --steps=60",),
    "use": (
        "medcolor_tf.evaluate --run_dir=runs/all --data_dir=data",
        "medcolor_tf.predict --run_dir=runs/all --inputs=drawn/valid "
        "--out=predictions.csv --colorized_dir=colours --explain=heat",
        "medcolor_tf.colorizer save runs/all colours.safetensors",
        f"{TRAIN.format('reused')} --strategy=all --init_from=colours.safetensors "
        f"--backbone=ResNet18 {FROM} --normalization=source",
    ),
    "report": (
        "medcolor_tf.experiment --study_dir=study --name=study --data_dir=data "
        "--strategies=baseline,color_module,all --train_fractions=1 --seeds=0,1 "
        "--backbones=ResNet18 --backbone_weights=none --colorizers=color_u --batch_size=8 "
        "--steps=4 --checkpoint_every=2 --max_lr=0.02 --deterministic",
        "medcolor_tf.report study --out=report --bootstrap_samples=200",
    ),
    "errors": (
        "medcolor_tf.train --stepz=3",
        "medcolor_tf.train --run_dir=runs/x --data_dir=nowhere --steps=2",
        "medcolor_tf.evaluate --run_dir=nowhere --data_dir=data",
        "medcolor_tf.predict --run_dir=runs/all --inputs=broken.png --out=broken.csv",
        "data_prep.build --source=table --table=nowhere.csv --observations=A --out=never",
        "data_prep.verify nowhere",
        "medcolor_tf.train --help",
    ),
}
ENVIRONMENTS = {"jax": {"KERAS_BACKEND": "jax"}}
# Not results: event files hold times, logs of studies hold progress, drawings of curves hold ids.
IGNORED_SUFFIXES = (".svg", ".html", ".log", ".md", ".pb", ".lock")
IGNORED_PARTS = ("tensorboard", "logs", ".lock-all", ".lock")
LEFT_OUT = ("versions", "command", "seconds", "path", "python")


def main() -> int:
    """Compares; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__ and __doc__.splitlines()[0])
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--work", type=Path, required=True, help="new folder for the files")
    parser.add_argument("--only", default=",".join(PARTS), help="parts to run: %(default)s")
    parser.add_argument("--keep_before", action="store_true", help="WORK/before is there already")
    words = parser.parse_args()
    sides = {"before": words.before.resolve(), "after": words.after.resolve()}
    for side, checkout in sides.items():
        folder = words.work / side
        if side == "before" and words.keep_before and folder.is_dir():
            continue
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        run_parts(checkout, folder, words.only.split(","))
    differing = compare(words.work / "before", words.work / "after")
    for line in differing:
        print(line)
    count = len(list(files(words.work / "before")))
    print(f"{count} files compared, {len(differing)} differences")
    return 1 if differing else 0


def run_parts(checkout: Path, folder: Path, parts: list[str]) -> None:
    """Runs the commands of some parts with a checkout's code, in a folder of their own."""
    (folder / "key").write_text("0123456789abcdef" * 4)
    (folder / "broken.png").write_bytes(b"no picture")
    statuses = {}
    for part in parts:
        if part == "prep":
            write_table(folder)
        for command in PARTS[part]:
            start = time.perf_counter()
            if part == "resume":
                kill_once(checkout, folder, command)
            environment = ENVIRONMENTS.get(part, {})
            done = run(checkout, folder, command, environment)
            statuses[command] = done.returncode
            if part == "errors":
                statuses[f"{command}: message"] = done.stderr.replace(str(folder), "")
            print(f"{done.returncode} {time.perf_counter() - start:5.1f} s {command}", flush=True)
            if done.returncode and part != "errors":
                print(done.stdout[-3000:], done.stderr[-3000:], flush=True)
            if command.startswith("data_prep.build --source=phantom"):
                write_table(folder)
    text = json.dumps(statuses, indent=1)
    (folder / "statuses.json").write_text(text)


def start(checkout: Path, folder: Path, command: str, environment: dict) -> subprocess.Popen:
    """Starts a command as a user would, with the checkout's packages."""
    variables = os.environ | {"PYTHONPATH": str(checkout), "CUDA_VISIBLE_DEVICES": "-1"}
    return subprocess.Popen(
        [PYTHON, "-m", *command.split()],
        cwd=folder,
        env=variables | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(checkout, folder, command, environment) -> subprocess.CompletedProcess:
    """Runs a command to its end."""
    process = start(checkout, folder, command, environment)
    output, errors = process.communicate()
    return subprocess.CompletedProcess(command, process.returncode, output, errors)


def kill_once(checkout: Path, folder: Path, command: str) -> None:
    """Starts a run and kills it once it has a checkpoint."""
    process = start(checkout, folder, command, {})
    checkpoint = folder / command.split("--run_dir=")[1].split()[0] / "last.safetensors"
    deadline = time.monotonic() + 300
    while not checkpoint.is_file() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    print("killed at its first checkpoint" if process.poll() is None else "ended by itself")
    process.send_signal(signal.SIGKILL)
    process.communicate()


def write_table(folder: Path) -> None:
    """Writes a table of the drawn phantoms' first images, as a user's own CSV."""
    drawn = folder / "drawn/train.csv"
    if not drawn.is_file():
        return
    with open(drawn, newline="") as file:
        rows = list(csv.DictReader(file))
    with open(folder / "table.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "who", "Edema", "No"])
        for row in rows[:40]:
            _, *folders = row["Path"].split("/")  # the data set's own folder is called drawn here
            writer.writerow(
                ["/".join(["drawn", *folders]), folders[1], row["Edema"], row["No Finding"]]
            )


def files(folder: Path):
    """Yields the files whose content counts."""
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        ignored = (
            set(parts) & set(IGNORED_PARTS)
            or path.name.endswith(IGNORED_SUFFIXES)
            # Digests of files that hold this machine's folders; events hold times.
            or path.name.startswith(("manifest", "events.out"))
        )
        if path.is_file() and not ignored:
            yield path


def compare(before: Path, after: Path) -> list[str]:
    """Returns a line for each file that differs."""
    old, new = ({p.relative_to(side): p for p in files(side)} for side in (before, after))
    lines = [f"only before: {name}" for name in sorted(old.keys() - new.keys())]
    lines += [f"only after: {name}" for name in sorted(new.keys() - old.keys())]
    for name in sorted(old.keys() & new.keys()):
        expected = content(old[name], before)
        if expected != without_new_flags(content(new[name], after), expected):
            lines.append(f"differs: {name}")
    return lines


def without_new_flags(value, before):
    """Returns a JSON value without the options that BEFORE does not have: new ones are allowed."""
    if isinstance(value, dict) and isinstance(before, dict):
        flags = {"flags"} & value.keys() & before.keys()
        known = {k: {f: v for f, v in value[k].items() if f in before[k]} for k in flags}
        return {k: without_new_flags(v, before.get(k)) for k, v in (value | known).items()}
    if isinstance(value, list) and isinstance(before, list) and len(value) == len(before):
        return [without_new_flags(item, b) for item, b in zip(value, before, strict=True)]
    return value


def content(path: Path, root: Path):
    """Returns what of a file is compared."""
    if path.suffix == ".json":
        return without(json.loads(path.read_text()), root)
    if path.suffix == ".safetensors":
        return safetensors_content(path.read_bytes(), root)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def safetensors_content(data: bytes, root: Path):
    """Returns a weights file's metadata without what differs, its tensors' places, their hash."""
    end = 8 + int.from_bytes(data[:8], "little")
    places = json.loads(data[8:end])
    texts = places.pop("__metadata__", {})
    metadata = {name: without(json.loads(text), root) for name, text in texts.items()}
    return metadata, list(places.items()), hashlib.sha256(data[end:]).hexdigest()


def without(value, root: Path):
    """Returns a JSON value without what differs between two equal runs."""
    if isinstance(value, dict):
        return {k: without(v, root) for k, v in value.items() if k not in LEFT_OUT}
    if isinstance(value, list):
        return [without(item, root) for item in value]
    return value.replace(str(root.resolve()), "") if isinstance(value, str) else value


if __name__ == "__main__":
    sys.exit(main())
