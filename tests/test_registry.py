"""Tables that take entries by name."""

import pytest

from mmv_jax.errors import UserError
from mmv_jax.registry import Registry


class Round: ...


class Flat: ...


def test_entries_come_back_by_name_and_in_order():
    table: Registry = Registry("shape")
    table.register("flat", Flat)
    table.register("round", Round)
    assert table["round"] is Round
    assert list(table) == ["flat", "round"]
    assert dict(table.items()) == {"flat": Flat, "round": Round}
    assert "square" not in table and len(table) == 2


def test_an_unknown_name_names_the_nearest_one():
    table: Registry = Registry("shape")
    table.register("round", Round)
    with pytest.raises(UserError, match="no shape named 'rount'.*Did you mean round"):
        table["rount"]
    with pytest.raises(UserError, match="There are: round"):
        table["xyz"]


def test_a_taken_name_is_refused_but_the_same_entry_may_come_again():
    table: Registry = Registry("shape")
    table.register("round", Round)
    table.register("round", Round)
    with pytest.raises(UserError, match="already a shape named 'round'"):
        table.register("round", Flat)
