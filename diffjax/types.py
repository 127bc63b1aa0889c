"""The nouns. All mathematics is written for ONE example; `jax.vmap` adds the batch, sharding adds the devices.

Words that the field uses in several senses have one here:

    level      sigma / alpha at a time: how noisy x_t is. The logarithm of 1 / level^2 is always called log-SNR, and the
               grey values of data are `levels` only as the option of that name that configs of losses have
    noise      z, one draw of a process's law, of x_0's shape; eps is a network's prediction of it. A standard deviation
               is called sigma, or, of an observation, its noise's
    chain      `chains.Chain`: the steps of a grid seen as a Markov chain, with the gain and floor of each
    grid       times in decreasing order, host float64; `grids` makes them
    plan       what the host computes before anything is traced: rows by `Sampler.plan`, a request by `Method.plan`
    row        the numbers of one step of a sampler, planned: one evaluation of the model in all but the adaptive ODE
    walk       the way from noise to data along a plan's rows: what `samplers.sampling_fn` returns walks
    request    how to draw, planned once for a method: rows, an order of positions, () where there is no choice
    moments    E[x] and E[x^2] of something, said with whose: `denoisers.moments.SecondMoments` of a posterior's error,
               `theory.linear.Moments` of a Gaussian law
    prepare    what a training step does to its whole batch before the losses (`Prepare`, the group of configs). Data
               sets are prepared on the disk by `python -m diffjax.data.prepare`, TFDS's own word
    given      what is known of an example besides x, by name: {"label": 3}, {"y": the endpoint of a bridge}, {"text":
               tokens (L,)}, of which PADDING stands for no place and NULL, alone, for no text
    none       the value that stands for "not told" in the place of something given: what guidance extrapolates from
    chosen     what was drawn for a training example before its loss, by name: time "t", "weight", noise "z"
    turn       one update of a training step: whose parameters move, down which losses
    target     what a network predicts, the pair (a, b); the law of the data is a target only in `analytic`
    map        one array of x's shape in a network's output, which may hold several along the last axis

A config says a name within its group, so that one name may stand for several things: EDM is a schedule (sigma = t), a
target (c_skip, c_out), a sampler (heun.edm: Heun with churn) and a weight, all of one paper; npr and sn are a loss and
the denoiser that reads what it trained; none, uniform, chain, ladder are each what the group says. The schedule of a
learning rate is a `Rate` in code and a schedule in configs.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeVar, dataclass_transform, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array
Key = jax.Array
PyTree = Any
T = TypeVar("T")
PADDING, NULL = 0, 1  # tokens of a text that stand for no word


@dataclass_transform(frozen_default=True)
def pytree(cls: type[T]) -> type[T]:
    """Makes a frozen dataclass a pytree: fields are leaves, `field(metadata={"static": True})` is structure.

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


def as_pytree(function: Any) -> Any:
    """Makes a callable that `jit` takes as an argument: a plain function becomes a constant, in a `Partial`.

    What is a pytree already, such as a `jax.tree_util.Partial` over arrays, stays as it is: its leaves are arguments.
    """
    return jax.tree_util.Partial(function) if jax.tree_util.all_leaves([function]) else function


def real(value: Any) -> Array:
    """Makes an array of real numbers of a time or a log-SNR: of its own dtype from float32 on, else of the default.

    What follows from a time, alpha and sigma say, thus has the precision of the time: float32 stays float32 under
    `jax_enable_x64`, and bfloat16, too coarse for a time, does not stay.
    """
    value = jnp.asarray(value)
    fine = jnp.issubdtype(value.dtype, jnp.floating) and jnp.finfo(value.dtype).bits >= 32 and not value.weak_type
    return value if fine else jnp.asarray(value, float)


def static(**kwargs: Any) -> Any:
    """Makes a field of a `pytree` class a part of its structure: hashable, compared, never traced."""
    return dataclasses.field(metadata={"static": True}, **kwargs)


class Posterior(NamedTuple):
    """What a denoiser knows of p(x_0 | x_t): mean, and diagonal (or scalar) variance, of x_0's shape and units."""

    mean: Array
    var: Array | float = 0.0

    def sample(self, key: Key) -> Array:
        """Draws once from N(mean, var): the 'estimate' of estimate-and-correct (kexue 9262 (3), 9271 (11))."""
        return self.mean + jnp.sqrt(self.var) * jax.random.normal(key, self.mean.shape, self.mean.dtype)

    def combined(self, other: "Posterior", combine: Callable[[Array, Array], Array]) -> "Posterior":
        """Combines two posteriors: the mean is `combine` of both means, the variance is that of this one."""
        return Posterior(combine(self.mean, other.mean), self.var)


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
        """Computes the log probability in nats, of x's shape, of the token at each place."""
        return jnp.take_along_axis(jax.nn.log_softmax(self.logits, axis=-1), x[..., None], axis=-1)[..., 0]

    def sample(self, key: Key, shape: tuple[int, ...] = ()) -> Array:
        """Draws one token for each place, independently, int32: an array (*shape, *shape of x).

        Gumbel noise of full precision (`gumbel`): the default of float32 never draws a token of probability under 1e-7.
        """
        of_all = (*shape, *self.logits.shape[:-1])
        return jax.random.categorical(key, self.logits, shape=of_all, mode="high").astype(jnp.int32)

    def combined(self, other: "Categorical", combine: Callable[[Array, Array], Array]) -> "Categorical":
        """Makes the law whose logits are `combine` of those of this one and another, where both are finite.

        A token that either law excludes has the logit of this one: what is certain here stays certain. For that the
        constants have to agree, which logits are known up to: those of the other law are brought to this one's.
        """
        both = jnp.isfinite(self.logits) & jnp.isfinite(other.logits)
        mine, others = (jax.nn.logsumexp(law.logits, axis=-1, keepdims=True) for law in (self, other))
        found = combine(jnp.where(both, self.logits, 0.0), jnp.where(both, other.logits + mine - others, 0.0))
        return Categorical(jnp.where(both, found, self.logits))


class Schedule(Protocol):
    """`t -> (alpha, sigma)` of x_t = alpha x_0 + sigma z on 0 <= t <= t_max: amplitudes, not squares; t = 0 is data.

    A schedule may have more, which the library asks for by these protocols, and does without where it is missing:

        Invertible   inverse           without it `calculus.time_of` raises, and with it what needs times of log-SNRs
        Remaining    remaining         without it `calculus.remaining` takes a difference, which cancels near t_max
        Derived      base              the schedule inside one by another clock, pinned, or known by its flow alone
        Discrete     steps             without it `chains.whole` takes 1000
        Knotted      knots             without it the quadratures of `samplers.deis` are cut at the grid's times alone
        Pinned       base, endpoint_weight    of bridges; the target DDBM refuses others
        Exponential  log_signal        without it `calculus.log_alphas` takes the logarithm of alpha, which may be 0
        Telling      told              without it networks are told log-SNR, which is no scalar where alpha is none
    """

    @property
    def t_max(self) -> Any:
        """The end of the domain: the time where sampling starts."""
        ...

    def __call__(self, t: Any) -> tuple[Array, Array]:
        """(alpha_t, sigma_t); both broadcast against x."""
        ...


@runtime_checkable
class Invertible(Protocol):
    """What has a time for every log-SNR."""

    def inverse(self, log_snr: Any) -> Array:
        """Finds the time t with log(alpha_t^2 / sigma_t^2) = log_snr."""
        ...


@runtime_checkable
class Remaining(Protocol):
    """What knows how far log-SNR still falls, with full relative precision near t_max too."""

    def remaining(self, t: Any) -> Array:
        """Computes log(SNR_t / SNR_T), T = t_max: 0 there, infinite at sigma_t = 0."""
        ...


@runtime_checkable
class Derived(Protocol):
    """What is made of another schedule."""

    @property
    def base(self) -> Schedule:
        """The schedule that this one is made of."""
        ...


@runtime_checkable
class Discrete(Protocol):
    """What is a chain of a number of steps."""

    @property
    def steps(self) -> int:
        """T, the number of steps."""
        ...


@runtime_checkable
class Knotted(Protocol):
    """What has a beta that jumps at known times."""

    @property
    def knots(self) -> np.ndarray:
        """(T + 1,): the times where beta jumps, rising, both ends among them."""
        ...


@runtime_checkable
class Pinned(Derived, Protocol):
    """What is a base schedule given its endpoint y: (B, C) of u_t = x_t - A_t y."""

    def endpoint_weight(self, t: Any) -> Array:
        """Computes A_t, from 0 where sigma is to 1 at t_max."""
        ...


@runtime_checkable
class Exponential(Protocol):
    """What states its alpha by the exponent, where alpha itself is too small for its precision."""

    def log_signal(self, t: Any) -> Array:
        """Computes log(alpha_t), of alpha's shape."""
        ...


@runtime_checkable
class Telling(Protocol):
    """What has amplitudes of more than one number, and says by which scalar a network knows the time."""

    def told(self, t: Any) -> Array:
        """Computes a scalar that falls with t, of the size of a log-SNR; it may be infinite at the ends."""
        ...


class Process(Protocol):
    """How data is destroyed, and where sampling starts.

    The first four members make a process; `processes.Unconditional` has the rest as they are where x_t depends on x_0
    and noise alone. `prior_log_density` is asked for by likelihoods only. What a process may know besides
    is said in `verbs`.
    """

    @property
    def schedule(self) -> Schedule:
        """What x_t and t refer to."""
        ...

    def noise(self, key: Key, x0: Array) -> Array:
        """Draws z of the noise law, of x0's shape."""
        ...

    def corrupt(self, x0: Array, z: Array, t: Any) -> Array:
        """Computes x_t, deterministic given z, so that a coupling can choose z."""
        ...

    def prior(self, key: Key, shape: tuple[int, ...], t: Any = None) -> Array:
        """Draws x_T, at the schedule's end, or at the time t where the grid starts."""
        ...

    def prior_log_density(self, x: Array, t: Any = None) -> Array:
        """Computes the log density in nats of what `prior` draws, a scalar; raises a ValueError where there is none."""
        ...

    @property
    def conditions(self) -> tuple[str, ...]:
        """The names of `given` that the law of x_t depends on: ("y",) of a bridge; default ()."""
        ...

    @property
    def asks(self) -> tuple[str, ...]:
        """Those of `conditions` that data has to bring; the process draws the others. Default ()."""
        ...

    @property
    def hidden(self) -> tuple[str, ...]:
        """Those of `conditions` that no network may read: ("y",) of a Markovian projection; default ()."""
        ...

    def given(self, key: Key, given: dict, shape: tuple[int, ...], x0: Array | None = None) -> dict:
        """Completes what network, target and guidance are told, with what the process itself draws; default: `given`.

        Args:
            x0: the example; None where it is to be sampled.
        """
        ...

    def place(self, u: Array, given: dict, t: Any) -> Array:
        """Computes x_t of the state u that a sampler walks in, of one shape; default: u."""
        ...

    def enter(self, x: Array) -> Array:
        """Computes u_0, what the process destroys, of an example x of data; default: x."""
        ...

    def leave(self, u: Array) -> Array:
        """Computes the example of data that u_0 stands for; default: u."""
        ...

    def seen(self, net: "Network") -> "Network":
        """Puts a network that sees data into the coordinates of u; default: net."""
        ...

    def ends(self, x0: Array, z: Array, t: Any) -> tuple[Array, Array]:
        """Computes the pair (x_0', z') that a prediction a x_0 + b z is regressed on; default: (x0, z)."""
        ...

    def on(self, schedule: Schedule) -> "Process":
        """Puts the process on another clock of its schedule."""
        ...

    def check(self, target: Any) -> None:
        """Raises a ValueError for a target that says nothing of x_0 here; default: never."""
        ...

    def check_data(self, brought: tuple[str, ...], name: str) -> None:
        """Raises a ValueError where data of this name does not bring what the process asks for, or what it draws."""
        ...

    def check_density(self) -> None:
        """Raises a ValueError where the flow has no density to integrate from; default: never."""
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
        apply: (memory, key of the step, batch) -> batch, with entries added or changed; scalars (B,) by name in
            chosen["logged"] are logged beside those of the losses.
        update: (memory, losses (B,), logged scalars (B,) by name) -> memory.
        schedule: memory -> the schedule that was learned, another clock of the same process; None: nothing was.
        check: a batch of training examples -> nothing; raises a ValueError for examples that it cannot prepare.
    """

    init: Callable[[], PyTree]
    apply: Callable[[PyTree, Key, PyTree], PyTree]
    update: Callable[[PyTree, Array, dict[str, Array]], PyTree]
    schedule: Callable[[PyTree], Schedule] | None = None
    check: Callable[[PyTree], None] | None = None
