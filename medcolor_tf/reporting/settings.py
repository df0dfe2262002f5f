"""Settings: what runs share that are repeats of each other, and what tables call them."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from medcolor_tf.catalog import COLORIZERS, NO_COLORIZER, STRATEGIES


@dataclass(frozen=True)
class Setting:
    """What runs share that are repeats of each other.

    Attributes:
        strategy: as in design and flags.
        origin: strategy of the run that T (and E) come from, if that was on another data set.
        origin_data, origin_source: name and kind of that data set, or "".
        colorizer, colorizer_init: T and its initialisation; "none" and "paper" without one.
        backbone: name of E, a file's stem.
        fraction: share of the training images.
        options: (name, value) of every further option that is not at its default.
    """

    strategy: str
    origin: str
    origin_data: str
    origin_source: str
    colorizer: str
    colorizer_init: str
    backbone: str
    fraction: float
    options: tuple[tuple[str, str], ...] = ()

    @property
    def has_colorizer(self) -> bool:
        """Whether there is a T."""
        return self.colorizer != NO_COLORIZER

    @property
    def without_options(self) -> tuple:
        """What a table shows of it: settings that are equal in this are told apart by options."""
        return (
            *(self.strategy, self.origin, self.colorizer, self.colorizer_init),
            *(self.origin_data, self.backbone, self.fraction),
        )


def table_order(strategy: str) -> int:
    """Place of a strategy in tables; one that this version does not know comes last."""
    return STRATEGIES[strategy].table_order if strategy in STRATEGIES else len(STRATEGIES)


def trains_backbone(strategy: str) -> bool:
    """Whether E learns in a strategy; False for one that this version does not know."""
    return strategy in STRATEGIES and "backbone" in STRATEGIES[strategy].trains


def title(table: Mapping, name: str) -> str:
    """A variant as tables call it; one that this version does not know keeps its name."""
    if name == NO_COLORIZER:
        return "-"
    return table[name].title if name in table else name


def colorizer_label(setting: Setting) -> str:
    """T as a table calls it."""
    return init_label(setting.colorizer, setting.colorizer_init)


def init_label(colorizer: str, init: str) -> str:
    """A colorizer's title, and how it started where that is not its default."""
    return title(COLORIZERS, colorizer) + (
        "" if is_default_init(colorizer, init) else f" ({init} init)"
    )


def has_default_init(setting: Setting) -> bool:
    """Whether T started as it does where no initialisation is asked for; True without one."""
    return is_default_init(setting.colorizer, setting.colorizer_init)


def is_default_init(colorizer: str, init: str) -> bool:
    """As :func:`has_default_init`, of a colorizer and its initialisation by name."""
    entry = COLORIZERS.get(colorizer)
    return init == (entry.inits[0] if entry else "paper")


def strategy_label(setting: Setting, among: Iterable[Setting]) -> str:
    """The strategy, with the options in which it differs from settings that look like it."""
    label = title(STRATEGIES, setting.strategy)
    alike = [other for other in among if other.without_options == setting.without_options]
    if len(alike) < 2:
        return label
    common = set.intersection(*(set(other.options) for other in alike))
    special = [f"{name}={value}" for name, value in setting.options if (name, value) not in common]
    return f"{label} [{', '.join(special) or 'other options at their defaults'}]"


def full_label(setting: Setting, among: Collection[Setting]) -> str:
    """A setting's name where there are no columns: colorizer, strategy, and what else differs."""
    words = [colorizer_label(setting)] if setting.has_colorizer else []
    words.append(strategy_label(setting, among))
    if setting.origin:
        words.append(f"from {title(STRATEGIES, setting.origin)} on {setting.origin_data}".strip())
    text = " ".join(words)
    if len({other.backbone for other in among}) > 1:
        text += f", {setting.backbone}"
    if len({other.fraction for other in among}) > 1:
        text += f", {percent(setting.fraction)} of the images"
    return text


def size_label(setting: Setting, among: Iterable[Setting]) -> str:
    """As :func:`full_label`, for a line over training sizes."""
    return full_label(setting, [other for other in among if other.fraction == setting.fraction])


def percent(fraction: float) -> str:
    """A share of the training images: 0.001 is "0.1 %"."""
    return f"{100 * fraction:g} %"
