"""Calibrates a short walk on one model: a grid by dynamic programming, a table of coefficients by gradients.

From starts whose seeds no test sees: the sampler is tried on the study's grids and on the grid whose measured local
errors are least in sum (`samplers.local_errors`); from the better of these grids its rows are fitted to end where the
flow does (`samplers.fitted`), each axis by itself and as a polynomial in the axes' variances, and the fit that is best
on walks held out is kept. Any linear sampler is calibrated so: the study gives the baselines the same right.

    python experiments/nfe/calibrate.py --workdir=RUN [--nfe=5,6,8,10] [--out=RUN/table.npz] [--smoke]
    python -m diffjax.main --mode=sample --workdir=RUN --nfe=5 --sampler=fitted.table \\
        --config.sampler.file=RUN/table.npz --config.grid.name=calibrated --config.grid.file=RUN/table.npz
"""

import argparse
import functools
import time
from pathlib import Path
from typing import Any, NamedTuple

import common
import jax
import jax.numpy as jnp
import numpy as np
from fit import training_digits

from diffjax import grids, samplers
from diffjax.samplers import fitted, local_errors

SEEDS = (1011, 1012)  # of starts: for the fit, for the local errors; the study's are others
CANDIDATES = 24  # steps of the walk whose times a grid is chosen from
NAMED, MEASURED = "the best grid by name", "dynamic programming"


class Effort(NamedTuple):
    """How much is walked.

    Attributes:
        walks: starts of the fit.
        reference: steps of the flow from there.
        measured: starts of the local errors.
        steps: of the descent.
        batch: walks in each.
        rate: at first.
    """

    walks: int
    reference: int
    measured: int
    steps: int
    batch: int
    rate: float = 3e-3


NETWORK = Effort(512, 100, 48, 60, 24, 1e-2)  # asked less often than an exact model
AXES = (True, 3)  # in what rows may change from axis to axis: the fit that is best on walks held out is kept


class Calibrated(NamedTuple):
    """A sampler with the rows that were fitted, its grid, where that came from, and the fit."""

    sampler: samplers.Sampler
    ts: np.ndarray
    origin: str
    fit: fitted.Fit


def main() -> None:
    """Writes the table of a run, and says how to use it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", required=True, help="of a trained run, or the name of an exact target")
    parser.add_argument("--nfe", default="5,6,8,10")
    parser.add_argument("--sampler", default="principal Adams 2", help="of the study's table")
    parser.add_argument("--out", help="default WORKDIR/table.npz")
    parser.add_argument("--smoke", action="store_true")
    args = parser.parse_args()
    out, fits = Path(args.out or Path(args.workdir) / "table.npz"), {}
    of = target(args.workdir)
    for nfe in map(int, args.nfe.split(",")):
        begun = time.perf_counter()
        found = calibrated(args.workdir, args.sampler, nfe, args.smoke)
        if found is None:
            raise SystemExit(f"{args.sampler} has no walk of {nfe} evaluations.")
        fits[nfe] = (found.ts, found.sampler, found.fit.rows)
        print(
            f"{nfe} evaluations: {found.fit.before:.4f} -> {found.fit.after:.4f} on walks held out, from "
            f"{found.origin}, in {time.perf_counter() - begun:.0f} s",
            flush=True,
        )
    fitted.save(out, common.SCHEDULE, of.model, of.shape, fits)
    print(f"--sampler=fitted.table --config.sampler.file={out} --nfe={min(fits)}")
    print(f"--config.grid.name=calibrated --config.grid.file={out}")


@functools.cache
def target(name: str) -> common.Target:
    """A target of the study, or the network of a run."""
    jax.config.update("jax_enable_x64", True)
    return common.target(name, training_digits())


def effort(of: common.Target, smoke: bool) -> Effort:
    """How much is walked on a target."""
    if smoke:
        return Effort(32, 100, 8, 5, 8)
    return Effort(1536, of.reference_steps, 128, 400, 128) if of.title in common.EXACT else NETWORK


def begun(of: common.Target, seed: int, n: int) -> jax.Array:
    """Starts in the precision in which a model is asked: float32 of a network, which is twice as fast."""
    x = common.starts(seed, n, of.shape)
    return x if of.title in common.EXACT else x.astype(jnp.float32)


@functools.cache
def walks(name: str, smoke: bool) -> tuple[jax.Array, jax.Array]:
    """Starts of the fit, and where the flow ends from there."""
    of = target(name)
    much, part = effort(of, smoke), max(of.starts, 64)
    x = begun(of, SEEDS[0], much.walks)
    return x, jnp.concatenate([common.reference(of, x[i : i + part], much.reference) for i in range(0, len(x), part)])


@functools.cache
def flow(name: str, smoke: bool) -> local_errors.Flow:
    """The flow at the candidate times, from other starts, with what errors there do to its ends."""
    of = target(name)
    x = begun(of, SEEDS[1], effort(of, smoke).measured)
    size = float(np.sqrt(np.mean(of.axes.variances)))
    ts = grids.angle(common.SCHEDULE, 8 if smoke else CANDIDATES, sigma_data=2 * size, power=1.0)
    return local_errors.flow(of.model, common.SCHEDULE, x, ts, fine=2 if smoke else 4)


@functools.cache
def costs(name: str, sampler: str, smoke: bool) -> tuple[Any, Any]:
    """The local errors of a sampler's steps at all candidates."""
    method = common.methods(target(name).axes)[sampler]
    inner = method.inner or method.make
    return local_errors.costs(flow(name, smoke), method.make(common.SCHEDULE), inner(common.SCHEDULE))


def calibrated(name: str, sampler: str, nfe: int, smoke: bool = False) -> Calibrated | None:
    """Calibrates a sampler of the study on a target for so many evaluations; None where it has no such walk."""
    of, (x, ends) = target(name), walks(name, smoke)
    method, much = common.methods(of.axes)[sampler], effort(of, smoke)
    made, found = method.make(common.SCHEDULE), []
    begins = lambda ts: common.error(end_of(of, made, ts, x[: 4 * of.starts]), ends[: 4 * of.starts])
    offered = starting_grids(name, sampler, nfe, smoke)
    for origin, ts in sorted(offered.items(), key=lambda grid: begins(grid[1]))[:1]:
        for axes in AXES if hasattr(made.plan(ts), "lead_x") else AXES[:1]:
            fit = fitted.fit(made, ts, of.model, x, ends, much.steps, much.batch, much.rate, axes=axes)
            own = samplers.Sampler(made.step, lambda ts, fit=fit: fit.rows, made.init, made.final, made.schedule)
            found.append(Calibrated(own, ts, origin, fit))
    return min(found, key=lambda each: each.fit.after, default=None)


def end_of(of: common.Target, sampler: samplers.Sampler, ts: np.ndarray, x: jax.Array) -> jax.Array:
    """Where a sampler's own walk along a grid ends."""
    return common.run(samplers.sampling_fn(sampler, ts, max_rows=common.LONGEST), of.model, x)


def starting_grids(name: str, sampler: str, nfe: int, smoke: bool) -> dict[str, np.ndarray]:
    """The best grid by name on the starts of the fit, and that of the least sum of local errors."""
    of, (x, ends) = target(name), walks(name, smoke)
    method, some = common.methods(of.axes)[sampler], slice(0, 4 * of.starts)
    if method.per_step != 1:
        return {}
    tried = {}
    for title, grid in (common.GRIDS | common.LEAPS).items():
        walk, ts = common.walk(method, grid, nfe), common.longest(method, grid, nfe)
        if walk is not None and samplers.nfe(walk) == nfe:
            tried[title] = (common.error(common.run(walk, of.model, x[some]), ends[some]), ts)
    best = min(tried.values(), key=lambda found: found[0], default=None)
    found = {} if best is None else {NAMED: best[1]}
    steps = nfe if best is None else len(best[1]) - 1
    try:
        chosen = flow(name, smoke).ts[local_errors.cheapest(costs(name, sampler, smoke), steps)]
        rows = method.make(common.SCHEDULE).plan(chosen)
    except ValueError:  # of a sampler that does not start there, or more steps than candidates
        return found
    return {**found, MEASURED: chosen} if len(rows.t) == nfe else found


if __name__ == "__main__":
    main()
