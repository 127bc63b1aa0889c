"""The nouns. All mathematics is written for ONE example; `jax.vmap` adds the batch, sharding adds the devices."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeVar, dataclass_transform

import jax
import jax.numpy as jnp

Array = jax.Array
Key = jax.Array
PyTree = Any
T = TypeVar("T")


@dataclass_transform(frozen_default=True)
def pytree(cls: type[T]) -> type[T]:
    """A frozen dataclass that is also a pytree: fields are leaves, `field(metadata={"static": True})` is structure.

    Not `jax.tree_util.register_dataclass`: in jax 0.10.2 its structures compare equal for any two classes with the same
    fields, so that `jit`, which looks programs up by structure, sometimes runs that of one class on the other.
    """
    made = dataclasses.dataclass(frozen=True)(cls)
    fields = dataclasses.fields(made)  # pyright: ignore[reportArgumentType]
    leaves = [field.name for field in fields if not field.metadata.get("static")]
    fixed = [field.name for field in fields if field.metadata.get("static")]

    def flatten(node: Any) -> tuple[tuple, tuple]:
        return tuple(getattr(node, name) for name in leaves), tuple(getattr(node, name) for name in fixed)

    def flatten_with_keys(node: Any) -> tuple[tuple, tuple]:
        children, structure = flatten(node)
        return tuple(zip(map(jax.tree_util.GetAttrKey, leaves), children)), structure

    def unflatten(structure: tuple, children: Any) -> T:
        return made(**dict(zip(leaves, children)), **dict(zip(fixed, structure)))

    jax.tree_util.register_pytree_with_keys(made, flatten_with_keys, unflatten, flatten)
    return made


def static(**kwargs: Any) -> Any:
    """A field of a `pytree` class that is part of its structure: hashable, compared, never traced."""
    return dataclasses.field(metadata={"static": True}, **kwargs)


class Posterior(NamedTuple):
    """What a denoiser knows of p(x_0 | x_t): mean, and diagonal (or scalar) variance, of x_0's shape and units."""

    mean: Array
    var: Array | float = 0.0

    def sample(self, key: Key) -> Array:
        """One draw of N(mean, var): the 'estimate' of estimate-and-correct (kexue 9262)."""
        return self.mean + jnp.sqrt(self.var) * jax.random.normal(key, self.mean.shape, self.mean.dtype)


class Categorical(NamedTuple):
    """What is known of tokens: a law over V tokens at each place, the places independent.

    Attributes:
        logits: (*shape of x, V); -inf where a token cannot be.
    """

    logits: Array

    @property
    def probs(self) -> Array:
        """The probabilities (*shape of x, V)."""
        return jax.nn.softmax(self.logits, axis=-1)

    def log_prob(self, x: Array) -> Array:
        """The log probability in nats, of x's shape, of the token at each place."""
        return jnp.take_along_axis(jax.nn.log_softmax(self.logits, axis=-1), x[..., None], axis=-1)[..., 0]

    def sample(self, key: Key) -> Array:
        """One token for each place, drawn independently, int32.

        Gumbel noise of full precision: the default of float32 never draws a token of probability under 1e-7.
        """
        return jax.random.categorical(key, self.logits, mode="high").astype(jnp.int32)


class Schedule(Protocol):
    """`t -> (alpha, sigma)` of x_t = alpha x_0 + sigma z on 0 <= t <= t_max: amplitudes, not squares; t = 0 is data."""

    @property
    def t_max(self) -> Any:
        """The end of the domain: the time where sampling starts."""
        ...

    def __call__(self, t: Any) -> tuple[Array, Array]:
        """(alpha_t, sigma_t); both broadcast against x."""
        ...


class Process(Protocol):
    """How data is destroyed, and where sampling starts."""

    @property
    def schedule(self) -> Schedule:
        """What x_t and t refer to."""
        ...

    def noise(self, key: Key, x0: Array) -> Array:
        """One draw z of the noise law, of x0's shape."""
        ...

    def corrupt(self, x0: Array, z: Array, t: Any) -> Array:
        """x_t, deterministic given z, so that a coupling can choose z."""
        ...

    def prior(self, key: Key, shape: tuple[int, ...], t: Any = None) -> Array:
        """One draw of x_T, at the schedule's end, or at the time t where the grid starts."""
        ...


class Denoiser(Protocol):
    """`(x_t, t) -> Posterior`, carrying the schedule it was made for; parameters, labels, guidance are closed over."""

    @property
    def schedule(self) -> Schedule:
        """The schedule that x_t and t refer to; a sampler planned for another one refuses this denoiser."""
        ...

    def __call__(self, x: Array, t: Any) -> Posterior:
        """The posterior of x_0 given x_t = x."""
        ...


Network = Callable[..., Array]  # (x_in, c) -> F, of x's shape: parameters and label closed over; c is the log-SNR


class Prepare(NamedTuple):
    """What a training step does to its whole batch before the losses, and what it remembers of them afterwards.

    It sees the global batch, in order, whatever the devices: what it does is a function of (seed, step) alone. What it
    remembers is part of the training state, and stands still on steps that are skipped.

    Attributes:
        init: () -> memory, a pytree of arrays.
        apply: (memory, key of the step, batch) -> batch, with entries added or changed.
        update: (memory, losses (B,), logged scalars (B,) by name) -> memory.
        schedule: memory -> the schedule that was learned, another clock of the same process; None: nothing was.
    """

    init: Callable[[], PyTree]
    apply: Callable[[PyTree, Key, PyTree], PyTree]
    update: Callable[[PyTree, Array, dict[str, Array]], PyTree]
    schedule: Callable[[PyTree], Schedule] | None = None
