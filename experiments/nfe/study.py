"""Error against evaluations, of every deterministic sampler on its best grid: table and figure of README.md.

The error is the distance to the end of the model's own probability flow from the same x_T: what a solver answers for,
free of what the model does. Every sampler is tried on every grid, at each number of evaluations, and keeps its best.

    python experiments/nfe/study.py --out=OUT [--networks=WORKDIR,...] [--fitted=FITTED.npz] [--smoke]
    python experiments/nfe/study.py --out=OUT --redraw=experiments/nfe/README.md
"""

import argparse
import json
from pathlib import Path
from typing import Any, NamedTuple

import common
import jax
import numpy as np
from fit import training_digits

from diffjax import plots, samplers
from diffjax.samplers import table

SEEDS = (11, 12, 13)
SMALLEST = 5e-5  # errors below are rounding: the ideal denoiser ends exactly in an example


class Row(NamedTuple):
    """An error of a figure."""

    target: str
    nfe: int
    name: str
    error: float


def main() -> None:
    """Writes results.json, table.md and figure.png."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", required=True)
    parser.add_argument("--networks", default="", help="workdirs of digits runs, with commas between them")
    parser.add_argument("--fitted", help="what fit.py has written")
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--redraw", help="a file with such a table: draws OUT/figure.png from it, and runs nothing")
    args = parser.parse_args()
    if args.redraw:
        figure(rows_of(Path(args.redraw).read_text()), Path(args.out) / "figure.png")
        return
    jax.config.update("jax_enable_x64", True)
    targets = common.targets(training_digits())
    targets |= dict(common.network_target(workdir) for workdir in args.networks.split(",") if workdir)
    nfes, seeds = ((5, 10), SEEDS[:1]) if args.smoke else (common.NFES, SEEDS)
    results: dict[str, Any] = {}
    for name, target in targets.items():
        x = np.stack([common.starts(seed, 8 if args.smoke else target.starts, target.shape) for seed in seeds])
        exact = [common.reference(target, part) for part in x]
        results[name] = {}
        for nfe in nfes:
            results[name][nfe] = row = compare(target, x, exact, nfe)
            if fitted := load_fitted(args.fitted, nfe):
                row["fitted on mixtures"] = measured(fitted, target, x, exact) | {"grid": "fitted", "baseline": False}
            best = sorted(row, key=lambda method: row[method]["error"])
            print(name, nfe, ", ".join(f"{m} {row[m]['error']:.4f}" for m in best[:5]), flush=True)
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "results.json").write_text(json.dumps(results, indent=1))
    (out / "table.md").write_text(markdown(results))
    figure(rows_of(markdown(results)), out / "figure.png")


def compare(target: common.Target, x: np.ndarray, exact: list, nfe: int) -> dict[str, Any]:
    """Every method on the best of its grids."""
    found = {}
    for name, method in common.methods(target.axes).items():
        tried = []
        for grid_name, grid in common.GRIDS.items():
            sample = common.walk(method, grid, nfe)
            if sample is not None:
                tried.append(measured(sample, target, x, exact) | {"grid": grid_name, "baseline": method.baseline})
        if tried:
            found[name] = min(tried, key=lambda result: result["error"])
    return found


def measured(sample: Any, target: common.Target, x: np.ndarray, exact: list) -> dict[str, Any]:
    """Mean error over the seeds, and the errors themselves."""
    errors = [common.error(common.run(sample, target.model, part), end) for part, end in zip(x, exact)]
    return {"error": float(np.mean(errors)), "by_seed": errors, "nfe": samplers.nfe(sample)}


def load_fitted(path: str | None, nfe: int) -> Any:
    """The sampling function of fitted rows, or None where none were fitted."""
    if path is None:
        return None
    arrays = np.load(path)
    if f"{nfe}/t" not in arrays:
        return None
    rows = table.Row(*(arrays[f"{nfe}/{field}"] for field in table.Row._fields))
    ts = np.append(rows.t, 0.0)
    return samplers.sampling_fn(common.from_rows(rows), ts, max_rows=common.LONGEST)


def markdown(results: dict) -> str:
    """Per target and number of evaluations: the best baseline, and ours with its error over that one's."""
    ours = ("principal Adams 2", "principal Adams 3", "TrigFlow Adams 2", "fitted on mixtures")
    ours = [name for name in ours if any(name in row for rows in results.values() for row in rows.values())]
    lines = [
        "| target | NFE | best baseline (grid) | error | " + " | ".join(ours) + " |",
        "|---" * (4 + len(ours)) + "|",
    ]
    for target, rows in results.items():
        for nfe, row in rows.items():
            best = min((item for item in row.items() if item[1]["baseline"]), key=lambda item: item[1]["error"])
            name, error = f"{best[0]} ({best[1]['grid']})", best[1]["error"]
            cells = [f"{row[m]['error']:.4f}{ratio(row[m]['error'], error)}" if m in row else "" for m in ours]
            lines.append(f"| {target} | {nfe} | {name} | {error:.4f} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def ratio(error: float, best: float) -> str:
    """' (x 0.5)'; nothing where both are rounding."""
    return f" (x {error / best:.2f})" if best > SMALLEST else ""


def figure(rows: list[Row], path: Path) -> None:
    """Draws a panel per target, error over evaluations: the best baseline at each, and ours; both logarithmic."""
    panels: dict[str, dict[str, tuple[list, list]]] = {}
    for target, nfe, name, error in rows:
        x, y = panels.setdefault(target, {}).setdefault(name, ([], []))
        x.append(nfe)
        y.append(max(error, SMALLEST))
    plots.lines(path, panels, accent=["principal Adams 2"], columns=2, xscale="log", yscale="log", xlabel="evaluations")


def rows_of(table: str) -> list[Row]:
    """Reads the rows of `markdown`'s table: what a figure is drawn from."""
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line.startswith("| ")]
    head = next(i for i, cells in enumerate(lines) if cells[:2] == ["target", "NFE"])
    rows = []
    for cells in lines[head + 1 :]:
        if len(cells) != len(lines[head]):
            break
        named = zip(("best baseline", *lines[head][4:]), cells[3:])
        rows += [Row(cells[0], int(cells[1]), name, float(cell.split()[0])) for name, cell in named if cell]
    return rows


if __name__ == "__main__":
    main()
