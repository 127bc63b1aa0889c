"""Which noise z goes with which data x_0. The one place in training that is about a batch, by nature.

Pairs need not be independent, as long as x_0 and z keep their laws: the flow's marginals at both ends stay what they
are, and the nearer the pairs, the straighter it is. Optimal transport within the batch (Pooladian et al. 2023; Tong et
al. 2024) pairs by

    min over plans P of  sum_ij P_ij C_ij,    C_ij = |x_i - z_j|^2,    rows and columns of P summing to a and b,

exactly, by an assignment, or with the entropy epsilon sum P (log P - 1) added, by Sinkhorn's iteration on potentials in
the log domain (Cuturi 2013; Peyre & Cuturi 2019, section 4.4): P_ij = a_i b_j exp((f_i + g_j - C_ij) / epsilon).

Where sampling is told a condition c of x_0, such as its label, z has to keep its law given c too: else a sampler that
starts at a free z finds itself where no training pair of c was. So C_ij is infinite between examples of unlike
conditions, and every z stays with the condition that it was drawn for (`alike`).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffjax import host
from diffjax.types import Array, Key, Process

# (keys (B,), x_0 (B, ...), same (B, B) bool or None: which examples are given the same) -> (x_0, z), both (B, ...)
Coupling = Callable[..., tuple[Array, Array]]


def independent(process: Process) -> Coupling:
    """Couples x_0 with z drawn from the process's noise law, independently of x_0 and of the other examples."""

    def couple(keys: Key, x0: Array, same: Array | None = None) -> tuple[Array, Array]:
        return x0, jax.vmap(process.noise)(keys, x0)

    return couple


def exact(process: Process) -> Coupling:
    """Exchanges independent draws so that the batch's mean squared distance |x_0 - z|^2 is the least.

    They are exchanged among examples that are given the `same` alone.

    Raises:
        ValueError: from the coupling, for a process whose noise is no array of x_0's shape.
    """

    def couple(keys: Key, x0: Array, same: Array | None = None) -> tuple[Array, Array]:
        x0, z = _paired(process, keys, x0)
        return x0, z[assignment(_within(same, squared_distances(x0, z)))]  # (optimal-transport.1)

    return couple


def entropic(process: Process, epsilon: float = 0.05, iterations: int = 1000) -> Coupling:
    """Gives each x_0 a z from its row of Sinkhorn's plan over independent draws, so that one z may be taken twice.

    Args:
        epsilon: in units of the batch's mean cost, over pairs of examples that are given the same.
        iterations: of Sinkhorn, at most.

    Raises:
        ValueError: unless both are positive; from the coupling, as of `exact`.
    """
    _check_sinkhorn(epsilon, iterations)

    def couple(keys: Key, x0: Array, same: Array | None = None) -> tuple[Array, Array]:
        x0, z = _paired(process, keys, x0)
        cost = squared_distances(x0, z)
        mean = cost.mean() if same is None else jnp.mean(cost, where=same)
        log_plan = sinkhorn(_within(same, cost), epsilon * mean, iterations=iterations)
        keys_of_choice = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, 1)  # not the key that drew z
        return x0, z[jax.vmap(jax.random.categorical)(keys_of_choice, log_plan)]

    return couple


def alike(given: dict[str, Array]) -> Array | None:
    """Tells which of a batch's examples are given the same, (B, B) bool; None where nothing is given: all of them.

    Args:
        given: name -> (B, ...) whole numbers: labels, tokens of a text.

    Raises:
        ValueError: for a condition of floating numbers, such as a bridge's endpoint: each example has its own, so that
            there is nothing to pair within.
    """
    found = None
    for name, value in given.items():
        value = jnp.asarray(value)
        if jnp.issubdtype(value.dtype, jnp.inexact):
            raise ValueError(
                f"Transport pairs noise within equal conditions alone, but {name!r} is {value.dtype}, each example's "
                "own: set prepare.name=nothing, or give it as integers, the number of each distinct value."
            )
        rows = value.reshape(len(value), -1)
        equal = (rows[:, None] == rows[None]).all(-1)
        found = equal if found is None else found & equal
    return found


def _paired(process: Process, keys: Key, x0: Array) -> tuple[Array, Array]:
    """Draws independent pairs, between which there is a distance."""
    x0, z = independent(process)(keys, x0)
    if getattr(z, "shape", None) != x0.shape:
        got = f"of shape {z.shape[1:]}" if hasattr(z, "shape") else type(z).__name__
        raise ValueError(
            f"The noise of {type(process).__name__} is {got} for an x_0 of shape {x0.shape[1:]}, so that there is no "
            "distance |x_0 - z| to pair by; couplings.independent is left."
        )
    return x0, z


def _within(same: Array | None, cost: Array) -> Array:
    """Forbids the pairs of unlike conditions; the rest of a row or column stays finite: its diagonal is allowed."""
    return cost if same is None else jnp.where(same, cost, jnp.inf)


class _Matched(NamedTuple):
    u: Array  # (n,) prices of the rows
    v: Array  # (n,) and of the columns: cost - u - v >= 0, and = 0 on the pairs
    row: Array  # (n,) the row of each column, or n: none yet


class _Search(NamedTuple):
    at: Array  # the row from which columns are looked at
    end: Array  # the column reached last
    length: Array  # of the shortest path to it
    lengths: Array  # (n,) of the shortest paths found so far
    come_from: Array  # (n,) the last row on them
    done: Array  # (n,) columns whose length is final


def assignment(cost: Array) -> Array:
    """Finds the permutation p (n,) for which sum_i cost[i, p[i]] is the least, by shortest augmenting paths.

    Row after row finds the cheapest way to a free column through those that are taken, by Dijkstra's algorithm on
    costs less prices (Jonker & Volgenant 1987; Crouse 2016): O(n^3), exact up to the rounding of sums of costs. It is
    traced, since SciPy's, called back out of a compiled step, can block for ever on a CPU with few cores. Infinite
    costs forbid a pair; as long as some permutation is finite, every price stays so.

    Raises:
        ValueError: for a cost that is not square: an assignment is one to one.
    """
    if cost.ndim != 2 or cost.shape[0] != cost.shape[1]:
        raise ValueError(f"The cost has shape {cost.shape}, expected (n, n); where the numbers differ, take sinkhorn.")
    n = len(cost)
    count = jnp.arange(n, dtype=jnp.int32)

    def look(row: Array, matched: _Matched, search: _Search) -> _Search:
        through = search.length + cost[search.at] - matched.u[search.at] - matched.v
        shorter = ~search.done & (through < search.lengths)
        lengths = jnp.where(shorter, through, search.lengths)
        open_lengths = jnp.where(search.done, jnp.inf, lengths)
        end = jnp.argmin(open_lengths).astype(jnp.int32)
        come_from = jnp.where(shorter, search.at, search.come_from)
        return _Search(matched.row[end], end, open_lengths[end], lengths, come_from, search.done.at[end].set(True))

    def exchange(state: tuple[Array, Array, Array], come_from: Array) -> tuple[Array, Array, Array]:
        rows, end, _ = state
        row = come_from[end]
        before = jnp.argmax(rows == row).astype(jnp.int32)  # the column that this row gives up, if it had one
        return rows.at[end].set(row), before, row

    def add(row: Array, matched: _Matched) -> _Matched:
        start = _Search(
            row,
            row,
            jnp.zeros((), cost.dtype),
            jnp.full(n, jnp.inf, cost.dtype),
            jnp.full(n, row),
            jnp.zeros(n, bool),
        )
        search = jax.lax.while_loop(
            lambda search: search.at < n, lambda search: look(row, matched, search), look(row, matched, start)
        )
        slack = jnp.where(search.done, search.length - search.lengths, 0)
        u = matched.u.at[matched.row].add(slack, mode="drop").at[row].add(search.length)
        rows, _, _ = jax.lax.while_loop(
            lambda state: state[2] != row,
            lambda state: exchange(state, search.come_from),
            exchange((matched.row, search.end, row), search.come_from),
        )
        return _Matched(u, matched.v - slack, rows)

    prices = cost.min(0)
    first = _Matched((cost - prices[None]).min(1), prices, jnp.full(n, n, jnp.int32))
    rows = jax.lax.fori_loop(0, n, lambda i, matched: add(i.astype(jnp.int32), matched), first).row
    return jnp.zeros(n, jnp.int32).at[rows].set(count)


def squared_distances(x0: Array, z: Array) -> Array:
    """Computes |x_0[i] - z[j]|^2, (n, m), summed over entries, of x_0 (n, ...) and z (m, ...)."""
    x0, z = x0.reshape(len(x0), -1), z.reshape(len(z), -1)
    products = jnp.matmul(x0, z.T, precision="highest")
    return jnp.maximum((x0**2).sum(1)[:, None] + (z**2).sum(1)[None] - 2 * products, 0)


def sinkhorn(
    cost: Array, epsilon: Any, a: Any = None, b: Any = None, *, iterations: int = 1000, tolerance: float = 1e-4
) -> Array:
    """Computes the logarithm of the entropic plan, (n, m): its rows sum to a, its columns to b within the tolerance.

    Args:
        cost: (n, m).
        epsilon: the entropy's weight, in units of the cost.
        a, b: the masses (n,) and (m,); None: 1 / n and 1 / m. They may be 0.
        iterations: at most; where these do not suffice, the columns are as near to b as they have come.
        tolerance: of the columns' sums, as a share of the whole mass.

    Raises:
        ValueError: for masses that are negative, of other shapes, or unlike in sum, and an epsilon or a number of
            iterations that is not positive.
    """
    n, m = cost.shape
    a, b = (np.full(k, 1 / k) if mass is None else mass for k, mass in ((n, a), (m, b)))
    _check_masses(a, b, (n, m))
    _check_sinkhorn(epsilon, iterations)
    log_a, log_b = (jnp.log(jnp.asarray(mass, cost.dtype)) for mass in (a, b))
    scaled = cost / epsilon

    def rows(g: Array) -> Array:
        return -jax.nn.logsumexp((log_b + g)[None] - scaled, axis=1)

    def step(state: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        f, g, _, count = state
        new = -jax.nn.logsumexp((log_a + f)[:, None] - scaled, axis=0)  # (optimal-transport.3)
        error = jnp.sum(jnp.exp(log_b) * jnp.abs(jnp.expm1(g - new)))  # of the columns under (f, g)
        return rows(new), new, error / jnp.sum(jnp.exp(log_b)), count + 1

    def unfinished(state: tuple[Array, Array, Array, Array]) -> Array:
        return (state[2] > tolerance) & (state[3] < iterations)

    g = jnp.zeros(m, cost.dtype)
    start = (rows(g), g, jnp.asarray(jnp.inf, cost.dtype), jnp.zeros((), jnp.int32))
    f, g, _, _ = jax.lax.while_loop(unfinished, step, start)
    return (log_a + f)[:, None] + (log_b + g)[None] - scaled  # (optimal-transport.2)


def unbalance(log_plan: Array) -> Array:
    """Computes how far the columns of a plan (n, m) are from 1 / m each, the sum of |.|: what Sinkhorn has left to do.

    Where y is drawn from the rows, twice the distance in total variation of its mean law from that of the sample.
    """
    return jnp.sum(jnp.abs(jnp.exp(jax.nn.logsumexp(log_plan, axis=0)) - 1 / log_plan.shape[1]))


def transport_cost(x0: Array, z: Array) -> Array:
    """Computes the mean over pairs of |x_0 - z|^2, summed over entries: what reflow does not increase."""
    return jnp.mean(jnp.sum((x0 - z).reshape(len(x0), -1) ** 2, axis=1))  # (reflow.1)


def _check_masses(a: Any, b: Any, shape: tuple[int, int]) -> None:
    if (np.shape(a), np.shape(b)) != ((shape[0],), (shape[1],)):
        raise ValueError(f"The masses have shapes {np.shape(a)} and {np.shape(b)} for a cost of shape {shape}.")
    if not host.concrete(a, b):
        return
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    for name, mass in (("a", a), ("b", b)):
        if not (np.all(mass >= 0) and 0 < mass.sum() < np.inf):
            raise ValueError(
                f"{name} holds {mass.min():g} and sums to {mass.sum():g}, expected masses >= 0, not all 0."
            )
    if abs(a.sum() - b.sum()) > 1e-6 * a.sum():
        raise ValueError(
            f"The transport problem is unbalanced: a sums to {a.sum():.6g}, b to {b.sum():.6g}; divide each by its sum."
        )


def _check_sinkhorn(epsilon: Any, iterations: int) -> None:
    host.check_positive("epsilon", epsilon, "; the limit 0 is the exact coupling")
    host.check_int("iterations", iterations, most=2**20)
