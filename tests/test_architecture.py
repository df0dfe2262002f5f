"""Imports go down only, between rooms and within them, and commands start without Keras.

Every import of medcolor_tf is read, those inside functions included.
"""

import ast
import functools
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("medcolor_tf", "data_prep")
# From the bottom up: a room imports from itself and from lower layers.
LAYERS = (
    ("errors",),
    ("schema_check",),
    ("catalog", "files", "help_text", "interrupts", "progress"),
    ("locks", "private_paths"),
    ("registration", "keras_ops"),
    ("commandline",),
    ("parallel",),
    ("models",),
    ("data", "runs"),
    ("evaluation",),
    ("sharing", "serving", "studies"),
    ("training", "reporting"),
    ("commands",),
    ("medcolor_tf",),  # the public names in its __init__
)
LAYER = {room: number for number, rooms in enumerate(LAYERS) for room in rooms}
COMMANDS = (
    *("train", "evaluate", "predict", "export", "experiment", "report", "find_lr", "colorizer"),
    "demo",
    *("doctor", "calibrate"),
)
# Numbers from predictions: no run, no training, and processes come in as arguments.
FORBIDDEN = {("evaluation", "runs"), ("evaluation", "training")}
KERAS_FREE = (
    *(
        "catalog",
        "commandline",
        "errors",
        "files",
        "interrupts",
        "locks",
        "progress",
        "runs.config",
        "runs.folder",
        "data.schema",
    ),
    *("data.labels", "private_paths"),
    *("studies", "reporting", *COMMANDS),
)
FRAMEWORKS = ("tensorflow", "keras", "torch", "jax")
# What a run folder's files are called is known to runs/folder.py alone.
FILE_NAMES = (
    *("config.json", "result.json", "log.csv", "last.safetensors", "best.safetensors"),
    *("lr_find.json", "lr_find.csv", "lr_find.png", "evaluation-", "predictions-", "colorized-"),
    *("decision.json", "operating-points-", "subgroups-", "units-"),
)


@dataclass(frozen=True)
class Import:
    """An import of a module by a module; ``lazy`` ones stand inside a function."""

    importer: str
    imported: str
    lazy: bool


def modules() -> dict[str, Path]:
    """Every module of the packages: "medcolor_tf.runs.folder" -> path."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@functools.cache
def parsed(path: Path) -> ast.Module:
    """A module's tree, parsed once for all tests."""
    return ast.parse(path.read_text(encoding="utf-8"))


def imports_of(name: str, path: Path, known) -> list[Import]:
    """The imports of one module, submodules named in full."""
    tree = parsed(path)
    top_level = _top_level(tree)
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            assert node.module is not None
            full = [f"{node.module}.{alias.name}" for alias in node.names]
            targets = [target if target in known else node.module for target in full]
        else:
            continue
        found += [Import(name, target, node not in top_level) for target in targets]
    return found


def _top_level(tree: ast.Module) -> set[ast.AST]:
    """Statements that run when the module is imported; those under TYPE_CHECKING do not."""
    found: set[ast.AST] = set()
    waiting: list[ast.AST] = list(tree.body)
    while waiting:
        node = waiting.pop()
        found.add(node)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            waiting += node.orelse
            continue
        waiting += ast.iter_child_nodes(node)
    return found


MODULES = modules()
IMPORTS = [found for name in MODULES for found in imports_of(name, MODULES[name], MODULES)]


def inner(name: str) -> str:
    """A module's name without the package's."""
    return name.removeprefix("medcolor_tf.")


def room(name: str) -> str:
    """ "medcolor_tf.runs.folder" -> "runs"; a command's module -> "commands"."""
    first = inner(name).split(".")[0]
    return "commands" if first in COMMANDS else first


def arrows() -> list[Import]:
    """The imports inside medcolor_tf."""
    return [
        found
        for found in IMPORTS
        if found.importer.split(".")[0] == found.imported.split(".")[0] == "medcolor_tf"
    ]


def test_every_room_has_a_layer():
    rooms = {room(name) for name in MODULES if name.startswith("medcolor_tf")}
    assert rooms <= set(LAYER)
    assert len(arrows()) > 200, "the imports were found"


def test_lazy_imports_are_seen(tmp_path):
    path = tmp_path / "module.py"
    path.write_text(
        "from typing import TYPE_CHECKING\n"
        "import keras\n"
        "if TYPE_CHECKING:\n    from medcolor_tf.runs import folder\n"
        "try:\n    import jax\nexcept ImportError:\n    jax = None\n"
        "def late():\n    from medcolor_tf.training.trainer import train\n"
    )
    found = {(one.imported, one.lazy) for one in imports_of("a", path, MODULES)}
    assert found == {
        ("typing", False),
        ("keras", False),
        ("jax", False),
        ("medcolor_tf.runs.folder", True),
        ("medcolor_tf.training.trainer", True),
    }


def test_imports_go_down():
    up = {
        (inner(found.importer), inner(found.imported))
        for found in arrows()
        if room(found.importer) != room(found.imported)
        and LAYER[room(found.importer)] <= LAYER[room(found.imported)]
        and found.imported != "medcolor_tf"  # its version
    }
    assert not up


def test_evaluation_knows_no_run_and_no_training():
    pairs = {(room(found.importer), room(found.imported)) for found in arrows()}
    assert not pairs & FORBIDDEN


def test_modules_import_each_other_in_no_circle():
    """Those at the top of a module; packages' own __init__ files give names on request."""
    needs = {name: set() for name in MODULES}
    for found in IMPORTS:
        if not found.lazy and found.imported in MODULES:
            needs[found.importer].add(found.imported)
    while leaves := {name for name in needs if not needs[name] & needs.keys()}:
        for name in leaves:
            del needs[name]
    assert not needs


def imported_at_start(name: str) -> dict[str, tuple[str, ...]]:
    """All modules that importing one imports: module -> by way of which."""
    by_importer: dict[str, list[str]] = {}
    for found in IMPORTS:
        if not found.lazy:
            by_importer.setdefault(found.importer, []).append(found.imported)
    seen, waiting = {}, [(name, (name,))]
    while waiting:
        module, way = waiting.pop()
        parts = module.split(".")
        for number in range(1, len(parts) + 1):  # a package's __init__ comes first
            step = ".".join(parts[:number])
            if step not in seen:
                seen[step] = way
                waiting += [(target, (*way, target)) for target in by_importer.get(step, ())]
    return seen


def keras_free_modules() -> list[str]:
    starts = tuple(f"medcolor_tf.{name}" for name in KERAS_FREE)
    return [
        name
        for name in MODULES
        if name in starts or name.startswith(tuple(s + "." for s in starts))
    ]


@pytest.mark.parametrize("name", keras_free_modules())
def test_what_commands_and_reports_share_starts_without_keras(name):
    seen = imported_at_start(name)
    ways = [" -> ".join(seen[framework]) for framework in FRAMEWORKS if framework in seen]
    assert not ways


def test_the_run_folder_alone_knows_its_file_names():
    knowing = set()
    for name, path in MODULES.items():
        if not name.startswith("medcolor_tf."):
            continue
        tree = parsed(path)
        documentation = {
            node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        }
        texts = [
            node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and node not in documentation
        ]
        # A name is a text of its own, or begins one; long texts speak of it.
        if any(text.startswith(FILE_NAMES) and len(text) < 40 for text in texts):
            knowing.add(inner(name))
    assert knowing == {"runs.folder"}


def test_keras_operations_come_from_one_module():
    """As a type checker finds the types of ``keras.ops``, they depend on the order of files."""
    users = set()
    for name, path in MODULES.items():
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.ImportFrom):
                taken = node.module == "keras" and any(a.name == "ops" for a in node.names)
            else:
                taken = isinstance(node, ast.Attribute) and ast.unparse(node) == "keras.ops"
            if taken:
                users.add(inner(name))
    assert users == {"keras_ops"}


def test_models_import_no_backend():
    """What keeps them portable is checked even where jax is not installed."""
    for path in (ROOT / "medcolor_tf" / "models").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if path.name in ("batch_norm.py", "stem.py"):  # TensorFlow inside their functions
            text = re.sub(r"^ +(?:import|from) tensorflow.*", "", text, flags=re.M)
        if path.name == "restricted_pickle.py":  # the numbers of opcodes, never its unpickler
            assert not re.search(r"pickle\.(?:loads?|_?Unpickler|_loads?)\b", text)
            text = text.replace("import pickle\n", "")
        found = re.findall(r"^\s*(?:import|from) (?:tensorflow|jax|torch|pickle)\b", text, re.M)
        assert not found, f"{path.name}: {found}"
        assert "layers.Lambda" not in text, path.name
