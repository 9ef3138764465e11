"""Where on an axis does a number lie? Axes that begin and end at round numbers, and positions in percent of their length."""

import dataclasses
import math
from collections.abc import Iterable, Sequence

TICKS = 5  # about


@dataclasses.dataclass(frozen=True)
class Axis:
    """`ticks`: (position in percent, label). With `log` it is logarithmic."""

    low: float
    high: float
    ticks: Sequence[tuple[float, str]]
    log: bool = False

    def at(self, value: float) -> float:
        """In percent of the axis, rounded to a hundredth."""
        low, high, x = (math.log10(v) if self.log else v for v in (self.low, self.high, value))
        return round(100 * (x - low) / (high - low), 2)


def axis(values: Iterable[float], *, percent: bool = False, padded: bool = False) -> Axis:
    """A linear axis around the finite ones of these values. `percent`: labels are per cent of shares."""
    low, high = _ends(values)
    if padded:
        low, high = low - 0.06 * (high - low), high + 0.06 * (high - low)
    step = _round_step((high - low) / TICKS)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    low, high = first * step, last * step
    numbers = [i * step for i in range(first, last + 1)]
    shown = [(round(100 * (x - low) / (high - low), 2), _label(x, step, percent)) for x in numbers]
    return Axis(low, high, shown)


def log_axis(values: Iterable[float]) -> Axis | None:
    """A logarithmic axis around those that are above 0, with ticks at powers of ten, or at 1, 2 and 5 times them where they are
    few; None where none is above 0."""
    positive = [value for value in values if 0 < value < math.inf]
    if not positive:
        return None
    low, high = min(positive) / 1.05, max(positive) * 1.05
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1,) if math.log10(high / low) > 2.5 else (1, 2, 5)
    numbers = [factor * 10.0**k for k in decades for factor in factors if low <= factor * 10.0**k <= high]
    found = Axis(low, high, (), log=True)
    every = -(-len(numbers) // (TICKS + 2)) or 1
    return dataclasses.replace(found, ticks=[(found.at(number), f"{number:g}") for number in numbers[::every]])


def _ends(values: Iterable[float]) -> tuple[float, float]:
    finite = [value for value in values if math.isfinite(value)] or [0.0]
    low, high = min(finite), max(finite)
    wide = (high - low) or abs(high) or 1.0
    return (low, high) if high > low else (low - wide / 2, high + wide / 2)


def _round_step(least: float) -> float:
    """The smallest of 1, 2 or 5 times a power of ten that is at least this."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * (1 - 1e-9))


def _label(value: float, step: float, percent: bool) -> str:
    if percent:
        value, step = 100 * value, 100 * step
    text = f"{value:.{max(0, -math.floor(math.log10(step) + 1e-9))}f}"
    text = text.removeprefix("-") if float(text) == 0 else text
    return text.replace("-", "−") + ("%" if percent else "")
