"""The plan of a sweep: trainings, each with its evaluations, resolved from a config before anything runs.

ROOT/sweep.json                        the config and the keys that this folder is a sweep of
ROOT/train/ID/                         the workdir of a training (`runs.workdir`), and log.txt
ROOT/train/ID/eval/ID/                 an evaluation of it: config.json, eval.json, report.md, figures/, log.txt
ROOT/points/ID/                        a call, of a sweep over a function: config.json (arguments), eval.json, log.txt
.../failed.json                        why a training or an evaluation ended without a result, and how often
ROOT/claims/                           who runs what now (`sweeps.claims`)

An ID is a digest of what it names: of a training all of its resolved config but its name and what a trained run leaves
open (`resume.OPEN`), of an evaluation what that leaves open, and the arguments of `measure` (ARGUMENTS), of a call
its arguments.
"""

import functools
import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from diffjax import config as configs
from diffjax import disk, runs
from diffjax.config import Config, ConfigError
from diffjax.resume import OPEN
from diffjax.runs import workdir as files
from diffjax.sweeps import grid
from diffjax.sweeps.grid import Point

FORMAT = 1  # of sweep.json
FILE = "sweep.json"
CALLS = "points"  # the folder of a function's calls
ARGUMENTS = "measure."  # keys of evaluations that are arguments of the sweep's `measure`, and no fields of a run
SET = (*OPEN, ARGUMENTS)  # what the points of evaluations may set
_UNREAD = ("name", "seed", "learning_rate", "optimizer", "measure")  # groups that what is built and drawn does not read


class Node(NamedTuple):
    """A training, an evaluation of one, or a call of a function.

    Attributes:
        key: its name among all nodes: the ID of the training, and of an evaluation also its own.
        folder: for its results.
        workdir: of the training.
        trained: the key of the training that it evaluates; "" for a call, which evaluates none; None for a training.
    """

    key: str
    folder: Path
    workdir: Path
    point: Point
    config: Config
    trained: str | None = None

    @property
    def evaluates(self) -> bool:
        """True but for a training: it ends with an eval.json, and is a row of the table."""
        return self.trained is not None

    @property
    def given(self) -> bool:
        """True for a training that was given as a workdir, and is evaluated only."""
        return not self.evaluates and self.workdir != self.folder

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments that `measure` has beside the run, or all those of the call."""
        return dict(self.config if self.trained == "" else self.config.get("measure", {}))


class Plan(NamedTuple):
    """All nodes, each training followed by its evaluations, and the keys that are swept.

    Attributes:
        config: as the sweep was given it: a config file, the workdir of a run that is evaluated only, or the name of a
            function.
    """

    config: str
    nodes: tuple[Node, ...]
    train: tuple[str, ...]
    evaluate: tuple[str, ...]

    @property
    def keys(self) -> tuple[str, ...]:
        """The swept keys, those of trainings first."""
        return (*self.train, *self.evaluate)

    @property
    def several(self) -> list[str]:
        """The swept keys that have more than one value."""
        values = [configs.flat(node.config) for node in self.nodes if node.evaluates]
        return [key for key in self.keys if len({json.dumps(each.get(key)) for each in values}) > 1]

    def said(self, node: Node) -> str:
        """Writes what makes a node differ: its values of the keys that have several."""
        several = self.several
        return grid.said({key: value for key, value in node.point.items() if key in several})

    def shard(self, i: int, n: int) -> "Plan":
        """The plan of every n-th training from the i-th on with its evaluations; else every n-th call."""
        given = {node.key for node in self.nodes if node.given}
        parts = {
            node.key: node.trained if node.trained and node.trained not in given else node.key for node in self.nodes
        }
        places = {key: at for at, key in enumerate(dict.fromkeys(part for part in parts.values() if part not in given))}
        mine = lambda node: node.given or places[parts[node.key]] % n == i
        return self._replace(nodes=tuple(node for node in self.nodes if mine(node)))


def make(config: str, train: list[Point], evaluate: list[Point], root: Path) -> Plan:
    """Resolves every point of both grids.

    Raises:
        ConfigError: naming the point, for an unknown key, a wrong value, a key in both grids, one that the evaluation
            of a trained run cannot set, or a point that is there twice.
    """
    keys = tuple(tuple(dict.fromkeys(key for point in points for key in point)) for points in (train, evaluate))
    if both := [key for key in keys[0] if key in keys[1]]:
        raise ConfigError(f"The key {both[0]!r} is in the grid of trainings and in that of evaluations: leave one out.")
    for key in keys[1]:
        if key.startswith(ARGUMENTS) and not key.removeprefix(ARGUMENTS).isidentifier():
            raise ConfigError(f"The evaluation key {key!r} is no argument of measure, expected one such as measure.k.")
        if not key.startswith(SET):
            groups = ", ".join(name.rstrip(".") for name in OPEN)
            raise ConfigError(
                f"The evaluation key {key!r} would change a trained run, which leaves open {groups}: "
                "put it into the grid of trainings."
            )
    outside = os.path.isdir(config)
    if outside and keys[0]:
        raise ConfigError(f"{config} is a run that is trained: it has no grid of trainings, got {keys[0][0]!r}.")
    if outside and files.newest(Path(config)) is None:
        raise ConfigError(f"{config} has no checkpoint to evaluate: give the workdir of a trained run, or a config.")
    source = os.path.join(config, "config.json") if outside else config
    load = functools.partial(runs.load, source)
    trained = [(point, _resolved(functools.partial(load, grid.texts(point)), said)) for point, said in _named(train)]
    _check_twice([(point, identity(found)) for point, found in trained], "training")
    nodes = []
    for point, found in _in_order(trained):
        key = identity(found)
        folder = root / "train" / key
        workdir = Path(config) if outside else folder
        nodes.append(Node(key, folder, workdir, point, found))
        own = [(e, _resolved(functools.partial(_evaluated, found, e), said)) for e, said in _named(evaluate)]
        _check_twice([(more, identity(changed, True)) for more, changed in own], "evaluation")
        for more, changed in own:
            name = identity(changed, True)
            nodes.append(Node(f"{key}-{name}", folder / "eval" / name, workdir, point | more, changed, key))
    return Plan(config, tuple(nodes), *keys)


def of_calls(function: str, points: list[Point], root: Path) -> Plan:
    """Resolves every point of a grid of a function's arguments: calls of it, and no trainings.

    Raises:
        ConfigError: for a key that is no name of an argument, or a point that is there twice.
    """
    keys = tuple(dict.fromkeys(key for point in points for key in point))
    if odd := [key for key in keys if not key.isidentifier() or key == "format"]:  # config.json has a format
        raise ConfigError(f"The key {odd[0]!r} is no argument of {function}, expected a name such as 'k'.")
    found = [(point, ConfigDict(configs.options(grid.texts(point))).lock()) for point in points]
    _check_twice([(point, _digest(configs.flat(config))) for point, config in found], "call")
    nodes = []
    for point, config in found:
        key = _digest(configs.flat(config))
        nodes.append(Node(key, root / CALLS / key, root / CALLS / key, point, config, ""))
    return Plan(function, tuple(nodes), (), keys)


def remade(order: dict[str, Any]) -> Plan:
    """Makes the plan of the shard that another process has been told of (`Sweep.order`)."""
    root = Path(order["root"])
    if order["config"] is None:
        whole = of_calls(order["measure"], order["evaluate"], root)
    else:
        whole = make(order["config"], order["train"], order["evaluate"], root)
    return whole.shard(*read_shard(order["shard"]))


def read_shard(text: str) -> tuple[int, int]:
    """Reads which part of a sweep a shard is, from "i/n".

    Raises:
        ConfigError: for anything else, or i >= n.
    """
    i, _, n = text.partition("/")
    if not (i.isdecimal() and n.isdecimal() and int(i) < int(n)):
        raise ConfigError(f"shard is {text!r}, expected i/n with i from 0 to n - 1, such as 0/4.")
    return int(i), int(n)


def identity(config: Config, evaluation: bool = False) -> str:
    """Makes the digest of a resolved config that names its training, or its evaluation."""
    is_open = lambda field: field.startswith(SET)
    fields = {name: value for name, value in configs.flat(config).items() if is_open(name) == evaluation}
    fields.pop("name", None)
    return _digest(fields)


def _digest(fields: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:10]


def check(plan: Plan) -> int:
    """Builds what the configs name and traces one example, once for those that are alike; gives how many that were.

    Trainings that differ in the seed are alike; so are evaluations of trainings that differ in what none reads.

    Raises:
        ConfigError: naming the point.
    """
    seen, built = set(), 0
    for node in plan.nodes:  # at once: the others take a while
        if not 0 <= node.config.seed < 2**32:
            raise ConfigError(f"{plan.said(node)}: seed is {node.config.seed}, expected one in [0, 2^32).")
    for node in plan.nodes:
        texts = {
            _without(node.config, ("name", "seed", "measure")),
            _without(node.config, _UNREAD) if node.evaluates else "",
        }
        if not texts & seen:
            _resolved(lambda config=node.config: runs.build_run(parted(config)[0]), plan.said(node))
            built += 1
        seen |= texts - {""}
    return built


def _without(config: Config, groups: tuple[str, ...]) -> str:
    fields = {name: v for name, v in configs.flat(config).items() if name.partition(".")[0] not in groups}
    return json.dumps(fields, sort_keys=True)


def open_root(root: Path, plan: Plan) -> list[str]:
    """Checks that a root is free or holds this sweep; gives what is to be said of a sweep that grows.

    Raises:
        ConfigError: for a root of another config, of other keys, of a newer format, or of something else.
    """
    if not root.exists() or (root.is_dir() and not (root / FILE).exists() and not any(root.iterdir())):
        return []
    found = header(root)
    if found["config"] != plan.config:
        raise ConfigError(
            f"{root} holds a sweep of {found['config']}, this one is of {plan.config}: give another root."
        )
    if lost := [key for key in found["train"] + found["evaluate"] if key not in plan.keys]:
        raise ConfigError(
            f"{root} holds a sweep over {', '.join(found['train'] + found['evaluate'])}, but this one has no "
            f"{lost[0]!r}: give another root, or the key with the value that it is to have."
        )
    more = [key for key in plan.keys if key not in found["train"] + found["evaluate"]]
    return [f"{root}: the sweep grows by the key {key}" for key in more]


def write_header(root: Path, plan: Plan) -> None:
    """Writes the config and the keys of a sweep into its folder, as sweep.json."""
    root.mkdir(parents=True, exist_ok=True)
    found = {"format": FORMAT, "config": plan.config, "train": plan.train, "evaluate": plan.evaluate}
    disk.write(root / FILE, json.dumps(found, indent=2))


def header(root: Path) -> dict[str, Any]:
    """Reads the config and the keys of a sweep from its folder's sweep.json.

    Raises:
        ConfigError: for a folder that holds no sweep, or one of a newer format.
    """
    try:
        found = disk.read_json(root / FILE)
    except FileNotFoundError as error:
        raise ConfigError(f"{root} holds no sweep (no {FILE}): give another root.") from error
    except disk.DamagedFileError as error:
        raise ConfigError(f"{error} Give another root.") from error
    names = [*found.get("train", ()), *found.get("evaluate", ())]
    if found.get("format") != FORMAT or not isinstance(found.get("config"), str):
        raise ConfigError(
            f"{root / FILE} has format {found.get('format')!r}, expected {FORMAT}: it is of another diffjax."
        )
    if not all(isinstance(name, str) for name in names):
        raise ConfigError(f"{root / FILE} has keys {names!r}, expected texts.")
    return {"config": found["config"], "train": list(found["train"]), "evaluate": list(found["evaluate"])}


def parted(config: Config) -> tuple[Config, dict[str, Any]]:
    """Parts the config of an evaluation into that of its run, locked, and the arguments of `measure`."""
    run, own = config.copy_and_resolve_references(), config.get("measure", {})
    with run.unlocked():
        if own:
            del run["measure"]
    return run.lock(), dict(own)


def joined(run: Config, own: dict[str, Any]) -> Config:
    """Makes the config of an evaluation, of that of its run and the arguments of `measure`, if there are any."""
    config = run.copy_and_resolve_references()
    with config.unlocked():
        config.update({"measure": own} if own else {})
    return config.lock()


def _evaluated(config: Config, point: Point) -> Config:
    texts = grid.texts(point)
    own = [text.removeprefix(ARGUMENTS) for text in texts if text.startswith(ARGUMENTS)]
    fields = [text for text in texts if not text.startswith(ARGUMENTS)]
    return joined(configs.overridden(config.copy_and_resolve_references(), fields), configs.options(own))


def _resolved(resolve: Callable[[], Any], said: str) -> Any:
    try:
        return resolve()
    except ConfigError as error:
        raise ConfigError(f"{said}: {error}" if said else str(error)) from error


def _named(points: list[Point]) -> Iterator[tuple[Point, str]]:
    """The points of a grid, each with what makes it differ from the others."""
    several = {key for point in points for key in point if len({other.get(key) for other in points}) > 1}
    for point in points:
        yield point, grid.said({key: value for key, value in point.items() if key in several})


def _check_twice(found: list[tuple[Point, str]], what: str) -> None:
    twice = next((key for key, times in Counter(key for _, key in found).items() if times > 1), None)
    if twice is None:
        return
    first, second = [grid.said(point) for point, key in found if key == twice][:2]
    hint = ""
    if first != second and what == "training":
        hint = f"; what a trained run leaves open ({', '.join(OPEN)}) belongs into the grid of evaluations"
    raise ConfigError(f"Two points of the grid are one {what}: {first} and {second}{hint}.")


def programs_of(config: Config) -> str:
    """Writes what the programs of a run are made from: its config without numbers, which are arguments of them."""
    fields = {n: v for n, v in configs.flat(config).items() if not isinstance(v, float) and n not in ("seed", "name")}
    return json.dumps(fields, sort_keys=True)


def _in_order(trained: list[tuple[Point, Config]]) -> Iterable[tuple[Point, Config]]:
    """Those that differ in numbers only stand together: they can share what is compiled."""
    groups: dict[str, list[tuple[Point, Config]]] = {}
    for point, config in trained:
        groups.setdefault(programs_of(config), []).append((point, config))
    return [item for group in groups.values() for item in group]
