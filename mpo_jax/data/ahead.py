"""How are the next batches made while the devices compute? In a thread, a few of them ahead."""

import collections
import concurrent.futures
from collections.abc import Generator, Iterable
from typing import TypeVar

AHEAD = 3  # batches that wait: enough for one that takes long to make, and little memory on the host

Item = TypeVar("Item")


def ahead(items: Iterable[Item], count: int = AHEAD) -> Generator[Item, None, None]:
    """The same items in the same order, of which up to `count` are made in a thread before they are asked for. What making one
    raises is raised where it is asked for. The thread ends with the iterator: close it where it is left early."""
    source, end = iter(items), object()
    thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="batches")
    try:
        made = collections.deque(thread.submit(next, source, end) for _ in range(count))
        while (item := made.popleft().result()) is not end:
            made.append(thread.submit(next, source, end))
            yield item  # pyright: ignore[reportReturnType]
    finally:
        thread.shutdown(cancel_futures=True)
