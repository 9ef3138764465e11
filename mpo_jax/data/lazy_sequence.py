"""What is a sequence whose items are made when they are asked for?"""

import abc
from collections.abc import Iterator, Sequence
from typing import TypeVar, overload

Item = TypeVar("Item")


class LazySequence(Sequence[Item]):
    """A sequence by its length and `item`; of a slice the items are made at once."""

    @abc.abstractmethod
    def item(self, at: int) -> Item:
        """The item at this place; negative ones count from the end. Errors: IndexError beyond the ends."""

    @overload
    def __getitem__(self, at: int) -> Item: ...
    @overload
    def __getitem__(self, at: slice) -> list[Item]: ...
    def __getitem__(self, at: int | slice) -> Item | list[Item]:
        return [self.item(i) for i in range(*at.indices(len(self)))] if isinstance(at, slice) else self.item(at)

    def __iter__(self) -> Iterator[Item]:
        return map(self.item, range(len(self)))
