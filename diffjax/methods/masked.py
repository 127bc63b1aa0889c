"""Masked tokens: a network learns each hidden token given those that are seen (Sahoo et al. 2024; Shi et al. 2024).

x holds tokens 0 .. V - 1, and V stands for "hidden". At time t each token is kept with probability alpha_t, on its own,
and hidden otherwise; x_t is where(u < 1 - alpha_t, V, x) with one u ~ U[0, 1) for each token, so what is hidden at t is
hidden at every later time. With p_i the network's law of token i given x_t (Sahoo et al., eq. 10; Shi et al., eq. 4)

    -log p(x) <= integral over t of  -alpha'_t / (1 - alpha_t)  E sum over hidden i of  -log p_i(x_i | x_t)  dt,

with equality for the exact conditionals. As -alpha' dt = dm for the share m = 1 - alpha that is hidden, that is the
integral of E[..] / m over m from 0 to 1, whatever the schedule: none is asked for here, t is the share itself
(alpha = 1 - t, their log-linear schedule), its weight 1 / t. Over the number k of hidden tokens of L it is also

    the mean over k uniform on 1 .. L, and over sets of k places, of  L / k sum over the set of  -log p_i,

since the integral of t^(k - 1) (1 - t)^(L - k) times the number of such sets is 1 / k: a weight that is bounded and a
range that is not cut, which `Masked.bound` takes.

SUBS (Sahoo et al., section 3.2.3) stands in the posterior: no mass on "hidden", seen tokens stay as they are. One step
of a draw opens a hidden token with probability (t - s) / t from the share t to s and draws it from p_i; what is open
stays open (kexue 9271). Tokens opened in one step are drawn independently, which is exact for one token a step alone.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffjax import host, losses
from diffjax.method import Drawn, Example, Keys, Method, Section, Turn, per_example
from diffjax.schedules import Rectified
from diffjax.types import Array, Categorical, Key, PyTree, pytree, static

JUDGED = 4096  # held-out examples whose bound a report takes, and
PASSES = 8  # the numbers of hidden tokens that each of them is looked at with


@pytree
class Reveal:
    """How to draw: the shares hidden before and after each step, (n,) each; what is opened, and what is kept of it."""

    before: Array
    after: Array
    shape: tuple[int, ...] = static()
    singly: bool = static()
    trace: Callable | None = static(default=None)

    @property
    def nfe(self) -> int:
        """The network's evaluations in one draw."""
        return len(self.before)


class Masked(NamedTuple):
    """The parts, and what follows from them alone.

    Attributes:
        network: init, apply of (x, c, given) -> logits (*shape of x, vocabulary); c is 0: it is told no time.
        vocabulary: V, the number of tokens; V itself stands for a hidden one.
        steps: of a draw, the share hidden falling evenly; None: one token a step, in a random order.
        t_min: the least share hidden in training; what lies below is at most t_min times the loss at t_min.
    """

    network: Any
    vocabulary: int
    steps: int | None = None
    t_min: float = 1e-3

    drawn_by = ("steps",)  # what another draw may change

    def how(self) -> str:
        """Says how samples are made, for a report."""
        return "one token a step, in a random order" if self.steps is None else f"{self.steps} ancestral steps"

    def posterior(self, params: PyTree, x: Array, given: dict, **options: Any) -> Categorical:
        """Computes what is known of the tokens of an x that is hidden in part: a seen one is what it is."""
        logits = self.network.apply(params, x, jnp.zeros(()), given, **options)
        seen = jnp.where(jax.nn.one_hot(x, self.vocabulary, dtype=bool), 0.0, -jnp.inf)
        return Categorical(jnp.where((x == self.vocabulary)[..., None], jax.nn.log_softmax(logits), seen))

    def hide(self, x: Array, hidden: Array) -> Array:
        """Writes "hidden" at those places of x."""
        return jnp.where(hidden, jnp.asarray(self.vocabulary, x.dtype), x)

    def nats(self, params: PyTree, x: Array, hidden: Array, given: dict, **options: Any) -> Array:
        """Computes -log p_i(x_i) of each token, of x's shape: 0 where it is seen, nan for an x that is no token."""
        nats = -self.posterior(params, self.hide(x, hidden), given, **options).log_prob(x)
        return jnp.where((x >= 0) & (x < self.vocabulary), nats, jnp.nan)

    def bound(self, params: PyTree, key: Key, x: Array, given: dict, count: Array) -> Array:
        """Computes the bound in nats, unbiased for `count` uniform on 1 .. L: so many tokens are hidden, at random."""
        hidden = _ranks(key, x.shape) < jnp.asarray(count, jnp.int32)
        return self.nats(params, x, hidden, given).sum() * x.size / jnp.asarray(count, float)  # (masked.2)

    def method(self) -> Method:
        """Makes the method: what these parts train, and how they draw."""
        return masked(**self._asdict())


def masked(network: Any, vocabulary: int, steps: int | None = None, t_min: float = 1e-3) -> Method:
    """Makes the method of these parts (`Masked`).

    Raises:
        ValueError: for a vocabulary under 2, steps under 1, t_min outside (0, 1); from `init`, for an x that is not of
            integers, or a network whose logits are not those of the vocabulary at each place.
    """
    host.check_int("vocabulary", vocabulary, 2, most=2**24)
    if steps is not None:
        host.check_int("steps", steps, most=1_000_000)
    if not 0 < t_min < 1:
        raise ValueError(f"Got t_min = {t_min!r}, expected a share of hidden tokens inside (0, 1), such as 1e-3.")
    of = Masked(network, vocabulary, steps, t_min)
    share = losses.times.stratified(Rectified(), t_min)

    def init(key: Key, example: Example) -> PyTree:
        x, c = example.x, jnp.zeros(())
        if not jnp.issubdtype(x.dtype, jnp.integer):
            raise ValueError(f"The examples are {x.dtype} of shape {x.shape}, expected integers: tokens from 0 on.")
        params = network.init(key, x, c, example.given)
        found = jax.eval_shape(network.apply, params, x, c, example.given).shape
        if found != (*x.shape, vocabulary):
            raise ValueError(
                f"The network gives logits of shape {found} for tokens of shape {x.shape}, expected "
                f"{(*x.shape, vocabulary)}: one for each of the vocabulary, none for the hidden token."
            )
        return params

    def loss(params: PyTree, keys: Keys, example: Example, index: Array, size: int) -> tuple[Array, dict[str, Array]]:
        key_hide, key_dropout = jax.random.split(keys.example)
        x, chosen = example.x, example.chosen
        t = chosen["t"] if "t" in chosen else share(keys, index, size)
        u = chosen["z"] if "z" in chosen else jax.random.uniform(key_hide, x.shape)
        nats = of.nats(params, x, u < t, example.given, train=True, key=key_dropout)
        value = nats.sum() / t  # (masked.1)
        return value, {"t01": t, "nats_per_token": value / x.size}

    def plan(shape: tuple[int, ...], trace: Callable | None = None) -> Reveal:
        shares = jnp.asarray(np.linspace(1, 0, (steps or math.prod(shape)) + 1), jnp.float32)
        return Reveal(shares[:-1], shares[1:], shape, steps is None, trace)

    def draw(params: PyTree, request: Reveal, key: Key, given: dict) -> Any:
        key_order, key_walk = jax.random.split(key)
        if request.singly:
            u = (_ranks(key_order, request.shape).astype(jnp.float32) + 0.5) / math.prod(request.shape)
        else:
            u = jax.random.uniform(key_order, request.shape, jnp.float32)

        def reveal(x: Array, row: Any) -> tuple[Array, Any]:
            place, before, after = row
            drawn = of.posterior(params, x, given).sample(jax.random.fold_in(key_walk, place))
            x = jnp.where((after <= u) & (u < before), drawn, x)  # (masked.3)
            return x, (request.trace(x) if request.trace else None)

        hidden = jnp.full(request.shape, vocabulary, jnp.int32)
        rows = (jnp.arange(len(request.before)), request.before, request.after)
        x, trajectory = jax.lax.scan(reveal, hidden, rows)
        return (x, trajectory) if request.trace else x

    def report(run: Any, drawn: Drawn) -> list[Section]:
        return [_bounds(of, run)]

    return Method(init, (Turn(per_example(loss)),), draw, plan, asks=network.reads, parts=of, report=report)


def _ranks(key: Key, shape: tuple[int, ...]) -> Array:
    """The places of all entries in a random order."""
    return jax.random.permutation(key, jnp.arange(math.prod(shape), dtype=jnp.int32)).reshape(shape)


def _bounds(of: Masked, run: Any) -> Section:
    """The bound on held-out examples, beside what a product of the places' marginals makes of them; nats per token."""
    examples = run.data.some("held_out", JUDGED)
    n, tokens = len(examples.x), math.prod(examples.x.shape[1:])
    counts = 1 + (np.arange(n)[:, None] + np.arange(PASSES)) % tokens
    keys = jax.random.split(jax.random.key(0), n)

    def one(row: Any) -> Array:
        key, x, given, counts = row
        bound = lambda key, count: of.bound(run.params, key, x, given, count)
        return jax.vmap(bound)(jax.random.split(key, PASSES), counts).mean() / tokens

    rows = (keys, jnp.asarray(examples.x), examples.given, jnp.asarray(counts))
    found = np.asarray(jax.jit(lambda rows: jax.lax.map(one, rows, batch_size=256))(rows), np.float64)
    bound, error = found.mean(), found.std() / np.sqrt(n)
    known = run.data.some("train", 25 * JUDGED).x
    product = _product_nats(known, examples.x, of.vocabulary)
    text = (
        f"\n## Bound\n\nBound on -log p(x), {n} held-out examples: {bound:.4f} ± {error:.4f} nats per token "
        f"({bound / np.log(2):.4f} bits).\nA product of the places' marginals: {product:.4f}; "
        f"all tokens alike: {np.log(of.vocabulary):.4f}.\n"
    )
    results = {
        "bound": float(bound),
        "bound_error": float(error),
        "product_of_marginals": product,
        "unit": "nats/token",
    }
    return Section({"masked": results}, text)


def _product_nats(train: np.ndarray, held_out: np.ndarray, vocabulary: int) -> float:
    """The cross-entropy of held-out tokens under the frequencies at their place, each token counted once more."""
    seen = np.stack([(train == v).sum(0) for v in range(vocabulary)], -1) + 1.0
    log = np.log(seen / seen.sum(-1, keepdims=True))
    return float(-np.take_along_axis(log[None], held_out[..., None], -1).mean())
