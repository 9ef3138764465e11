"""What does the page know of a run? Figures by language with intervals, curves, counts and answers."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Literal

Better = Literal["higher", "lower", ""]
Form = Literal["nats", "percent", "plain"]
BEFORE = "before"


@dataclasses.dataclass(frozen=True)
class Figure:
    """A number, with the ends of its 95 % interval where it has one."""

    value: float
    low: float | None = None
    high: float | None = None

    def overlaps(self, other: "Figure") -> bool:
        """Whether both intervals have a point in common; a figure without an interval is its one point."""
        (low, high), (other_low, other_high) = self.ends, other.ends
        return low <= other_high and other_low <= high

    def up_to(self, most: float) -> "Figure":
        """With everything above `most` cut off."""
        return Figure(min(self.value, most), *(min(end, most) for end in self.ends))

    @property
    def ends(self) -> tuple[float, float]:
        return (self.value if self.low is None else self.low), (self.value if self.high is None else self.high)


ByLanguage = Mapping[str, Figure]


@dataclasses.dataclass(frozen=True)
class Measure:
    """One quantity by language. Measures of several runs with the same `key` are set side by side.

    `of`: label of a model ("before", "after") -> language -> figure; the last label is what the run made. `average`: label ->
    the mean over languages, where the file that it came from has one. `change`: language -> after minus before, where it is known
    with an interval. `dominant`: languages that are already aligned, and belong to no average. `enough`: more than this is no
    better, as a gap beyond the dominant one. `notes`: sentences to be read with it."""

    key: str
    title: str
    form: Form
    better: Better
    of: Mapping[str, ByLanguage]
    average: ByLanguage = dataclasses.field(default_factory=dict)
    change: ByLanguage = dataclasses.field(default_factory=dict)
    dominant: Sequence[str] = ()
    enough: float = math.inf
    notes: Sequence[str] = ()

    @property
    def result(self) -> str:
        """The label of what the run made."""
        return list(self.of)[-1]

    @property
    def languages(self) -> list[str]:
        """In the order in which they come, the dominant ones first."""
        names = list(dict.fromkeys(language for figures in self.of.values() for language in figures))
        return sorted(names, key=lambda name: name not in self.dominant)

    def mean(self, label: str) -> Figure | None:
        """Over the languages that are not dominant; None where there is none."""
        if label in self.average:
            return self.average[label]
        values = [figure.value for language, figure in self.of[label].items() if language not in self.dominant]
        return Figure(math.fsum(values) / len(values)) if values else None


@dataclasses.dataclass(frozen=True)
class Answers:
    """What a model wrote to one prompt: (when, text), in order."""

    language: str
    prompt: str
    given: Sequence[tuple[str, str]]


@dataclasses.dataclass(frozen=True)
class Run:
    """`lead`: a line about it. `settings`: what was run, in short, by name; `config`: all of it, as text. `gap`: the reward gap.
    `safety`, `usefulness`: what else was measured. `curves`: metric -> (update, value). `audit`: language -> count -> rows."""

    name: str
    lead: str = ""
    settings: Mapping[str, str] = dataclasses.field(default_factory=dict)
    config: str = ""
    gap: Measure | None = None
    safety: Sequence[Measure] = ()
    usefulness: Sequence[Measure] = ()
    curves: Mapping[str, Sequence[tuple[float, float]]] = dataclasses.field(default_factory=dict)
    audit: Mapping[str, Mapping[str, int]] = dataclasses.field(default_factory=dict)
    answers: Sequence[Answers] = ()
