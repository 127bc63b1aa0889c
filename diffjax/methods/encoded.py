"""Diffusion of tokens in the space of a trained encoder: real noise on vectors, a law over tokens as what is known.

Encoding (kexue 9271); compare Li et al. 2022 (Diffusion-LM), Dieleman et al. 2022 (CDCD). Every token v has a vector
E_v in R^d, trained with the network:

    x_t = alpha_t E(x_0) + sigma_t z,        loss  -log q(x_0 | x_t),  the mean over places,

whose gradient reaches E through x_t. Without a constraint the loss falls to 0 by longer vectors, and what is learned is
to read them where noise no longer matters; so |E_v| is held at sqrt(d), E_v := sqrt(d) E_v / |E_v| (`sphere`).

The law of a place, given all of x_t, is Bayes's rule: what is known of Gaussian noise is not learned, the network adds
what the other places say. Up to a constant

    log q(x_0,i = v | x_t) = b_v + E_v . h_i / sqrt(d) + alpha / sigma^2 E_v . x_t,i - alpha^2 / (2 sigma^2) |E_v|^2,

h = network(x_t, log-SNR), of x_t's shape: any network of real numbers serves. b_v is learned, the log of v's frequency.
With shown = "mean" the network sees sum_v q_0(v) E_v in the place of x_t, q_0 being that law at h = 0: a token, softly.

A draw walks in R^d. `samplers.unified` draws tokens x_0 at every step and corrects with E(x_0); the last step arrives
at E(x_0), which is read as those tokens. A sampler of a schedule, `ancestral.ddim` or any other, is shown the mean
sum_v q(v) E_v and its variance (Dieleman et al.: score interpolation), and its end is read as the nearest tokens. The
law is a product over places, which is exact in the limit of many steps.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from diffjax import calculus, grids, host, losses, samplers
from diffjax.codecs import Codec
from diffjax.method import Drawn, Example, Keys, Method, Section, Turn, per_example
from diffjax.methods.examples import check_whole
from diffjax.methods.planning import planned_sampler, takes_process
from diffjax.methods.tokens import check_tokens
from diffjax.processes.encoded import Encoded
from diffjax.processes.gaussian import Gaussian
from diffjax.types import Array, Categorical, Key, Posterior, PyTree, Schedule, pytree, static

JUDGED = 4096  # held-out examples whose cross-entropy a report takes, and
PASSES = 16  # the times that each of them is looked at


def sphere(vectors: Array) -> Array:
    """Gives every vector (..., d) the length sqrt(d): variance 1 in each entry, whatever its direction."""
    d = vectors.shape[-1]
    return math.sqrt(d) * vectors / jnp.linalg.norm(vectors, axis=-1, keepdims=True)  # (encoded.3)


class Vectors(NamedTuple):
    """An encoder: a vector for each token, and what keeps the vectors from growing.

    Attributes:
        init: key -> params, a pytree of arrays.
        apply: params -> (V, d), before the constraint.
        constraint: (V, d) -> (V, d), `sphere`: no loss of the encoder is to fall by the length of its vectors.
    """

    init: Callable[[Key], PyTree]
    apply: Callable[[PyTree], Array]
    constraint: Callable[[Array], Array] | None = None


def table(vocabulary: int, size: int) -> Vectors:
    """Makes the encoder that is a table: V free vectors (d,) on the sphere, normal at first."""
    return Vectors(lambda key: jax.random.normal(key, (vocabulary, size)), lambda vectors: vectors, sphere)


@pytree
class Readout:
    """The denoiser (x, t) -> law of each token: what the noise says of it, and what the network says.

    Attributes:
        net: (x, c) -> h, of x's shape.
        schedule: of x_t.
        vectors: E, (V, d).
        bias: b, (V,).
        shown: to the network, "x" or "mean".
    """

    net: Callable[..., Array]
    schedule: Schedule
    vectors: Array
    bias: Array
    shown: str = static(default="x")

    def __call__(self, x: Array, t: Any) -> Categorical:
        """The law of each token given x_t = x, for t > 0."""
        alpha, sigma = self.schedule(t)
        snr, E = (alpha / sigma) ** 2, self.vectors
        alone = _inner(alpha / sigma**2 * x, E) + _beside(x, self.bias - snr / 2 * jnp.sum(E**2, -1))
        shown = x if self.shown == "x" else _mean(jax.nn.softmax(alone), E)  # (encoded.6)
        said = self.net(shown, calculus.log_snr(self.schedule, t)) / math.sqrt(E.shape[-1])
        return Categorical(alone + _inner(said, E))  # (encoded.2)


@pytree
class Interpolated:
    """The denoiser of the vectors: mean and variance of E(x_0) under the law of the tokens."""

    law: Readout

    @property
    def schedule(self) -> Schedule:
        """The schedule of x_t."""
        return self.law.schedule

    def __call__(self, x: Array, t: Any) -> Posterior:
        """The posterior of E(x_0) given x_t = x, for t > 0."""
        probs, E = self.law(x, t).probs, self.law.vectors
        mean = _mean(probs, E)  # (encoded.4)
        return Posterior(mean, jnp.maximum(_mean(probs, E**2) - mean**2, 0.0))


def _mean(probs: Array, vectors: Array) -> Array:
    return jnp.einsum("...v,vd->...d", probs, vectors, precision="highest")


def _inner(x: Array, vectors: Array) -> Array:
    return jnp.einsum("...d,vd->...v", x, vectors, precision="highest")


def _beside(x: Array, row: Array) -> Array:
    """A row (V,) with the places of x (*shape, d) as axes of length 1."""
    return jnp.expand_dims(row, range(x.ndim - 1))


def _looked_up(vectors: Array, x: Array) -> Array:
    """E(x), (*shape, d); nan for a token out of range, which an index would clamp."""
    known = (x >= 0) & (x < vectors.shape[0])
    return jnp.where(known[..., None], vectors[x], jnp.nan)


def _nearest(vectors: Array, code: Array) -> Array:
    return jnp.argmax(_inner(code, vectors) - _beside(code, jnp.sum(vectors**2, -1) / 2), -1).astype(jnp.int32)


@pytree
class Request:
    """A planned walk, with a process of blank vectors: a draw puts the trained ones in their place."""

    walk: Partial
    start: Array
    shape: tuple[int, ...] = static()
    draws_tokens: bool = static()

    @property
    def nfe(self) -> int:
        """The network's evaluations in one draw."""
        return samplers.nfe(self.walk)


class Encoding(NamedTuple):
    """The parts, and what follows from them alone; `encoded` says what each is."""

    network: Any
    process: Gaussian
    vocabulary: int
    size: int
    vectors: Vectors
    shown: str
    times: Callable[[Schedule], Callable]
    sampler: Callable[..., Any]
    grid: Callable[[Schedule], Any]

    drawn_by = ("sampler", "grid", "nfe")  # what another draw may change

    @property
    def schedule(self) -> Schedule:
        """The schedule of the process."""
        return self.process.schedule

    def how(self) -> str:
        """Says how samples are made, for a report."""
        kind = "tokens drawn" if takes_process(self.sampler) else "vectors interpolated"
        return f"{kind} at each of {len(self.grid(self.schedule)) - 1} steps"

    def encoder(self, params: PyTree) -> Array:
        """Computes E, (V, d): the vectors under their constraint."""
        return self.vectors.constraint(self.vectors.apply(params["encoder"]))  # pyright: ignore[reportOptionalCall]

    def codec(self, params: PyTree) -> Codec:
        """Makes the codec of tokens: their vectors, and the nearest token of each vector."""
        return _codec(self.encoder(params))

    def denoiser(self, params: PyTree, given: dict, **options: Any) -> Readout:
        """Makes the denoiser (x_t, t) -> law over tokens."""
        net = Partial(lambda params, given, x, c: self.network.apply(params, x, c, given, **options))
        return Readout(
            Partial(net, params["network"], given), self.schedule, self.encoder(params), params["bias"], self.shown
        )

    def nats(self, params: PyTree, x: Array, z: Array, t: Any, given: dict, **options: Any) -> Array:
        """Computes -log q(x_0,i | x_t) of each token, of x's shape; nan for an x that is no token."""
        law = self.denoiser(params, given, **options)
        x_t = Encoded(self.process, _codec(law.vectors)).corrupt(x, z, t)
        return -law(x_t, t).log_prob(x)

    def check_examples(self, dataset: Any) -> None:
        """Raises a ValueError for a data set without tokens, or with some outside the vocabulary."""
        check_tokens(dataset, self.vocabulary)

    def worded(self, words: dict[str, Any], make: Callable[[str, Any], Any]) -> dict[str, Any]:
        """Makes parts of the words of a draw: "nfe" is the grid's number of steps."""
        steps = words.get("nfe")
        parts = {name: make(name, word) for name, word in words.items() if name != "nfe"}
        return parts if steps is None else {**parts, "grid": partial(parts.get("grid", self.grid), n=steps)}

    def method(self) -> Method:
        """Makes the method of these parts."""
        return encoded(**self._asdict())


def _codec(vectors: Array) -> Codec:
    return Codec(Partial(_looked_up, vectors), Partial(_nearest, vectors))


def encoded(
    network: Any,
    process: Gaussian,
    vocabulary: int,
    size: int = 8,
    vectors: Vectors | None = None,
    shown: str = "x",
    times: Callable[[Schedule], Callable] = partial(losses.times.stratified, t_min=1e-3),  # noqa: B008
    sampler: Callable[..., Any] = samplers.unified,
    grid: Callable[[Schedule], Any] = partial(grids.uniform, n=64),  # noqa: B008
) -> Method:
    """Makes the method that trains a network and the vectors of tokens together, and draws tokens.

    Args:
        network: init and apply, of real numbers (*shape of x, d) to as many.
        process: what destroys the vectors, `processes.Gaussian(schedule)`.
        vocabulary: V, the number of tokens.
        size: d, of a vector.
        vectors: the encoder; None: `table(vocabulary, size)`.
        shown: to the network, "x", x_t; or "mean", the mean of the vectors under the law that each place has on its
            own (h = 0), which hides nothing for V <= d + 1 vectors.
        times: schedule -> (keys, index, size) -> t, a training time.
        sampler: of a process (`samplers.unified`), which draws tokens at each step; or of a schedule.
        grid: schedule -> times (N + 1,).

    Raises:
        ValueError: for numbers out of range; a process that is not of Gaussian noise; an encoder without a constraint,
            or with other vectors than (V, d), or of length 0; from `init`, for an x that is not of integers or a
            network whose output has another shape than its input.
    """
    host.check_int("vocabulary", vocabulary, 2, most=2**24)
    host.check_int("size", size, 1, most=2**20)
    if shown not in ("x", "mean"):
        raise ValueError(f"shown is {shown!r}, expected 'x' or 'mean': what the network is shown of x_t.")
    if not isinstance(process, Gaussian) or process.law is not jax.random.normal:
        raise ValueError(
            f"Got {process!r:.60} as the process, expected processes.Gaussian(schedule) with normal noise: the law of "
            "a token given its noisy vector is computed for that."
        )
    calculus.check(process.schedule)
    vectors = table(vocabulary, size) if vectors is None else _checked(vectors, vocabulary, size)
    of = Encoding(network, process, vocabulary, size, vectors, shown, times, sampler, grid)
    schedule, drawn_times = process.schedule, times(process.schedule)

    def init(key: Key, example: Example) -> PyTree:
        x, c = example.x, jnp.zeros(())
        check_whole(x)
        key_network, key_vectors = jax.random.split(key)
        code = jnp.zeros((*x.shape, size))
        params = network.init(key_network, code, c, example.given)
        found = jax.eval_shape(network.apply, params, code, c, example.given).shape
        if found != code.shape:
            raise ValueError(
                f"The network makes {found} of vectors of shape {code.shape}, expected their shape: a vector for each "
                "place, whose products with the tokens' are logits."
            )
        return {"network": params, "encoder": vectors.init(key_vectors), "bias": jnp.zeros(vocabulary)}

    def loss(params: PyTree, keys: Keys, example: Example, index: Array, size: int) -> tuple[Array, dict[str, Array]]:
        key_noise, key_dropout = jax.random.split(keys.example)
        x, chosen = example.x, example.chosen
        t = chosen["t"] if "t" in chosen else drawn_times(keys, index, size)
        z = chosen["z"] if "z" in chosen else process.noise(key_noise, jnp.zeros((*x.shape, of.size)))
        value = of.nats(params, x, z, t, example.given, train=True, key=key_dropout).mean()  # (encoded.5)
        return value, {"t01": t / schedule.t_max}

    def plan(shape: tuple[int, ...], trace: Callable | None = None) -> Request:
        blank = Encoded(process, _codec(jnp.zeros((vocabulary, of.size))))
        ts = of.grid(schedule)
        walk = samplers.sampling_fn(planned_sampler(of.sampler, blank), ts, trace)
        return Request(walk, jnp.asarray(ts[0], jnp.float32), tuple(shape), takes_process(of.sampler))

    def draw(params: PyTree, request: Request, key: Key, given: dict) -> Any:
        key_prior, key_walk = jax.random.split(key)
        law = of.denoiser(params, given)
        own, blank = Encoded(process, _codec(law.vectors)), lambda node: isinstance(node, Encoded)
        walk = jax.tree.map(lambda node: own if blank(node) else node, request.walk, is_leaf=blank)
        x = own.prior(key_prior, (*request.shape, of.size), request.start)
        found = walk(law if request.draws_tokens else Interpolated(law), key_walk, x)
        last, *trajectory = found if isinstance(found, tuple) else (found,)
        tokens = own.codec.decode(last)
        return (tokens, *trajectory) if trajectory else tokens

    def report(run: Any, drawn: Drawn) -> list[Section]:
        return [_cross_entropy(of, run)]

    return Method(init, (Turn(per_example(loss)),), draw, plan, asks=network.reads, parts=of, report=report)


def _checked(vectors: Vectors, vocabulary: int, size: int) -> Vectors:
    """An encoder of one's own: it has a constraint, and its first vectors are (V, d), of some length."""
    if not callable(getattr(vectors, "constraint", None)):
        raise ValueError(
            "The encoder states no constraint, and without one the loss falls to 0 by longer vectors; give "
            "Vectors(init, apply, constraint=sphere), both in diffjax.methods.encoded."
        )
    first = np.asarray(vectors.constraint(vectors.apply(vectors.init(jax.random.key(0)))))  # pyright: ignore
    if first.shape != (vocabulary, size):
        raise ValueError(f"The encoder makes vectors {first.shape}, expected {(vocabulary, size)}: one for each token.")
    if (bad := ~np.isfinite(first).all(-1)).any():
        raise ValueError(
            f"The encoder's first vector of token {int(np.argmax(bad))} is {first[np.argmax(bad)]}: it had length "
            "0, by which `sphere` divides, or was not finite; start it elsewhere."
        )
    return vectors


def _cross_entropy(of: Encoding, run: Any) -> Section:
    """The loss on held-out examples over the training times, and at the end, where x_t says nothing or little."""
    examples = run.data.some("held_out", JUDGED)
    n, drawn_times = len(examples.x), of.times(of.schedule)
    base = jax.random.key(0)

    def one(row: Any) -> Array:
        index, x, given = row

        def pass_(i: Array) -> Array:
            keys = Keys(jax.random.fold_in(base, i), jax.random.fold_in(jax.random.fold_in(base, i), index))
            z = of.process.noise(keys.example, jnp.zeros((*x.shape, of.size)))
            at = jnp.stack([drawn_times(keys, index, n), jnp.asarray(of.schedule.t_max, float)])
            return jax.vmap(lambda t: of.nats(run.params, x, z, t, given).mean())(at)

        return jax.vmap(pass_)(jnp.arange(PASSES)).mean(0)

    rows = (jnp.arange(n, dtype=jnp.int32), jnp.asarray(examples.x), examples.given)
    found = np.asarray(jax.jit(lambda rows: jax.lax.map(one, rows, batch_size=256))(rows), np.float64)
    (mean, end), error = found.mean(0), found[:, 0].std() / np.sqrt(n)
    E = np.asarray(of.encoder(run.params), np.float64)
    lengths = np.linalg.norm(E, axis=-1)
    apart = np.sqrt(np.min((square := lengths**2)[:, None] + square - 2 * E @ E.T + np.diag(np.full(len(E), np.inf))))
    results = {
        "cross_entropy": float(mean),
        "cross_entropy_error": float(error),
        "cross_entropy_at_the_end": float(end),
        "lengths": [float(lengths.min()), float(lengths.max())],
        "closest": float(apart),
        "unit": "nats/token",
    }
    text = (
        f"\n## Cross-entropy\n\nOf {n} held-out examples, over the training times: {mean:.4f} ± {error:.4f} nats per "
        f"token; at the last time, t = {float(of.schedule.t_max):g}: {end:.4f}; all tokens alike: "
        f"{np.log(of.vocabulary):.4f}.\nLengths of the vectors from {lengths.min():.4f} to {lengths.max():.4f}; "
        f"the closest two are {apart:.4f} apart.\n"
    )
    return Section({"encoded": results}, text)
