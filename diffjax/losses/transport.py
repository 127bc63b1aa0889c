"""Noise chosen for the data of each batch by optimal transport (Pooladian et al. 2023; Tong et al. 2024).

The pairs (x_0, z) of `couplings.exact` or `couplings.entropic` are no longer independent: both keep their laws, so that
the flow is that of the data, and it is straighter; but x_t given x_0 is not Gaussian any more, so that only the flow is
right. Within a batch: the larger it is, the nearer the pairs are to the transport of the whole laws.

What sampling is told (a label) has to leave z normal too, or a conditional flow starts where it was never trained
(Cheng & Schwing 2025, arXiv 2503.10636): noise is exchanged among examples of one condition alone. A batch should then
hold several of each; of one alone the pair is independent. Hiding labels for a share of the examples changes nothing:
z is normal given each label, hence over all of them.
"""

from typing import Any

import jax
import jax.numpy as jnp

from diffjax import couplings
from diffjax.calculus import flow_only
from diffjax.types import Array, Key, Prepare, Process, PyTree


def optimal_transport(
    process: Process, method: str = "exact", epsilon: float = 0.05, iterations: int = 1000
) -> Prepare:
    """Pairs each example of the batch with its noise "z", standard normal over the examples that are given the same.

    What the batch is given has to be what sampling conditions on, in whole numbers (`couplings.alike`); a method hides
    the rest (`methods.denoising`).

    Args:
        process: of the flow alone, with standard normal noise, `path.rectified()`: what z is exchanged of.
        method: "exact", or "sinkhorn", whose pairs are drawn from the entropic plan.
        epsilon: of Sinkhorn, in units of the batch's mean cost.
        iterations: of Sinkhorn, at most.

    Raises:
        ValueError: for another method, options that are not positive, a process that calls itself Gaussian, or one of
            another noise.
    """
    _check_noise(process)
    if not flow_only(process.schedule):
        raise ValueError(
            "Optimal transport makes x_t given x_0 something else than Gaussian, so that only the flow is right: set "
            "process.name=path.rectified (schedule.name=Rectified)."
        )
    if method == "exact":
        couple = couplings.exact(process)
    elif method == "sinkhorn":
        couple = couplings.entropic(process, epsilon, iterations)
    else:
        raise ValueError(f"There is no transport method {method!r}; there are exact and sinkhorn.")

    def apply(memory: PyTree, key: Key, batch: PyTree) -> PyTree:
        keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(len(batch.x)))
        return batch.choose(z=couple(keys, batch.x, couplings.alike(batch.given))[1])

    def update(memory: PyTree, losses: Array, logged: dict[str, Array]) -> PyTree:
        return memory

    return Prepare(lambda: (), apply, update)


def _check_noise(process: Any) -> None:
    name = type(process).__name__
    if not hasattr(process, "noise"):
        raise ValueError(f"Got {name}, expected the process whose noise is paired, such as processes.path.rectified().")
    if getattr(process, "law", None) is not jax.random.normal:
        raise ValueError(
            f"Optimal transport pairs data with standard normal noise, but the noise of {name} has another law, which "
            "samples start from: set process.name=path.rectified (schedule.name=Rectified), or prepare.name=nothing."
        )
