"""Sweeps over a function: its calls are the points, and no run is there."""

import json
import math

import numpy as np
import pytest

from diffjax import sweeps
from diffjax.config import ConfigError
from diffjax.sweeps import plan

CALLS = []


def power(base, exponent, shift=0.0, word="") -> dict:
    """A function that fails at 0 to a negative power."""
    CALLS.append((base, exponent))
    return {"value": float(base) ** exponent + shift, "length": len(word)}


def reserved(base) -> dict:
    return {"error": base}


def bare(base) -> float:
    return base


def made(root, grid, function=power):
    return sweeps.Sweep(function, grid, root=root)


def test_calls_are_made_once_with_values_as_they_were(tmp_path, capsys):
    CALLS.clear()
    grid = {"base": [2, 0.5], "exponent": [-1, 3], "word": ["mixture, 2-D"]}
    first = made(tmp_path, grid).run()
    assert CALLS == [(2, -1), (2, 3), (0.5, -1), (0.5, 3)]
    assert [row["value"] for row in first.table("value")] == [0.5, 8.0, 2.0, 0.125]
    assert [row["length"] for row in first.table()] == [12] * 4  # all that is measured is in the table
    assert "4 evaluations (4 done)" in capsys.readouterr().out
    grown = made(tmp_path, grid | {"exponent": [-1, 3, 2]}).run()
    assert CALLS[4:] == [(2, 2), (0.5, 2)]
    assert {row["value"] for row in grown.table("value")} == {0.5, 8.0, 4.0, 2.0, 0.125, 0.25}


def test_a_call_that_fails_is_a_row_and_the_others_go_on(tmp_path):
    rows = made(tmp_path, {"base": [0, 1], "exponent": [-2]}).run().table("value").rows
    assert [row["status"] for row in rows] == ["failed", "done"]
    assert rows[0]["error"].startswith("ZeroDivisionError")
    assert rows[1]["value"] == 1.0


def test_the_table_is_made_of_the_folder_alone(tmp_path):
    grid = {"base": [1.0, 2.0, 4.0], "exponent": [1, 2]}
    made(tmp_path, grid).run()
    rows = {row["exponent"]: row for row in sweeps.table(tmp_path, "value", over="base")}
    for exponent, row in rows.items():
        values = np.array([1.0, 2.0, 4.0]) ** exponent
        assert math.isclose(row["value"], values.mean())
        assert math.isclose(row["value ±"], values.std(ddof=1) / math.sqrt(3))
        assert (row["n"], row["of"]) == (3, 3)


def test_shards_part_the_calls(tmp_path):
    whole = made(tmp_path, {"base": range(7), "exponent": [1]}).plan
    parts = [{node.key for node in whole.shard(i, 3).nodes} for i in range(3)]
    assert sorted(map(len, parts)) == [2, 2, 3]
    assert set.union(*parts) == {node.key for node in whole.nodes}


def test_another_process_makes_the_plan_again(tmp_path):
    one = made(tmp_path, {"base": [1, 2], "exponent": [0.5]})
    order = json.loads(json.dumps(one.order("1/2")))
    assert plan.remade(order).nodes == one.plan.shard(1, 2).nodes
    assert order["measure"].endswith(":power")


def test_two_workers(tmp_path):
    table = made(tmp_path, {"base": range(1, 7), "exponent": [2]}).run(workers=2).table("value")
    assert [row["value"] for row in table] == [1.0, 4.0, 9.0, 16.0, 25.0, 36.0]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda root: made(root, {"base": [1], "exponent": []}), "empty"),
        (lambda root: made(root, {"base": [1]}).run(), "missing a required argument: 'exponent'"),
        (lambda root: made(root, {"base": [1], "exponent": [1], "n": [1]}).run(), "unexpected keyword argument 'n'"),
        (lambda root: made(root, {"base.of": [1]}), "no argument of power"),
        (lambda root: made(root, {"format": [1]}), "no argument of power"),
        (lambda root: made(root, [{"base": 1}, {"base": 1}]), "are one call"),
        (lambda root: sweeps.Sweep(power, {"base": [1]}, evaluate={"exponent": [1]}, root=root), "has one grid"),
    ],
)
def test_wrong_grids_are_refused_before_anything_is_called(tmp_path, make, words):
    CALLS.clear()
    with pytest.raises(ConfigError, match=words) as error:
        make(tmp_path / "root")
    assert "\n" not in str(error.value)
    assert not CALLS
    assert not (tmp_path / "root").exists()


@pytest.mark.parametrize(("function", "words"), [(reserved, "has the name 'error'"), (bare, "is int, expected")])
def test_what_no_table_can_hold_is_said(tmp_path, function, words):
    (row,) = made(tmp_path, {"base": [1]}, function).run().table().rows
    assert row["status"] == "failed"
    assert words in row["error"]


def test_a_folder_of_another_function_is_refused(tmp_path):
    made(tmp_path, {"base": [1], "exponent": [1]}).run()
    with pytest.raises(ConfigError, match="holds a sweep of power, this one is of bare"):
        made(tmp_path, {"base": [1]}, bare)
