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
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import common
import jax
import jax.numpy as jnp
import numpy as np
from fit import training_digits

from diffjax import ending, grids, host, samplers
from diffjax.samplers import fitted, local_errors, principal

SEEDS = (1011, 1012)  # of starts: for the fit, for the local errors; the study's are others
CANDIDATES = 24  # steps of the walk whose times a grid is chosen from
HISTORY = 10  # evaluations that a row along axes may use: all of them; one compile serves every number of rows
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
        by_states: `fitted.fit_by_states` in place of `fitted.fit`: for a flow that ends in a few points.
    """

    walks: int
    reference: int
    measured: int
    steps: int
    batch: int
    rate: float = 3e-3
    by_states: bool = False


NETWORK = Effort(512, 100, 48, 60, 24, 1e-2)  # asked less often than an exact model
AXES = (True, 3)  # in what rows may change from axis to axis: the fit that is best on walks held out is kept
ALONG_AXES = (True,)  # of rows that were fitted without axes before


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
    parser.add_argument("--sampler", default="principal Adams 2", help="a name of the study's table")
    parser.add_argument("--out", help="default WORKDIR/table.npz")
    parser.add_argument("--smoke", action="store_true")
    args = parser.parse_args()
    out, fits = Path(args.out or Path(args.workdir) / "table.npz"), {}
    names = [name + after for name in common.methods(None) for after in ("", common.ALONG)]
    if args.sampler not in names:
        raise SystemExit(f"There is no sampler {args.sampler!r} in the study: {host.nearest(args.sampler, names)}.")
    try:
        of = target(args.workdir)
    except ValueError as error:  # no run, or one of another schedule than the study's
        raise SystemExit(str(error)) from error
    print(
        f"walking the flow of {args.workdir}, then fitting: a minute or more for each number of evaluations", flush=True
    )
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
    if of.title == common.IDEAL:
        return Effort(1024, 200, 128, 80, 64, by_states=True)
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
def states(name: str, t: float, smoke: bool) -> jax.Array:
    """Where the flow from the starts of the fit is at t."""
    of, (x, _) = target(name), walks(name, smoke)
    return common.reference(of, x, effort(of, smoke).reference, t)


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


@functools.cache
def calibrated(name: str, sampler: str, nfe: int, smoke: bool = False) -> Calibrated | None:
    """Calibrates a sampler of the study on a target for so many evaluations; None where it has no such walk."""
    of, found = target(name), []
    for made, ts, origin in beginnings(name, sampler, nfe, smoke):
        (x, ends), much = walks(name, smoke), effort(of, smoke)
        by = partial(fitted.fit, made, ts, of.model, x, ends)
        if much.by_states:
            by = partial(fitted.fit_by_states, made, ts, of.model, x, ends, states(name, ts[-2], smoke))
        for axes in kinds(sampler, made.plan(ts)):
            fit = by(steps=much.steps, batch=much.batch, rate=much.rate, axes=axes, variances=of.axes.variances)
            own = made._replace(plan=lambda ts, fit=fit: fit.rows)
            found.append(Calibrated(own, ts, origin, fit))
    return min(found, key=lambda each: each.fit.after, default=None)


def kinds(sampler: str, rows: Any) -> tuple[bool | int, ...]:
    """In what the rows of a sampler may change from axis to axis."""
    if sampler.endswith(common.ALONG):
        return ALONG_AXES
    return AXES if hasattr(rows, "lead_x") else AXES[:1]


def by_heart(name: str, sampler: str, nfe: int, x: Any, ends: Any, smoke: bool = False) -> Calibrated | None:
    """Fits calibrated rows on, to the very walks that test them: what is missed then, the kind of row misses.

    The held-out part of a fit chooses the step that is kept: each walk is there four times, once held out.
    """
    found, of = calibrated(name, sampler, nfe, smoke), target(name)
    if found is None:
        return None
    much, x = effort(of, smoke), jnp.asarray(x, walks(name, smoke)[0].dtype)
    starts, goals = (jnp.repeat(jnp.asarray(part, x.dtype), fitted.HELD_OUT, axis=0) for part in (x, ends))
    fit = fitted.fit(
        found.sampler, found.ts, of.model, starts, goals, much.steps, much.batch, much.rate,
        axes=AXES[-1], variances=of.axes.variances,
    )  # fmt: skip
    return found._replace(sampler=found.sampler._replace(plan=lambda ts: fit.rows), fit=fit)


def beginnings(name: str, sampler: str, nfe: int, smoke: bool) -> list[tuple[samplers.Sampler, np.ndarray, str]]:
    """What a fit starts from, at most one: a sampler, a grid, and where that came from."""
    of = target(name)
    if sampler.endswith(common.ALONG):
        found = calibrated(name, sampler.removesuffix(common.ALONG), nfe, smoke)
        return [] if found is None else [(principal.lifted(found.sampler, of.axes, HISTORY), found.ts, found.origin)]
    made, offered = common.methods(of.axes)[sampler].make(common.SCHEDULE), offers(name, sampler, nfe, smoke)
    if effort(of, smoke).by_states:  # a refitted last row says more than the walk as it is; of the best five
        x, ends = walks(name, smoke)
        refitted = lambda offer: fitted.fit(made, offer.ts, of.model, x, ends, steps=0).after
        offered = sorted(offered[:5], key=refitted)
    return [(made, offer.ts, offer.origin) for offer in offered[:1]]


class Offer(NamedTuple):
    """A grid, where it came from, and the error of a sampler's walk along it on the starts of the fit."""

    error: float
    origin: str
    ts: np.ndarray


def offers(name: str, sampler: str, nfe: int, smoke: bool) -> list[Offer]:
    """The grids by name, and that of the least sum of local errors in as many steps, in order of their errors."""
    of, (x, ends) = target(name), walks(name, smoke)
    method, some = common.methods(of.axes)[sampler], slice(0, 4 * of.starts)
    if method.per_step != 1:
        return []

    def offer(origin: str, ts: np.ndarray) -> Offer:
        walk = samplers.sampling_fn(method.make(common.SCHEDULE), ts, max_rows=common.LONGEST)
        return Offer(common.error(common.run(walk, of.model, x[some]), ends[some]), origin, ts)

    named = [common.longest(method, grid, nfe) for grid in (common.GRIDS | common.LEAPS).values()]
    rows = lambda ts: len(method.make(common.SCHEDULE).plan(ts).t)
    found = [offer(NAMED, ts) for ts in named if ts is not None and rows(ts) == nfe]
    steps = len(min(found, key=lambda offer: offer.error).ts) - 1 if found else nfe
    try:
        chosen = flow(name, smoke).ts[local_errors.cheapest(costs(name, sampler, smoke), steps)]
        found += [offer(MEASURED, chosen)] * (rows(chosen) == nfe)
    except ValueError:  # of a sampler that does not start there, or more steps than candidates
        pass
    return sorted(found, key=lambda offer: offer.error)


if __name__ == "__main__":
    ending.script(main)
