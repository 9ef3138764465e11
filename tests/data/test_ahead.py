"""Batches that are made in a thread are the same ones, and what goes wrong there is told where it belongs."""

import threading

import pytest

from mpo_jax.data.ahead import ahead


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("batches")]


@pytest.mark.parametrize("count", [1, 3, 20])
def test_the_same_items_in_the_same_order(count):
    assert list(ahead(range(10), count)) == list(range(10))
    assert not threads()


def test_so_many_are_made_before_they_are_asked_for():
    made, third, fourth = [], threading.Event(), threading.Event()

    def make(k):
        made.append(k)
        {2: third, 3: fourth}.get(k, threading.Event()).set()
        return k

    items = ahead(map(make, range(10)), 3)
    assert next(items) == 0 and third.wait(10) and fourth.wait(10)  # 0 is taken, so 1, 2 and 3 wait
    items.close()
    assert made == [0, 1, 2, 3] and not threads()


def test_a_failure_is_raised_where_its_item_is_asked_for():
    def make(k):
        if k == 2:
            raise ValueError("row 2")
        return k

    items = ahead(map(make, range(10)))
    assert [next(items), next(items)] == [0, 1]
    with pytest.raises(ValueError, match="row 2"):
        next(items)
    assert not threads()
