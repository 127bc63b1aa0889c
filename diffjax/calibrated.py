"""What was calibrated on one model: grids by dynamic programming, the file of a table, the fingerprint of the model.

Let the cost of a grid i_0 < i_1 < ... < i_n of candidate times be a sum over its steps, each seen with the step before
it. The cheapest grid of n steps follows from the cheapest beginnings (Bellman's recursion; Watson et al. 2021 on
diffusion bounds):

    V_1(0, i) = c(0, i),    V_k(i, j) = min_h V_{k-1}(h, i) + c(h, i, j).

Costs without a past, c(i, j), are the case V_k(j) = min_i V_{k-1}(i) + c(i, j). Example: a DDIM step from angle a to
angle b multiplies the error-free amplitude of Gaussian data by cos(a - b), so that with c = -log cos the cheapest grid
is the grid of least error, and it is even in the angle.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from diffjax import host, members
from diffjax.calculus import amplitudes
from diffjax.types import Schedule

__all__ = ["Fingerprint", "Table", "read", "shortest", "times", "write"]

SHARES = np.asarray([0.15, 0.4, 0.7])  # of t_max, where a model is asked for its fingerprint
AGREES = 2e-3  # of the size of an answer: float32's rounding is below; checkpoints that are closer both pass
MADE = "experiments/nfe/calibrate.py --workdir=RUN writes such a file for a run on schedule VP(0.1, 20)"


def shortest(costs: Any, n: int, after: Any = None) -> np.ndarray:
    """Finds the cheapest way of n steps from the first candidate to the last, (n + 1,) indices.

    Args:
        costs: (M + 1, M + 1), of the step from i to j > i; with `after` of the first step alone. What stands at j <= i
            is not read. Infinite: forbidden.
        after: (M + 1, M + 1, M + 1), of the step from i to j where h < i came before i; None: costs, whatever came.

    Raises:
        ValueError: for other shapes, NaN, n outside 1 .. M, or if no way of finite cost has n steps.
    """
    costs = np.asarray(costs, np.float64)
    m = len(costs) - 1
    if costs.ndim != 2 or costs.shape != (m + 1, m + 1) or m < 1:
        raise ValueError(f"The costs have shape {costs.shape}, expected (M + 1, M + 1), M >= 1.")
    after = np.broadcast_to(costs, (m + 1,) * 3) if after is None else np.asarray(after, np.float64)
    if after.shape != (m + 1,) * 3:
        raise ValueError(f"The costs after a step have shape {after.shape}, expected {(m + 1,) * 3}.")
    n = host.check_int("The number of steps", n, 1, most=m)
    at = np.arange(m + 1)
    rises = at[:, None] < at
    ahead = rises[:, :, None] & rises[None]  # h < i < j
    if np.isnan(costs[rises]).any() or np.isnan(after[ahead]).any():
        raise ValueError("The costs hold NaN, expected numbers, infinite where a step is forbidden.")
    after = np.where(ahead, after, np.inf)
    value = np.full((m + 1, m + 1), np.inf)
    value[0, 1:] = costs[0, 1:]
    came = []
    for _ in range(n - 1):
        through = value[:, :, None] + after  # (calibrated.1)
        came.append(np.argmin(through, 0))
        value = np.min(through, 0)
    i = int(np.argmin(value[:, m]))
    if not np.isfinite(value[i, m]):
        raise ValueError(f"No way of {n} steps through {m + 1} candidates has a finite cost.")
    path = [m, i]
    for origin in came[::-1]:
        path.append(int(origin[path[-1], path[-2]]))
    return np.asarray(path[::-1])


class Fingerprint(NamedTuple):
    """What a model answers at three points that are the same everywhere: by which it is known again.

    Attributes:
        ts: (3,), the times.
        answers: (3, 2), sums of E[x_0 | x] over entries with two fixed sets of signs, over sqrt(d).
        size: (), the root mean square of E[x_0 | x] there.
        shape: (k,), of an example, as floats.
    """

    ts: Any
    answers: Any
    size: Any
    shape: Any

    @classmethod
    def of(cls, model: Any, shape: tuple[int, ...]) -> "Fingerprint":
        """Asks a model, which carries its schedule, in the default precision; three evaluations."""
        ts = SHARES * float(model.schedule.t_max)
        rng, d, dtype = np.random.default_rng(0), int(np.prod(shape)), jnp.zeros(()).dtype
        means = []
        for t, alpha, sigma in zip(ts, *amplitudes(model.schedule, ts)):
            x = 0.5 * alpha * rng.standard_normal(shape) + sigma * rng.standard_normal(shape)
            said = model(jnp.asarray(x, dtype), jnp.asarray(t, dtype)).mean
            means.append(np.asarray(said, np.float64).reshape(-1))
        signs = np.sign(rng.standard_normal((d, 2)))
        size = np.sqrt(np.mean(np.square(means)))
        return cls(ts, np.stack(means) @ signs / np.sqrt(d), size, np.asarray(shape, np.float64))

    def check(self, model: Any) -> None:
        """Refuses a model that answers otherwise.

        Raises:
            ValueError: saying by how much.
        """
        shape = tuple(int(n) for n in np.asarray(self.shape))
        found = Fingerprint.of(model, shape)
        apart = float(np.max(np.abs(found.answers - np.asarray(self.answers, np.float64))) / float(self.size))
        if not apart <= AGREES:
            raise ValueError(
                f"The table was calibrated on another model: answers at three fixed points differ by {apart:.2g} of "
                f"their size, expected at most {AGREES:g}; {MADE} for this one, or take samplers.principal.adams."
            )


class Table(NamedTuple):
    """The rows of a sampler for one number of evaluations, and where its grid lies.

    Attributes:
        ts: the grid, from the first time to the last.
        rows: field -> (evaluations, ...), of the sampler's row.
    """

    ts: np.ndarray
    rows: dict[str, np.ndarray]


class Kept(NamedTuple):
    """The tables of a file by their evaluations, the fingerprint of their model, their axes."""

    tables: dict[int, Table]
    model: Fingerprint
    basis: np.ndarray | None


def write(path: str | Path, kept: Kept, schedule: Schedule) -> None:
    """Writes tables, the fingerprint of their model and levels of their schedule to a file, .npz."""
    arrays: dict[str, Any] = {
        f"model/{name}": np.asarray(part, np.float64) for name, part in kept.model._asdict().items()
    }
    arrays["levels"] = _levels(schedule, kept.model.ts)
    arrays["evaluations"] = np.asarray(sorted(kept.tables), np.float64)
    if kept.basis is not None:
        arrays["basis"] = np.asarray(kept.basis, np.float64)
    for n, (ts, rows) in kept.tables.items():
        arrays |= {f"{n}/ts": ts, **{f"{n}/rows/{name}": np.asarray(part) for name, part in rows.items()}}
    np.savez(path, **arrays)


def read(path: str | Path, schedule: Schedule, fields: Sequence[str] = ()) -> Kept:
    """Reads what `write` wrote.

    Args:
        schedule: that of the walks to come.
        fields: names of the fields of rows that are looked for; of none, grids alone are read.

    Raises:
        ValueError: for a file that is not there or holds something else, or tables of another schedule.
    """
    get = lambda names, optional=(): members.tables(path, names, "calibrated tables", MADE, optional=optional)
    first = get(["evaluations", "levels", *(f"model/{name}" for name in Fingerprint._fields)], ["basis"])
    model = Fingerprint(*(first[f"model/{name}"] for name in Fingerprint._fields))
    levels = _levels(schedule, model.ts)
    if levels.shape != first["levels"].shape or not np.allclose(levels, first["levels"], rtol=1e-5, atol=1e-7):
        raise ValueError(
            f"{str(path)!r} holds tables of another schedule: at t = {model.ts[1]:.4g} its sigma is "
            f"{first['levels'][1, 1]:.6g}, that of {type(schedule).__name__} {levels[1, 1]:.6g}; {MADE} for this run."
        )
    tables = {}
    for n in map(int, first["evaluations"]):
        found = get([f"{n}/ts"], [f"{n}/rows/{name}" for name in fields])
        ts = found.pop(f"{n}/ts")
        tables[n] = Table(ts, {name.rpartition("/")[2]: part for name, part in found.items()})
    return Kept(tables, model, first.get("basis"))


def times(schedule: Schedule, n: int, *, file: str | Path | None = None) -> np.ndarray:
    """Reads the grid on which a model was calibrated for n evaluations: that of `samplers.fitted.table`.

    A walk whose first step is free has one more step than evaluations.

    Args:
        n: evaluations.
        file: that holds the tables.

    Raises:
        ValueError: for no file; as `read`; for a number of evaluations that was not calibrated.
    """
    if file is None:
        raise ValueError(f"A calibrated grid needs the file that holds it, grid.file; {MADE}.")
    return chosen(read(file, schedule).tables, n, file).ts


def chosen(tables: dict[int, Table], n: Any, file: Any) -> Table:
    """Picks the table of n evaluations; a ValueError names those that there are."""
    if not (host.is_int(n) and n in tables):
        raise ValueError(
            f"{str(file)!r} has no table of {n!r} evaluations, but of {', '.join(map(str, tables))}: set --nfe."
        )
    return tables[n]


def _levels(schedule: Schedule, ts: Any) -> np.ndarray:
    """Looks up (alpha, sigma) at the times of a fingerprint, (3, 2)."""
    return np.stack(amplitudes(schedule, np.asarray(ts, np.float64)), 1)
