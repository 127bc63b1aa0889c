"""What a process may know besides the verbs of `types.Process`: protocols that samplers and losses ask for.

What needs one refuses a process without it, in a line that names the verb:

    Recoverable  invert        without it `samplers.unified` takes new noise alone (share = 1)
    Renewable    renew         without it `samplers.unified` keeps all noise or none
    Tokens       vocabulary    x is of integers: samplers walk in int32
    Placewise    likelihood, spread, back, ..    without them there are no losses and samplers of `categorical`
    Counting     counts        times are whole numbers: a grid of others is refused
"""

from typing import Any, Protocol, runtime_checkable

from diffjax.types import Array, Key, Process


@runtime_checkable
class Recoverable(Protocol):
    """A process whose noise is known again from both ends, x_0 and x_t."""

    def invert(self, key: Key, x0: Array, x: Array, t: Any) -> Any:
        """Draws z of p(z | x_0, x_t = x): the one z with corrupt(x0, z, t) = x where there is only one."""
        ...


@runtime_checkable
class Renewable(Protocol):
    """A process whose noise can be replaced in part by new noise, its law kept."""

    def renew(self, key: Key, z: Any, share: Any) -> Any:
        """Replaces a share in [0, 1] of z by new noise: z itself at 0, another draw at 1, of the noise's law at all."""
        ...


@runtime_checkable
class Tokens(Protocol):
    """A process whose x holds tokens, int32."""

    @property
    def vocabulary(self) -> int:
        """V, the number of tokens of data, 0 .. V - 1; a state of the process may have more."""
        ...


@runtime_checkable
class Placewise(Process, Tokens, Protocol):
    """A process of tokens whose places are destroyed each on its own, so that the laws of one place say all.

    States are 0 .. K - 1: the V tokens, and where K = V + 1 the state V, "hidden". `schedule(t)` is (alpha, 1 - alpha),
    probabilities. A process may have `rates` (not a chain of whole steps), `pi` (a law of replacement that does not
    move), `gathered` (what inverts `spread`: x_0's law from a concrete score) too; losses and samplers that need one
    refuse a process without.
    """

    @property
    def states(self) -> int:
        """K, the number of states that a place may be in."""
        ...

    @property
    def limit(self) -> Array:
        """The law (K,) of what a place holds where nothing of x_0 is left: what `prior` draws."""
        ...

    def likelihood(self, x: Array, t: Any, s: Any = 0.0) -> Array:
        """Computes q(x_t = x | x_s = k) for every state k, (*shape of x, K)."""
        ...

    def spread(self, probs: Array, t: Any) -> Array:
        """Computes the law (*shape, K) of x_t,i of a place whose x_0,i has the law `probs` (*shape, V or K)."""
        ...

    def back(self, x: Array, probs: Array, t: Any, s: Any) -> Array:
        """Computes the law (*shape, K) of x_s,i given x_t = x; `probs` is that of x_0,i given the other places."""
        ...

    def told(self, t: Any) -> Array:
        """Computes what the network is told of t, a scalar: 0 of pure masks, else log(alpha / (1 - alpha))."""
        ...


@runtime_checkable
class Counting(Protocol):
    """A process whose times are whole numbers, so many of something: a grid of it is `grids.counts`."""

    @property
    def counts(self) -> int:
        """The last time, the schedule's t_max."""
        ...
