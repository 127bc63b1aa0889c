"""Error against evaluations, of every deterministic sampler on its best grid: table and figure of README.md.

The error is the distance to the end of the model's own probability flow from the same x_T: what a solver answers for,
free of what the model does. Every sampler is tried on every grid, at each number of evaluations, and keeps its best.

    python experiments/nfe/study.py --out=OUT [--networks=WORKDIR,...] [--fitted=FITTED.npz] [--smoke]
    python experiments/nfe/study.py --out=OUT --calibrate [--nfes=5,6,8,10] [--targets=TITLE;...] [--networks=...]
    python experiments/nfe/study.py --out=OUT --redraw=experiments/nfe/README.md

OUT is a sweep's folder, its points are calls of `best`: what is there is not walked again.
"""

import argparse
import functools
from pathlib import Path
from typing import Any, NamedTuple

import calibrate
import common
import jax
import numpy as np
from fit import training_digits

from diffjax import ending, plots, samplers, sweeps
from diffjax.samplers import table

SEEDS, FITTED = (11, 12, 13), "fitted on mixtures"
CALIBRATED = ", calibrated"  # after the name of a sampler whose grid and rows are the model's own (`calibrate`)
BY_HEART = ", by heart"  # whose rows were then fitted on to the walks of the test: no result, but a bound
RIVALS = ("iPNDM 3", "UniPC-2", "UniPC-3", "DPM-Solver++(3M)")
OURS = ("principal Adams 2", "principal Adams 2, asked at the start")
ALONG = tuple(name + common.ALONG for name in ("iPNDM 3", "UniPC-2", "UniPC-3"))  # calibrated alone
FEW = (5, 6, 8, 10)
SMALLEST = 5e-5  # errors below are rounding: the ideal denoiser ends exactly in an example


class Row(NamedTuple):
    """An error of a figure."""

    target: str
    nfe: int
    name: str
    error: float


def main() -> None:
    """Writes table.md and figure.png."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", required=True)
    parser.add_argument("--networks", default="", help="workdirs of digits runs, with commas between them")
    parser.add_argument("--fitted", default="", help="what fit.py has written")
    parser.add_argument(
        "--calibrate", action="store_true", help="every sampler on its own, and calibrated; 10 and fewer"
    )
    parser.add_argument("--targets", help="exact targets, with semicolons between them; default all")
    parser.add_argument("--nfes", help="with commas between them")
    parser.add_argument("--samplers", help="of the table, with semicolons between them; default all")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--redraw", help="a file with such a table: draws OUT/figure.png from it, and runs nothing")
    args = parser.parse_args()
    out, text = Path(args.out), Path(args.redraw).read_text() if args.redraw else ""
    if not text:
        exact = common.EXACT if args.targets is None else [name for name in args.targets.split(";") if name]
        targets = [*exact, *(workdir for workdir in args.networks.split(",") if workdir)]
        names, nfes = [*common.methods(None), *([FITTED] if args.fitted else [])], common.NFES
        if args.calibrate:
            baselines = [name for name, method in common.METHODS.items() if method.baseline]
            names, nfes = [*baselines, *OURS, *(name + CALIBRATED for name in (*RIVALS, *OURS, *ALONG))], FEW
        if args.samplers:
            names = known(args.samplers.split(";"), [*names, *(name + BY_HEART for name in (*RIVALS, *OURS, *ALONG))])
        nfes = (5, 10) if args.smoke else nfes
        grid = {"target": targets, "nfe": [int(n) for n in args.nfes.split(",")] if args.nfes else nfes}
        grid |= {"sampler": names, "fitted": args.fitted, "smoke": args.smoke}
        rows = sweeps.Sweep(best, grid, root=out).run(args.workers).table(["title", "miss", "grid"]).rows
        text = (beside if args.calibrate else markdown)(rows)
        (out / "table.md").write_text(text)
    if not args.calibrate:
        figure(rows_of(text), out / "figure.png")


def known(asked: list[str], names: list[str]) -> list[str]:
    """The samplers asked for, all of them of the table."""
    if unknown := sorted(set(asked) - set(names)):
        raise SystemExit(f"There is no sampler {unknown[0]!r} in this table; there are {'; '.join(names)}.")
    return asked


def best(target: str, nfe: int, sampler: str, fitted: str, smoke: bool) -> dict[str, Any]:
    """Gives the error of a sampler on the best of its grids of so many evaluations; {} where it has none."""
    of, x, exact = prepared(target, smoke)
    if sampler.endswith(CALIBRATED):
        walks = calibrated_walks(target, sampler.removesuffix(CALIBRATED), nfe, smoke)
    elif sampler.endswith(BY_HEART):
        name, walked = sampler.removesuffix(BY_HEART), (np.concatenate(x), np.concatenate(exact))
        walks = walk_of(calibrate.by_heart(target, name, nfe, *walked, smoke))
    elif sampler == FITTED:
        walks = {"fitted": load_fitted(fitted, nfe)}
    else:
        walks = {name: common.walk(common.methods(of.axes)[sampler], grid, nfe) for name, grid in common.GRIDS.items()}
    tried = []
    for grid, walk in walks.items():
        if walk is not None:
            errors = [common.error(common.run(walk, of.model, part), end) for part, end in zip(x, exact)]
            tried.append({"title": of.title, "miss": float(np.mean(errors)), "grid": grid, "by seed": errors})
    return min(tried, key=lambda result: result["miss"], default={})


def calibrated_walks(target: str, sampler: str, nfe: int, smoke: bool) -> dict[str, Any]:
    """The walk of a sampler that was calibrated on a target's own starts, by where its grid comes from."""
    if shared := set(SEEDS) & set(calibrate.SEEDS):
        raise ValueError(f"The seeds {shared} are both calibrated on and tested on.")
    return walk_of(calibrate.calibrated(target, sampler, nfe, smoke))


def walk_of(found: calibrate.Calibrated | None) -> dict[str, Any]:
    """The walk of calibrated rows, by where its grid comes from."""
    if found is None:
        return {}
    return {found.origin: samplers.sampling_fn(found.sampler, found.ts, max_rows=common.LONGEST)}


@functools.cache
def prepared(target: str, smoke: bool) -> tuple[common.Target, np.ndarray, list]:
    """A target, starts of each seed, and where the exact flow takes them."""
    jax.config.update("jax_enable_x64", True)
    of = common.target(target, training_digits())
    count = 8 if smoke else of.starts
    x = np.stack([common.starts(seed, count, of.shape) for seed in (SEEDS[:1] if smoke else SEEDS)])
    return of, x, [common.reference(of, part) for part in x]


def load_fitted(path: str, nfe: int) -> Any:
    """The sampling function of fitted rows, or None where none were fitted."""
    arrays = np.load(path)
    if f"{nfe}/t" not in arrays:
        return None
    rows = table.Row(*(arrays[f"{nfe}/{field}"] for field in table.Row._fields))
    ts = np.append(rows.t, 0.0)
    return samplers.sampling_fn(common.from_rows(rows), ts, max_rows=common.LONGEST)


def markdown(rows: list[dict]) -> str:
    """Per target and number of evaluations: the best baseline, and ours with its error over that one's."""
    found: dict[tuple[str, int], dict] = {}
    for row in (row for row in rows if row["miss"] is not None):
        found.setdefault((row["title"], row["nfe"]), {})[row["sampler"]] = row
    baselines = [name for name, method in common.methods(None).items() if method.baseline]
    ours = ["principal Adams 2", "principal Adams 3", "TrigFlow Adams 2", FITTED]
    ours = [name for name in ours if any(name in each for each in found.values())]
    lines = [
        "| target | NFE | best baseline (grid) | error | " + " | ".join(ours) + " |",
        "|---" * (4 + len(ours)) + "|",
    ]
    for (target, nfe), each in found.items():
        lead = min((each[name] for name in baselines if name in each), key=lambda row: row["miss"])
        cells = [f"{each[m]['miss']:.4f}{ratio(each[m]['miss'], lead['miss'])}" if m in each else "" for m in ours]
        cells = [target, str(nfe), f"{lead['sampler']} ({lead['grid']})", f"{lead['miss']:.4f}", *cells]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def beside(rows: list[dict]) -> str:
    """Per target and number of evaluations: the best baseline, the best calibrated one, ours calibrated over both.

    By heart is ours fitted on to the walks of the test, with its error over both: where that misses too, rows miss.
    """
    found: dict[tuple[str, int], dict] = {}
    for row in (row for row in rows if row["miss"] is not None):
        found.setdefault((row["title"], row["nfe"]), {})[row["sampler"]] = row
    baselines = [name for name, method in common.METHODS.items() if method.baseline]
    head = "target | NFE | best baseline | the best calibrated | ours | ours, calibrated | of the first | of the second"
    head += " | by heart" if (learned := any(row["sampler"].endswith(BY_HEART) for row in rows)) else ""
    lines = [f"| {head} |", "|---" * (8 + learned) + "|"]
    for (target, nfe), each in found.items():
        kinds = (baselines, [r + CALIBRATED for r in RIVALS], OURS, [name + CALIBRATED for name in (*OURS, *ALONG)])
        leads = [
            min((each[n] for n in names if n in each), key=lambda row: row["miss"], default=None) for names in kinds
        ]
        cells = ["" if lead is None else f"{said(lead)} {lead['miss']:.4f}" for lead in leads]
        shares = [f"{leads[3]['miss'] / lead['miss']:.2f}" if leads[3] and lead and lead["miss"] > SMALLEST else ""
                  for lead in leads[:2]]  # fmt: skip
        if learned:
            found_out = [row["miss"] for name, row in each.items() if name.endswith(BY_HEART)]
            over = [f"{min(found_out) / lead['miss']:.2f}" for lead in leads[:2] if found_out and lead]
            shares.append(f"{min(found_out):.4f} ({', '.join(over)})" if found_out else "")
        lines.append(f"| {' | '.join([target, str(nfe), *cells, *shares])} |")
    return "\n".join(lines) + "\n"


def said(row: dict) -> str:
    """A sampler and its grid."""
    return f"{row['sampler'].removesuffix(CALIBRATED)} ({row['grid']})"


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
    ending.script(main)
