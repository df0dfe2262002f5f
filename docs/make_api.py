"""Writes docs/api.md from the docstrings of the public API: ``python docs/make_api.py``."""

import inspect
import re
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "api.md"
GROUPS = {
    "Data": ("make_dataset",),
    "Models": ("build_classifier", "build_colorizer", "build_backbone", "load_torch_colorizer"),
    "Training": (
        *("MaskedBinaryCrossentropy", "MomentumSGD", "OneCycle", "one_cycle", "find_lr"),
        "set_lr_multipliers",
        "RandomRotationZoom",
    ),
    "Evaluation": ("roc_auc", "mean_auc"),
    "Runs": ("load_run", "load_classifier", "load_colorizer", "load_colormap"),
}
INTRODUCTION = """\
# Public API

Made from the docstrings by `python docs/make_api.py`; the examples run in the tests, where
`data_dir` is a prepared data set and `run_dir` a run on it.

```python
import medcolor_tf as mc
```

gives the names below, each imported on first use, and `mc.__version__`. From then on Keras knows
the package's layers, losses and optimizers in model files: `keras.models.load_model` needs no
custom objects. (B, H, W, C) are images per batch, height, width and channels; L is the number of
observations, each with one logit.
"""
# How Python prints a type, and what people call it.
NAMES = (
    (r"keras\.src\.(?:\w+\.)*", "keras."),
    (r"tensorflow\.[\w.]+\.DatasetV2", "tf.data.Dataset"),
    (r"\bnumpy\.", "np."),
    (r"\b(?:pathlib|medcolor_tf)\.(?:\w+\.)*", ""),
)
SECTIONS = re.compile(r"^(Args|Attributes|Returns|Raises|Example|Source):(.*)$")


def page() -> str:
    """Returns the page as Markdown."""
    import medcolor_tf as mc

    parts = [INTRODUCTION]
    for title, names in GROUPS.items():
        parts.append(f"## {title}\n")
        parts += [_entry(name, getattr(mc, name)) for name in names]
    return "\n".join(parts)


def _entry(name: str, public) -> str:
    kind = "class " if inspect.isclass(public) else ""
    lines = [f"### {name}\n", f"```python\n{kind}{_signature(name, public)}\n```\n"]
    for title, text in _sections(inspect.getdoc(public) or ""):
        lines.append(_section(title, text))
    return "\n".join(lines)


def _signature(name: str, public) -> str:
    """Returns the call on one line, or with a parameter per line; types by their public names."""
    signature = inspect.signature(public)
    parameters = []
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in parameters:
            parameters.append("*")
        parameters.append(str(parameter))
    text = f"{name}({', '.join(parameters)})"
    if len(text) > 90:
        text = f"{name}(\n" + "".join(f"    {parameter},\n" for parameter in parameters) + ")"
    if signature.return_annotation not in (signature.empty, None):
        text += f" -> {inspect.formatannotation(signature.return_annotation)}"
    for pattern, replacement in NAMES:
        text = re.sub(pattern, replacement, text)
    return text.replace("'", '"')


def _sections(doc: str) -> list[tuple[str, str]]:
    """Splits a docstring: ("", description), ("Args", ...), ... in its own order."""
    found, title, lines = [], "", []
    for line in doc.splitlines():
        if match := SECTIONS.match(line):
            found.append((title, lines))
            title, lines = match[1], [match[2].strip()] if match[2] else []
        else:
            lines.append(line)
    found.append((title, lines))
    return [(title, textwrap.dedent("\n".join(lines)).strip()) for title, lines in found]


def _section(title: str, text: str) -> str:
    if title == "Example":
        return f"```python\n{text}\n```\n"
    text = re.sub(r":\w+:`([^`]+)`", r"`\1`", text).replace("``", "`")
    if title in ("Args", "Attributes", "Raises"):
        return f"**{title}**\n\n" + "".join(map(_bullet, re.split(r"\n(?=\S)", text)))
    return f"**{title}**: {text}\n" if title else f"{text}\n"


def _bullet(item: str) -> str:
    """One "name: meaning", whose further lines are indented."""
    name, _, meaning = item.partition(":")
    meaning = re.sub(r"\n +", "\n  ", meaning)
    return f"- `{name}`:{meaning}\n"


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)}")
