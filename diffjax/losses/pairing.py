"""Endpoints y chosen for the data of each batch: which coupling of two data sets a bridge begins with.

A Schroedinger bridge is the Markov process of the one coupling pi* = f(x) R(y | x) g(y) (`processes.schroedinger`). Two
data sets give none, so a first one is chosen, among the examples of a batch, laws of x_0 and y kept:

    independent    y in a random order: bridge matching's first turn (Shi et al. 2023, section 4)
    sinkhorn       y drawn from pi* between the batch's two samples, by Sinkhorn's iteration with R's own entropy
                   sigma_T^2: the cheap alternative to further turns (Tong et al. 2023, arXiv:2307.03672)
    exact          the assignment of the least |alpha_T x_0 - y|^2: the limit of no noise

The larger the batch, the nearer the last two are to the coupling of the whole laws. In the mean over batches pairs of
a small one are nearer to independent ones (those of a batch of one are), so that more is left to later turns. Where the
network reads a label of x_0, y keeps its law given the label: it is exchanged within labels alone.
"""

import jax
import jax.numpy as jnp

from diffjax import couplings, gumbel, host
from diffjax.processes import Schroedinger
from diffjax.types import Array, Key, Prepare, Process, PyTree

METHODS = ("independent", "sinkhorn", "exact")


def pairing(process: Process, method: str = "independent", iterations: int = 1000) -> Prepare:
    """Chooses for each example of the batch one of the batch's endpoints "y".

    Args:
        process: `processes.schroedinger(schedule)`; its entropy is Sinkhorn's.
        method: "independent", "sinkhorn" or "exact".
        iterations: of Sinkhorn, at most. Its plan's rows are exact, its columns are as near as it came: where it was
            stopped before, as with a small sigma_T or a large batch, y does not keep its law. By how much a training
            logs as "unbalance" (`couplings.unbalance`).

    Raises:
        ValueError: for another method, a process whose pairs belong together, one that draws y itself; from `apply`,
            for pairs that a walk has made.
    """
    if not isinstance(process, Schroedinger) or process.from_noise:
        got = "endpoints that it draws itself" if isinstance(process, Schroedinger) else "pairs that belong together"
        raise ValueError(
            f"{type(process).__name__} has {got}, which a pairing would part: set prepare.name=nothing, or "
            "process.name=schroedinger with data.name=between."
        )
    if method not in METHODS:
        raise ValueError(f"There is no pairing {method!r}: {host.nearest(method, METHODS)}.")
    host.check_int("iterations", iterations, most=2**20)

    def apply(memory: PyTree, key: Key, batch: PyTree) -> PyTree:
        if "pair" in batch.chosen:
            raise ValueError(
                "The data's pairs were made by a walk, and prepare.pairing would part them: set prepare.name=nothing."
            )
        y = batch.given["y"]
        same = couplings.alike({name: part for name, part in batch.given.items() if name != "y"})
        if method == "independent":
            return _given(batch, y[_exchanged(key, len(y), same)])
        cost = couplings.squared_distances(process.carried(batch.x), y)
        cost = cost if same is None else jnp.where(same, cost, jnp.inf)
        if method == "exact":
            return _given(batch, y[couplings.assignment(cost)])
        log_plan = couplings.sinkhorn(cost, 2 * process.epsilon, iterations=iterations)  # (schroedinger.6)
        keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(len(y)))
        drawn = jnp.argmax(jax.vmap(gumbel.perturbed)(keys, log_plan), axis=1)  # of full precision (`gumbel`)
        off = jnp.broadcast_to(couplings.unbalance(log_plan), (len(y),))
        return _given(batch, y[drawn]).choose(logged={"unbalance": off})

    def update(memory: PyTree, losses: Array, logged: dict[str, Array]) -> PyTree:
        return memory

    return Prepare(lambda: (), apply, update)


def _exchanged(key: Key, n: int, same: Array | None) -> Array:
    """Draws a permutation (n,) that keeps to examples that are given the same."""
    if same is None:
        return jax.random.permutation(key, n)
    kind = jnp.argmax(same, axis=1)  # the first example of its kind
    ordered = jnp.lexsort((jax.random.uniform(key, (n,)), kind))
    return jnp.zeros(n, jnp.int32).at[jnp.argsort(kind)].set(ordered.astype(jnp.int32))


def _given(batch: PyTree, y: Array) -> PyTree:
    return batch._replace(given={**batch.given, "y": y})
