"""How often does each feature of a classifier, a run of a few bytes, occur in each of many texts?"""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from scipy.sparse import csr_array

STRETCH = 128  # bytes that a text is read in at a time
BEFORE = 8  # bytes that an automaton may remember; py3langid's features have up to seven


@dataclasses.dataclass(frozen=True)
class Automaton:
    """Byte b leads from state s to `following[base[s] + b]`, a state in which the feature `emits[...]` is seen, -1 = none.
    All int32; it begins in state 0."""

    following: np.ndarray
    base: np.ndarray
    emits: np.ndarray

    def counts(self, texts: Sequence[bytes], features: int) -> "csr_array":
        """How often each of so many features is seen in each text: f32 (texts, features). Numbers of texts and features together
        fit 31 bits.

        Texts are cut into stretches, and all stretches take a step at a time. No state remembers more than the last few bytes, so
        a stretch that does not begin its text begins `BEFORE` bytes early, from state 0, and what is seen until its own bytes
        come is left out. An assertion checks that it is by then where the stretch before has ended.
        """
        from scipy.sparse import csr_array

        cut = _Stretches.of(np.asarray([len(text) for text in texts], np.int64))
        data = np.frombuffer(b"".join(texts), np.uint8)
        states_TS = np.zeros((STRETCH + BEFORE, len(cut.text)), np.int32)
        now = np.zeros(len(cut.text), np.int32)
        for step, left in enumerate(cut.left()):
            now = self.following[self.base[now[:left]] + data[cut.start[:left] + step]]
            states_TS[step, :left] = now
        assert cut.meet(states_TS), f"the automaton remembers more than {BEFORE} bytes"
        emitted_TS = self.emits[states_TS]
        step_T1 = np.arange(len(states_TS))[:, None]
        own_TS = (step_T1 >= cut.before) & (step_T1 < cut.length) & (emitted_TS >= 0)
        seen = (cut.text * np.int32(features) + emitted_TS)[own_TS]
        seen.sort()
        is_new = np.ones(len(seen), bool)
        np.not_equal(seen[1:], seen[:-1], out=is_new[1:])
        first = np.flatnonzero(is_new)
        text, feature = np.divmod(seen[first], np.int32(features))
        rows = np.searchsorted(text, np.arange(len(texts) + 1))
        found = np.diff(first, append=len(seen)).astype(np.float32)
        return csr_array((found, feature, rows), shape=(len(texts), features))


@dataclasses.dataclass(frozen=True)
class _Stretches:
    """S stretches of texts that lie one after the other, the longest first; int (S,) each. Stretch s is the `number[s]`-th, of
    text `text[s]`, and reads `length[s]` bytes from `start[s]` on, of which the first `before[s]` are not its own."""

    number: np.ndarray
    text: np.ndarray
    start: np.ndarray
    length: np.ndarray
    before: np.ndarray

    @classmethod
    def of(cls, lengths: np.ndarray) -> "_Stretches":
        """Of texts with so many bytes."""
        count = -(-lengths // STRETCH)
        text = np.repeat(np.arange(len(lengths), dtype=np.int32), count)
        nth = np.arange(len(text)) - np.repeat(np.cumsum(count) - count, count)
        ends = np.cumsum(lengths)[text]
        begin = ends - lengths[text] + nth * STRETCH
        before = np.where(nth > 0, BEFORE, 0)
        length = before + np.minimum(ends - begin, STRETCH)
        order = np.argsort(-length, kind="stable")
        return cls(order, *(part[order] for part in (text, begin - before, length, before)))

    def left(self) -> list[int]:
        """How many have bytes left at each step: always the first ones."""
        steps = np.arange(self.length.max(initial=0))
        return (len(self.length) - np.searchsorted(self.length[::-1], steps, side="right")).tolist()

    def meet(self, states_TS: np.ndarray) -> bool:
        """Whether each stretch comes to its own bytes in the state in which the one before has ended."""
        begun, ended, continues = np.zeros((3, len(self.text)), np.int32)
        at = np.arange(len(self.text))
        continues[self.number] = self.before > 0
        begun[self.number] = states_TS[self.before - 1, at]
        ended[self.number] = states_TS[self.length - 1, at]
        return bool(((begun[1:] == ended[:-1]) | (continues[1:] == 0)).all())
