"""Any velocity field as a denoiser: the inverse of `samplers.ode.velocity`.

Of a schedule's flow dx/dt = alpha' E[x_0 | x] + sigma' E[z | x] the velocity v says

    E[x_0 | x] = (sigma' x - sigma v) / (alpha sigma' - sigma alpha'),    on `Rectified`: x - t v,

so that every deterministic sampler integrates dx/dt = v without a step of its own: DDIM is Euler's method. A network is
a field already: `denoiser(net, FlowOnly(Rectified()), Velocity())`.
"""

from collections.abc import Callable
from typing import Any

from diffjax.calculus import FlowOnly
from diffjax.denoisers.targets import Velocity
from diffjax.schedules import Rectified
from diffjax.types import Array, Denoiser, Posterior, Schedule, as_pytree, pytree


@pytree
class Flow:
    """The denoiser of a velocity field; make one with `flow`.

    Attributes:
        velocity: (x, t) -> dx/dt, of x's shape.
        schedule: what x_t and t refer to.
    """

    velocity: Callable[[Array, Any], Array]
    schedule: Schedule

    def __call__(self, x: Array, t: Any) -> Posterior:
        """Computes the mean that has this flow; its variance is unknown: 0."""
        c_skip, c_out = Velocity().skip_out(self.schedule, t)
        return Posterior(c_skip * x + c_out * self.velocity(x, t))  # (velocity-field.1)


def flow(velocity: Callable[[Array, Any], Array], schedule: Schedule | None = None) -> Denoiser:
    """Makes the denoiser of a velocity field.

    Args:
        velocity: (x, t) -> dx/dt for one example, in the schedule's clock; a `jax.tree_util.Partial` passes its arrays
            through `jit` as arguments.
        schedule: None: `FlowOnly(Rectified())`, right for any field on [0, 1]. Another one, or one without `FlowOnly`,
            says that this is the flow of data under that Gaussian process, so that stochastic samplers may use it.
    """
    return Flow(as_pytree(velocity), schedule or FlowOnly(Rectified()))
