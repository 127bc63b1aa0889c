"""Sweeps: what is planned, what is refused, what the table says, who has a claim. `test_sweeps_run` runs some."""

import json
import math
import sys

import numpy as np
import pytest

from diffjax import runs, sweeps
from diffjax.config import ConfigError
from diffjax.sweeps import grid, plan, tables

CONFIG = "configs/vpsde.py:tiny"
SMALL = {  # a training of four steps
    "model.channels": 4,
    "model.multipliers": [(1,)],
    "model.attention": [()],
    "train.steps": 4,
    "train.log_every": 2,
    "train.sample_every": 4,
    "checkpoint.every": 2,
    "optimizer.name": "sgd",
    "learning_rate.schedule": "constant",
    "learning_rate.warmup_steps": 0,
}


def sweep(root, train, evaluate=None, **options):
    return sweeps.Sweep(CONFIG, train, evaluate=evaluate, root=root, **options)


def points_of(made):
    return [node.point for node in made.plan.nodes]


# Grids.


def test_a_dict_is_a_product():
    found = grid.points({"a": [1, 2.5], "b": ["x", None, (1, 2)], "c": 7})
    assert found == [{"a": a, "b": b, "c": "7"} for a in ("1", "2.5") for b in ("x", "None", "(1, 2)")]


def test_grids_compose():
    side = sweeps.zip({"a": [1, 2], "b": [3, 4]})
    assert side == [{"a": "1", "b": "3"}, {"a": "2", "b": "4"}]
    assert sweeps.product(side, {"c": range(2)}) == [{**point, "c": str(c)} for point in side for c in range(2)]
    assert sweeps.chain(side, [{"d": True}]) == [*side, {"d": "True"}]
    assert sweeps.zip(side, {"c": np.array([0.5, 1e-3])}) == [
        {"a": "1", "b": "3", "c": "0.5"},
        {"a": "2", "b": "4", "c": "0.001"},
    ]
    assert grid.points({"a": value} for value in (1, 2)) == [{"a": "1"}, {"a": "2"}]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: grid.points({}.fromkeys(["a"], [])), "grid is empty"),
        (lambda: grid.points([]), "grid is empty"),
        (lambda: grid.points("abc"), "Got 'abc' as a grid"),
        (lambda: grid.points([3]), "Got 3 as a point"),
        (lambda: grid.points({"a": [{}]}), "The value of a is {}"),
        (lambda: sweeps.product({"a": [1]}, {"a": [2]}), "key 'a' is in two"),
        (lambda: sweeps.zip({"a": [1, 2], "b": [1]}), "1 and 2 entries"),
    ],
)
def test_a_grid_that_is_none_is_refused(make, words):
    with pytest.raises(ConfigError, match=words) as error:
        make()
    assert "\n" not in str(error.value)


def test_a_sweep_file_has_tables_or_generators(tmp_path):
    file = tmp_path / "grid.py"
    file.write_text("TRAIN = {'seed': range(2)}\ndef evaluate():\n    for n in (5, 10):\n        yield {'grid.n': n}\n")
    found = grid.read(str(file))
    assert grid.points(found["train"]) == [{"seed": "0"}, {"seed": "1"}]
    assert grid.points(found["evaluate"]) == [{"grid.n": "5"}, {"grid.n": "10"}]
    file.write_text("TRAIN = 1 / 0")
    with pytest.raises(ConfigError, match=r"grid.py: ZeroDivisionError: division by zero\.$"):
        grid.read(str(file))
    with pytest.raises(ConfigError, match="no sweep file"):
        grid.read(str(tmp_path / "none.py"))


# Plans.


def test_a_plan_has_each_training_before_its_evaluations(tmp_path):
    made = sweep(tmp_path / "r", {"seed": [0, 1]}, {"sampler.name": ["ddim", "heun"], "grid.n": [5]})
    assert [bool(node.trained) for node in made.plan.nodes] == [False, True, True] * 2
    first, one, other = made.plan.nodes[:3]
    assert one.folder.parent == other.folder.parent == first.folder / "eval"
    assert first.folder == made.root / "train" / first.key
    assert first.config.seed == 0
    assert (other.config.sampler.name, other.config.grid.n, other.config.seed) == ("heun", 5, 0)
    assert "eta" not in other.config.sampler  # another name drops the old one's options
    assert not (tmp_path / "r").exists()


def test_ids_are_of_what_is_resolved(tmp_path):
    ids = lambda made: [node.key for node in made.plan.nodes]
    one = sweep(tmp_path, {"seed": [1], "train.steps": [8]})
    other = sweep(tmp_path, [{"train.steps": "8", "seed": 1}])
    assert ids(one) == ids(other)  # of whatever order and spelling
    assert ids(sweep(tmp_path, {"seed": [2], "train.steps": [8]})) != ids(one)
    # What the config says already is no other training, and samplers are none of its business.
    plain, said = sweep(tmp_path, {"seed": [0]}), sweep(tmp_path, {"seed": [0], "sampler.name": ["heun"]})
    assert ids(plain)[0] == ids(said)[0]
    assert ids(plain)[1] != ids(said)[1]


def test_trainings_of_equal_programs_stand_together(tmp_path):
    made = sweep(tmp_path, {"learning_rate.peak": [1e-3, 2e-3], "model.channels": [4, 8], "seed": [0, 1]})
    channels = [node.config.model.channels for node in made.plan.nodes if not node.trained]
    assert channels == [4] * 4 + [8] * 4


@pytest.mark.parametrize(
    ("train", "evaluate", "words"),
    [
        ({"learning_rate.paek": [1]}, None, r"^There is no field .*nearest is 'peak'"),
        ({"seed": [0, "x"]}, None, r"^seed=x: 'seed' got 'x', expected an integer"),
        ({"sampler.name": ["ddmi"]}, {"grid.n": [5]}, "^$"),
        ({"seed": [0, 0]}, None, "Two points of the grid are one training: seed=0 and seed=0"),
        ({"grid.n": [5, 10]}, None, "one training: grid.n=5 and grid.n=10; .*belongs into the grid of evaluations"),
        ({"seed": [0]}, {"grid.n": [5, 5]}, "one evaluation: grid.n=5 and grid.n=5"),
        ({"grid.n": [5]}, {"grid.n": [5]}, "'grid.n' is in the grid of trainings and in that of evaluations"),
        ({"seed": [0]}, {"train.steps": [5]}, "key 'train.steps' would change a trained run"),
        ({"seed": [0]}, {"grid.m": [5.5], "grid.n": ["x"]}, "'grid.n' got 'x', expected an integer"),
        ({"seed": [0]}, {"measure.a b": [1]}, "'measure.a b' is no argument of measure"),
        ({"measure.k": [1]}, None, "no field 'measure.k'"),
        ([], None, "grid is empty"),
    ],
)
def test_a_wrong_plan_is_refused_in_one_line(train, evaluate, words, tmp_path):
    if words == "^$":  # a name is looked up when it is built
        assert sweep(tmp_path, train, evaluate).plan
        return
    with pytest.raises(ConfigError, match=words) as error:
        sweep(tmp_path / "root", train, evaluate)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "root").exists()


@pytest.mark.parametrize(
    ("train", "evaluate", "words"),
    [
        ({**SMALL, "seed": [0, -1]}, None, "seed=-1: seed is -1"),
        (SMALL, {"sampler.name": ["ddim", "ddmi"]}, "sampler.name=ddmi: samplers has no 'ddmi'.*nearest"),
        ({**SMALL, "model.name": ["UNet", "UNte"]}, None, "model.name=UNte: models has no 'UNte'"),
        (SMALL, {"eval.samples": [2]}, "eval.samples is 2, expected at least"),
    ],
)
def test_all_of_a_grid_is_built_before_the_first_run(train, evaluate, words, tmp_path):
    with pytest.raises(ConfigError, match=words) as error:
        sweep(tmp_path / "root", train, evaluate).run()
    assert "\n" not in str(error.value)
    assert not (tmp_path / "root").exists()


def test_configs_that_are_alike_are_built_once(tmp_path, monkeypatch):
    built = []
    monkeypatch.setattr(plan.runs, "build_run", lambda config: built.append(config))
    made = sweep(tmp_path, {"learning_rate.peak": [1e-3, 2e-3], "seed": range(5)}, {"grid.n": [5, 6, 7]})
    assert plan.check(made.plan) == 4  # two rates; n = 6 and 7 of one of them: an evaluation reads none, and n = 5
    assert len(built) == 4  # is the config's own
    assert {config.seed for config in built} == {0}


def test_what_is_measured_is_built_once(tmp_path, monkeypatch):
    """Arguments of `measure` name evaluations, and are no part of what is built."""
    built = []
    monkeypatch.setattr(plan.runs, "build_run", lambda config: built.append(config))
    made = sweep(tmp_path, {"seed": [0]}, {"measure.k": [1, 2.5], "measure.by": ["a, b"]}, measure=len)
    first, *nodes = made.plan.nodes
    assert [node.config.measure.to_dict() for node in nodes] == [{"k": 1, "by": "a, b"}, {"k": 2.5, "by": "a, b"}]
    assert len({node.key for node in made.plan.nodes}) == 3
    assert made.plan.several == ["measure.k"]
    assert plan.check(made.plan) == 1
    assert ["measure" in config for config in built] == [False]
    assert plan.identity(plan.parted(nodes[0].config)[0], evaluation=True) == plan.identity(
        first.config, evaluation=True
    )


@pytest.mark.parametrize(
    ("measure", "words"),
    [
        (None, "^The key 'measure.k' is an argument of measure, which this sweep lacks"),
        (lambda run: {}, "^measure.k=1: measure takes other arguments, got an unexpected keyword argument 'k'"),
        (lambda run, k, by: {}, "^measure.k=1: measure takes other arguments, missing a required argument: 'by'"),
    ],
)
def test_arguments_that_measure_does_not_take_are_refused_before_the_first_run(measure, words, tmp_path):
    with pytest.raises(ConfigError, match=words) as error:
        sweep(tmp_path / "root", SMALL, {"measure.k": [1, 2]}, measure=measure).run()
    assert "\n" not in str(error.value)
    assert not (tmp_path / "root").exists()


def test_shards_are_disjoint_and_complete(tmp_path):
    made = sweep(tmp_path, {"seed": range(7)}, {"grid.n": [5, 6]}).plan
    parts = [[node.key for node in made.shard(i, 3).nodes] for i in range(3)]
    assert sorted(key for part in parts for key in part) == sorted(node.key for node in made.nodes)
    assert [len(part) for part in parts] == [9, 6, 6]
    for part in parts:  # evaluations are with their training
        assert {key.partition("-")[0] for key in part} <= set(part)
    for wrong in ("4/4", "1", "a/b", "-1/2"):
        with pytest.raises(ConfigError, match="expected i/n"):
            sweep(tmp_path, {"seed": [0]}).run(shard=wrong)


def test_a_root_of_another_sweep_is_refused(tmp_path):
    first = sweep(tmp_path, {"seed": [0]}, {"grid.n": [5]})
    plan.write_header(tmp_path, first.plan)
    assert sweep(tmp_path, {"seed": [0, 1]}, {"grid.n": [5, 6]})._said == []
    assert sweep(tmp_path, {"seed": [0], "train.steps": [4]}, {"grid.n": [5]})._said == [
        f"{tmp_path}: the sweep grows by the key train.steps"
    ]
    with pytest.raises(ConfigError, match=r"this one has no 'grid\.n'"):
        sweep(tmp_path, {"seed": [0]})
    with pytest.raises(
        ConfigError, match=r"holds a sweep of configs/vpsde\.py:tiny, this one is of configs/vpsde\.py:"
    ):
        sweeps.Sweep("configs/vpsde.py:digits", {"seed": [0]}, evaluate={"grid.n": [5]}, root=tmp_path)
    (tmp_path / "sweep.json").write_text('{"format": 2}')
    with pytest.raises(ConfigError, match="format 2, expected 1"):
        sweep(tmp_path, {"seed": [0]})
    (tmp_path / "sweep.json").write_text("{")
    with pytest.raises(ConfigError, match="is no JSON"):
        sweep(tmp_path, {"seed": [0]})
    (tmp_path / "sweep.json").rename(tmp_path / "other.json")
    with pytest.raises(ConfigError, match="holds no sweep"):
        sweep(tmp_path, {"seed": [0]})


# Tables, of workdirs that are written by hand.

LOSSES = {
    (1, 0): 2.0,
    (1, 1): 4.0,
    (1, 2): 9.0,
    (2, 0): 1.0,
    (2, 1): 1.5,
    (2, 2): None,
}  # (n, seed) -> a loss; None: lost


@pytest.fixture
def by_hand(tmp_path):
    """Three seeds, two lengths; seed 2 of n = 2 has not been evaluated, and seed 3 diverged."""
    made = sweep(tmp_path, {"seed": range(4)}, {"grid.n": [1, 2]})
    plan.write_header(tmp_path, made.plan)
    for node in made.plan.nodes:
        node.folder.mkdir(parents=True)
        if node.trained and node.config.seed == 3:  # what did not begin left nothing
            node.folder.rmdir()
            continue
        config = json.loads(runs.build.configs.to_json(node.config))
        (node.folder / "config.json").write_text(json.dumps({"format": 1, **config}))
        seed, n = node.config.seed, node.config.grid.n
        if not node.trained:
            ended = {"status": "nonfinite", "error": "loss is nan at step 7. Lower it.", "step": 7}
            ended = ended if seed == 3 else {"status": "trained", "step": node.config.train.steps}
            (node.folder / "results.json").write_text(json.dumps({**ended, "minutes": seed + 1.0}))
        elif (loss := LOSSES.get((n, seed))) is not None:
            metrics = {"Frechet distance": {"value": loss, "floor": 0.5}, "1-NN, real": {"value": 0.1, "floor": 0.5}}
            found = {"step": 4, "deep": {"held_out_loss": -loss}, "metrics": metrics, "gate": seed == 0, "who": "me"}
            (node.folder / "eval.json").write_text(json.dumps(found))
    return made


def test_a_table_has_a_row_for_each_evaluation(by_hand):
    table = by_hand.table(["frechet", "held_out_loss", "metrics.Frechet distance.floor", "who"])
    assert table.columns == [
        *("seed", "grid.n", "frechet", "held_out_loss", "metrics.Frechet distance.floor", "who"),
        *("minutes", "status", "error"),
    ]
    rows = {(row["grid.n"], row["seed"]): row for row in table}
    assert {key: row["frechet"] for key, row in rows.items()} == {**LOSSES, (1, 3): None, (2, 3): None}
    assert rows[1, 2]["held_out_loss"] == -9.0
    assert rows[1, 1]["minutes"] == 2.0
    assert [rows[key]["status"] for key in ((1, 0), (2, 2), (1, 3))] == ["done", "not begun", "nonfinite"]
    assert rows[1, 3]["error"] == "its training: loss is nan at step 7. Lower it."
    assert table.notes == [
        "1 of 8 rows are not begun, such as seed=2, grid.n=2",
        "2 of 8 rows are nonfinite, such as seed=3, grid.n=1: its training: loss is nan at step 7",
    ]


def test_the_column_of_a_table_is_the_distance_that_a_report_says():
    """Wherever it stands among the metrics; of others the first, and of none a held-out loss."""
    path = "metrics.{}.value".format
    names = ["1-NN accuracy, real", "coverage, k = 5", "exact W2", "sliced W2"]
    assert tables.main(map(path, names)) == [path("exact W2")]
    assert tables.main(map(path, [*names, "Frechet distance"])) == [path("Frechet distance")]
    assert tables.main([*map(path, names[:2]), "held_out_loss"]) == [path(names[0])]
    assert tables.main(["step", "held_out_loss"]) == ["held_out_loss"]


def test_means_and_standard_errors_are_those_of_statistics(by_hand):
    table = by_hand.table("frechet", over="seed")
    one, two = table.rows
    assert (one["n"], one["of"], two["n"], two["of"]) == (3, 4, 2, 4)
    assert one["frechet"] == pytest.approx(5.0)
    assert one["frechet ±"] == pytest.approx(math.sqrt((9 + 1 + 16) / 2 / 3))  # by hand: variance 13, over 3
    assert two["frechet"] == pytest.approx(1.25)
    assert two["frechet ±"] == pytest.approx(0.25)
    assert two["minutes"] == pytest.approx(1.5)
    assert len(table.notes) == 2
    (whole,) = by_hand.table("frechet", over=["seed", "grid.n"]).rows
    assert whole["frechet"] == pytest.approx(np.mean([2, 4, 9, 1, 1.5]))
    assert whole["frechet ±"] == pytest.approx(np.std([2, 4, 9, 1, 1.5], ddof=1) / np.sqrt(5))
    assert (whole["n"], whole["of"]) == (5, 8)


def test_a_value_that_is_not_finite_is_in_no_mean_and_said(by_hand):
    (node,) = [node for node in by_hand.plan.nodes if node.trained and (node.config.seed, node.config.grid.n) == (1, 1)]
    found = json.loads((node.folder / "eval.json").read_text())
    found["metrics"]["Frechet distance"]["value"] = math.nan
    (node.folder / "eval.json").write_text(json.dumps(found))
    table = by_hand.table("frechet", over="seed")
    assert table.rows[0]["frechet"] == pytest.approx(5.5)
    assert table.rows[0]["n"] == 3
    assert "frechet: 1 of 3 that are done have no finite value and are in no mean." in table.notes


def test_a_table_is_rebuilt_from_its_folder_alone(by_hand):
    key = lambda row: (row["seed"], row["grid.n"])
    rebuilt = sweeps.table(by_hand.root, "frechet")
    assert sorted(rebuilt.rows, key=key) == sorted(by_hand.table("frechet").rows, key=key)
    assert sweeps.table(by_hand.root, over="seed").columns[:2] == ["grid.n", "Frechet distance"]  # the first metric
    with pytest.raises(ConfigError, match="holds no sweep"):
        sweeps.table(by_hand.root / "train")


@pytest.mark.parametrize(
    ("columns", "over", "words"),
    [
        ("Frechet distnce", (), "There is no column 'Frechet distnce': nearest is 'Frechet distance'"),
        ("floor", (), r"may be any of metrics.1-NN, real.floor, metrics.Frechet distance.floor"),
        ("frechet", "sed", "over='sed' is no key of this sweep: nearest is 'seed'"),
    ],
)
def test_a_table_refuses_what_is_not_there(by_hand, columns, over, words):
    with pytest.raises(ConfigError, match=words):
        by_hand.table(columns, over)


def test_a_table_is_written_in_four_ways(by_hand):
    table = by_hand.table("frechet", over="seed")
    assert table.markdown().splitlines()[:3] == [
        "| grid.n | frechet | minutes | n | of |",
        "|---|---|---|---|---|",
        "| 1 | 5 ± 2.1 | 2 ± 0.58 | 3 | 4 |",
    ]
    assert repr(table) == table.markdown()
    lines = table.csv(by_hand.root / "t.csv").splitlines()
    assert lines[0] == "grid.n,frechet,frechet ±,minutes,minutes ±,n,of"
    assert [float(cell) for cell in lines[2].split(",")][:3] == [2.0, 1.25, 0.25]
    assert (by_hand.root / "t.csv").read_text().splitlines() == lines
    frame = table.pandas()
    assert list(frame["frechet"]) == [5.0, 1.25]
    assert "<td>5 ± 2.1</td>" in table._repr_html_()


def test_pandas_is_asked_for_by_its_extra(by_hand, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ConfigError, match=r"pip install 'diffjax\[tables\]'"):
        by_hand.table().pandas()


def test_a_figure_draws_what_is_done(by_hand, capsys):
    path = by_hand.plot(x="grid.n")
    assert path == by_hand.root / "figures" / "Frechet_distance_by_grid.n.png"
    assert path.stat().st_size > 1000
    assert "2 of 8 rows are nonfinite" in capsys.readouterr().out
    with pytest.raises(ConfigError, match=r"'grid' is no key of this sweep: nearest is 'grid\.n'"):
        by_hand.plot(x="grid")
