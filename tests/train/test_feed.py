"""The thread that makes the next batch: order, errors, and its end."""

import threading

import pytest

from mmv_jax.train.feed import ahead


def test_items_come_in_order_and_no_more_than_one_is_made_ahead():
    made = []

    def items():
        for n in range(5):
            made.append(n)
            yield n

    with ahead(items()) as found:
        assert next(found) == 0
        for n in found:
            assert len(made) <= n + 2
    assert made == [0, 1, 2, 3, 4]


def test_an_error_is_raised_where_the_item_is_asked_for():
    def items():
        yield 1
        raise OSError("no more")

    with ahead(items()) as found, pytest.raises(OSError, match="no more"):
        assert list(found) == [1]


def test_leaving_ends_the_thread_and_closes_what_made_the_items():
    closed = threading.Event()

    def endless():
        try:
            while True:
                yield 0
        finally:
            closed.set()

    with ahead(endless()) as found:
        next(found)
    assert closed.is_set()
    assert "feed" not in {thread.name for thread in threading.enumerate()}
