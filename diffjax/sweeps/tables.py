"""The table of a sweep, from what is in its folders: config.json, results.json and eval.json of every evaluation."""

import csv
import html
import io
import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from diffjax import config as configs
from diffjax import summary
from diffjax.config import Config, ConfigError, nearest
from diffjax.runs import workdir as files
from diffjax.runs.build import complete
from diffjax.sweeps import plan as plans
from diffjax.sweeps import work
from diffjax.sweeps.plan import Node, Plan

Row = dict[str, Any]
ERROR = " ±"  # after a column's name: the standard error of its mean
TRAINING = ("step", "skipped", "minutes", "starts", "seconds", "commit", "device", "jax")  # of results.json


class Table:
    """Rows of one sweep, as Markdown, CSV, HTML or a pandas.DataFrame.

    Attributes:
        rows: one dictionary each, with all the columns; None where there is no value.
        columns: in their order.
        notes: what is to be said of rows that failed.
    """

    def __init__(self, rows: list[Row], columns: list[str], notes: Iterable[str] = ()):
        self.rows, self.columns, self.notes = rows, columns, list(notes)

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __repr__(self) -> str:
        return self.markdown()

    def markdown(self) -> str:
        """Writes the table as Markdown, a mean with its standard error in one cell, and the notes below it."""
        shown = [name for name in self.columns if not name.endswith(ERROR)]
        lines = [_line(shown), "|" + "---|" * len(shown)]
        lines += [_line([_cell(row, name).replace("|", "\\|") for name in shown]) for row in self.rows]
        return "\n".join([*lines, *(f"\n{note}" for note in self.notes), ""])

    def csv(self, path: str | Path | None = None) -> str:
        """Writes the table as comma-separated values, full precision, into a file where one is given."""
        text = io.StringIO()
        writer = csv.DictWriter(text, self.columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        if path is not None:
            Path(path).write_text(text.getvalue())
        return text.getvalue()

    def pandas(self) -> Any:
        """Makes a pandas.DataFrame of the table, a row for each of its rows.

        Raises:
            ConfigError: where pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise ConfigError("Table.pandas needs pandas: pip install 'diffjax[tables]'.") from error
        return pandas.DataFrame(self.rows, columns=self.columns)

    def _repr_html_(self) -> str:
        shown = [name for name in self.columns if not name.endswith(ERROR)]
        row = lambda cells, tag: f"<tr>{''.join(f'<{tag}>{html.escape(cell)}</{tag}>' for cell in cells)}</tr>"
        body = "".join(row([_cell(found, name) for name in shown], "td") for found in self.rows)
        notes = "".join(f"<p>{html.escape(note)}</p>" for note in self.notes)
        return f"<table>{row(shown, 'th')}{body}</table>{notes}"


def make(plan: Plan, columns: str | Iterable[str] | None = None, over: str | Iterable[str] = ()) -> Table:
    """Makes the table of a plan's evaluations.

    Beside the swept keys and `columns` it has minutes (of the training, or of a call), status and error. With `over`, a
    row is the mean over these keys of all that is done, with its standard error (ddof = 1), and n, how many `of` all.
    Keys that have one value are in rows, and in no column.

    Args:
        columns: what eval.json and results.json hold, by a dotted path, the last name of one, or the words it begins
            with ("frechet" for metrics.Frechet distance.value); default the distance that a report opens with
            (`summary.FIRST`), else the first metric, or what is measured.
        over: swept keys, such as "seed".

    Raises:
        ConfigError: for a column that is not there, or means several; for a key that is not swept.
    """
    over = [over] if isinstance(over, str) else list(over)
    for key in over:
        if key not in plan.keys:
            raise ConfigError(f"over={key!r} is no key of this sweep: {nearest(key, plan.keys)}.")
    nodes = [node for node in plan.nodes if node.evaluates]
    found = [results(node) for node in nodes]
    paths = list(dict.fromkeys(path for each in found for path in each))
    asked = [columns] if isinstance(columns, str) else list(columns or ())
    known = paths if set(paths) - {*TRAINING} else []  # else nothing is evaluated that could have the column
    homes = {name: home_of(name, known) for name in asked if name not in (*plan.keys, *work.RESERVED)}
    homes |= {_short(path): path for path in main(paths) if columns is None}
    rows = []
    for node, each in zip(nodes, found):
        values, (status, error) = configs.flat(node.config), work.outcome(node, plan)
        row = {key: _hashable(values.get(key)) for key in plan.keys}
        row |= {name: each.get(home) for name, home in homes.items()}
        rows.append(row | {"minutes": each.get("minutes"), "status": status, "error": error or None})
    several = [key for key in plan.keys if key in plan.several or key in asked]
    notes = _notes(rows, several)
    if over:
        return _averaged(rows, [key for key in plan.keys if key not in over], several, [*homes, "minutes"], notes)
    errors = ["error"] if any(row["error"] for row in rows) else []
    return Table(rows, [*several, *homes, "minutes", "status", *errors], notes)


def check(plan: Plan, columns: list[str] | None) -> None:
    """Checks the columns of a table before a run, where an evaluation is there that says which there are.

    Raises:
        ConfigError: for a column that is not there, or means several.
    """
    if columns and any(node.evaluates and (node.folder / "eval.json").is_file() for node in plan.nodes):
        make(plan, columns)


def of_root(root: str | Path) -> Plan:
    """Makes the plan of what is in a sweep's folder, whatever its grid was: every training, evaluated in every way.

    Raises:
        ConfigError: for a folder that holds no sweep.
    """
    root = Path(root)
    said, nodes = plans.header(root), []
    trained, ways = {}, {}  # configs, of trainings and of what is evaluated in each way
    for folder in sorted((root / "train").glob("*")):
        files_of = {path.parent.name: path.parent for path in sorted(folder.glob("eval/*/config.json"))}
        own = {name: _completed(home) for name, home in files_of.items()}
        if own or (folder / "config.json").exists():
            outside = not (folder / "config.json").exists()  # a run that was given as it is
            config = next(iter(own.values())) if outside else complete(files.read_config(folder))
            trained[folder] = (config, Path(said["config"]) if outside else folder, own)
            ways |= own
    for folder, (config, workdir, own) in trained.items():
        nodes.append(Node(folder.name, folder, workdir, {}, config))
        for name, way in (ways or {"none": config}).items():
            found = own.get(name) or _evaluated_as(config, way)
            nodes.append(Node(f"{folder.name}-{name}", folder / "eval" / name, workdir, {}, found, folder.name))
    for folder in sorted(path.parent for path in (root / plans.CALLS).glob("*/config.json")):
        nodes.append(Node(folder.name, folder, folder, {}, files.read_config(folder), ""))
    return Plan(said["config"], tuple(nodes), tuple(said["train"]), tuple(said["evaluate"]))


def _completed(folder: Path) -> Config:
    run, own = plans.parted(files.read_config(folder))
    return plans.joined(complete(run), own)


def _evaluated_as(config: Config, way: Config) -> Config:
    """The config of an evaluation that has not begun: a training's, with what another one was evaluated by."""
    config = config.copy_and_resolve_references()
    with config.unlocked():
        for group in [name.rstrip(".") for name in plans.SET]:
            if group in way:
                config[group] = way[group]
    return config


def table(root: str | Path, columns: str | Iterable[str] | None = None, over: str | Iterable[str] = ()) -> Table:
    """Makes the table of what is in a sweep's folder, whatever its grid was (`make`)."""
    return make(of_root(root), columns, over)


def main(paths: Iterable[str]) -> list[str]:
    """Finds the columns of a table if none are asked for: a distance, else the first metric, or what is measured."""
    paths = list(paths)
    first = [path for path in (f"metrics.{name}.value" for name in summary.FIRST) if path in paths]
    metrics = [path for path in paths if path.startswith("metrics.") and path.endswith(".value")]
    judged = [*first, *metrics, *(path for path in paths if path == "held_out_loss")][:1]
    return judged or [path for path in paths if "." not in path and path not in (*TRAINING, *work.RESERVED)]


def results(node: Node) -> dict[str, Any]:
    """Reads what eval.json says, and results.json of the training alone, as a flat table of paths."""
    written = work.found(node.workdir / "results.json")
    own = {name: written[name] for name in TRAINING if name in written}
    ended = work.found(node.folder / "eval.json")
    minutes = {"minutes": (own if node.trained else ended).get("minutes")}
    return {**_flat(own), **_flat(ended), **minutes}


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(tree, dict):
        return {k: v for key, sub in tree.items() for k, v in _flat(sub, f"{prefix}{key}.").items()}
    return {} if isinstance(tree, list) else {prefix[:-1]: tree}


def home_of(column: str, paths: list[str]) -> str:
    """Finds the path that a column means; ConfigError where there is none, or several."""
    if column in paths or not paths:
        return column
    named = {path: _short(path).lower() for path in paths}
    offered = {_short(path) for path in paths if path.endswith(".value") or "." not in path}
    word = column.lower()
    begins: Callable[[str], bool] = lambda name: name.startswith(word) and not name[len(word) : len(word) + 1].isalnum()
    whole = [path for path in paths if path.removesuffix(".value") == column]
    exact = [path for path, name in named.items() if name == word]
    for homes in (whole, exact, [path for path, name in named.items() if begins(name)]):
        if len(homes) == 1:
            return homes[0]
        if homes:
            raise ConfigError(f"The column {column!r} may be any of {', '.join(sorted(homes))}: give one of them.")
    raise ConfigError(f"There is no column {column!r}: {nearest(column, offered)}.")


def _averaged(rows: list[Row], keys: list[str], shown: list[str], columns: list[str], notes: list[str]) -> Table:
    groups: dict[tuple, list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    averaged = []
    for values, group in groups.items():
        done = [row for row in group if row["status"] == "done"]
        row: Row = dict(zip(keys, values))
        for name in columns:
            found = [row[name] for row in done]
            row[name], row[name + ERROR] = mean(found)
            if done and (lost := sum(not is_number(value) for value in found)) and any(map(is_number, found)):
                notes = [
                    *notes,
                    f"{name}: {lost} of {len(done)} that are done have no finite value and are in no mean.",
                ]
        averaged.append(row | {"n": len(done), "of": len(group)})
    shown = [key for key in keys if key in shown]
    return Table(averaged, [*shown, *(part for name in columns for part in (name, name + ERROR)), "n", "of"], notes)


def mean(values: list[Any]) -> tuple[Any, float | None]:
    """Computes the mean of the finite numbers of a list, and its standard error (ddof = 1; None for fewer than two).

    Of texts it is the list of the different ones.
    """
    numbers = [float(value) for value in values if is_number(value)]
    if not numbers:
        texts = dict.fromkeys(str(value) for value in values if value is not None)
        return ", ".join(texts) or None, None
    error = float(np.std(numbers, ddof=1) / math.sqrt(len(numbers))) if len(numbers) > 1 else None
    return float(np.mean(numbers)), error


def _notes(rows: list[Row], keys: Iterable[str]) -> list[str]:
    """Counts what is not done, and names the first of each kind."""
    notes = []
    for status in dict.fromkeys(row["status"] for row in rows if row["status"] != "done"):
        those = [row for row in rows if row["status"] == status]
        where = ", ".join(f"{key}={those[0][key]}" for key in keys)
        why = f": {work.short(those[0]['error'])}" if those[0]["error"] else ""
        notes.append(f"{len(those)} of {len(rows)} rows are {status}{where and f', such as {where}'}{why}")
    return notes


def _short(path: str) -> str:
    return path.removesuffix(".value").rpartition(".")[2]


def is_number(value: Any) -> bool:
    """Tells a finite number from anything else."""
    return isinstance(value, int | float) and math.isfinite(value)


def _hashable(value: Any) -> Any:
    return tuple(map(_hashable, value)) if isinstance(value, list) else value


def _cell(row: Row, name: str) -> str:
    value, error = row.get(name), row.get(name + ERROR)
    text = "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
    return f"{text} ± {error:.2g}" if error is not None else text


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
