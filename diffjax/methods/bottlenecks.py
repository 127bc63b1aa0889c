"""What passes between an encoder and a decoder: a normal draw, a vector of a table, or rounded numbers.

A bottleneck is written for one example, whose encoder makes h (..., c). It says what the decoder sees in training, at
what cost (`passed`), what is kept of an example, its code (`encode`), what the decoder sees of a code (`decode`), codes
of no example (`draw`), and what codes take (`bits`).

    Normal    h = mean and log-variance; code = the mean, with a std; beta KL(q || N(0, I))      Rombach et al. 2022
    Vector    h = vectors; code = an integer at each place, of K                               van den Oord et al. 2017
    Choice    h = logits; code = an integer at each place, drawn of K; beta KL(q || even)      Jang et al. 2017
    Scalar    h = a number for each of d channels; code = an integer at each place, of prod L  Mentzer et al. 2023
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from diffjax import gumbel, host, quantise
from diffjax.methods import autoencoder
from diffjax.types import Array, Categorical, Key, Posterior, PyTree

CLIPPED = (-30.0, 20.0)  # log-variances, as in the published code


class Passed(NamedTuple):
    """What the decoder sees in training, what the bottleneck costs per entry of x, and scalars to log."""

    z: Array
    cost: Array
    logged: dict[str, Array]


class Bottleneck(Protocol):
    """What a bottleneck of one's own has, for `methods.compression.Compression(encoder, decoder, yours).method()`.

    `codes` is K of whole codes 0 .. K - 1, int32, or None of real ones; `follows` says whether its parameters move by
    `moved(params, key, z)`, as those of `Vector` may, and by no gradient.
    """

    @property
    def codes(self) -> int | None:
        """The number of whole codes, or None."""
        ...

    @property
    def follows(self) -> bool:
        """Whether parameters move by `moved`."""
        ...

    def init(self, key: Key, h: Array) -> PyTree:
        """Makes its first parameters for an encoder's h; None: it has none."""
        ...

    def passed(self, params: PyTree, key: Key, h: Array, size: int) -> Passed:
        """Computes what the decoder sees of h in training; `size` is the number of entries of x."""
        ...

    def encode(self, params: PyTree, h: Array) -> Array:
        """Computes the code of h."""
        ...

    def decode(self, params: PyTree, code: Array) -> Array:
        """Computes what the decoder sees of a code."""
        ...

    def draw(self, params: PyTree, key: Key, shape: tuple[int, ...]) -> Array:
        """Draws a code of this shape by what is known without an example."""
        ...

    def bits(self, params: PyTree, h: np.ndarray) -> dict[str, float]:
        """Measures what codes of h (n, ...) take, in bits for each example and how they are used, by name."""
        ...


@dataclass(frozen=True)
class Normal:
    """A normal draw, whose divergence from N(0, I) is paid with a small weight.

    Attributes:
        beta: weight of the KL in nats, beside a distance summed over the entries of x.
    """

    beta: float = 1e-6

    codes = None
    follows = False

    def __post_init__(self) -> None:
        if not 0 <= self.beta < np.inf:
            raise ValueError(f"Got beta = {self.beta!r}, expected the weight of the KL, 0 or more.")

    def posterior(self, h: Array) -> Posterior:
        """Reads q(u | x) from h: mean and log-variance, beside each other on the last axis."""
        mean, log_var = jnp.split(h, 2, axis=-1)
        return Posterior(mean, jnp.exp(jnp.clip(log_var, *CLIPPED)))

    def init(self, key: Key, h: Array) -> PyTree:
        """Checks that the encoder makes means and log-variances; there are no parameters."""
        if h.ndim < 1 or h.shape[-1] % 2:
            raise ValueError(f"The encoder makes {h.shape}, expected mean and log-variance: an even last axis.")

    def passed(self, params: PyTree, key: Key, h: Array, size: int) -> Passed:
        """Computes u = mean + sd eps, and beta KL / size."""
        q = self.posterior(h)
        kl = self.divergence(h)
        return Passed(q.sample(key), self.beta * kl / size, {"kl": kl})

    def divergence(self, h: Array) -> Array:
        """Computes KL(q || N(0, I)) of one example, in nats."""
        return autoencoder.divergence(self.posterior(h))

    def encode(self, params: PyTree, h: Array) -> Array:
        """Gives the mean of q(u | x), the code of h."""
        return self.posterior(h).mean

    def std(self, h: Array) -> Array:
        """Gives the standard deviation of a draw around the mean."""
        return jnp.sqrt(jnp.asarray(self.posterior(h).var))

    def decode(self, params: PyTree, code: Array) -> Array:
        """Gives the code itself."""
        return code

    def draw(self, params: PyTree, key: Key, shape: tuple[int, ...]) -> Array:
        """Draws N(0, I): with a small weight codes are far from it."""
        return jax.random.normal(key, shape)

    def bits(self, params: PyTree, h: np.ndarray) -> dict[str, float]:
        """Measures the mean KL: what a draw of q takes by bits back."""
        nats = np.asarray(jax.jit(jax.vmap(self.divergence))(h), np.float64)
        return {"bits": float(nats.mean() / math.log(2))}


class _Whole:
    """Mixin of bottlenecks of whole codes."""

    def bits(self, params: PyTree, h: np.ndarray) -> dict[str, float]:
        """Counts codes: bits of a fixed length, by the entropy of all places together, and how many are used."""
        of: Any = self
        k = np.asarray(jax.jit(jax.vmap(of.encode, (None, 0)))(params, h)).reshape(len(h), -1)
        share = np.bincount(k.ravel(), minlength=of.codes) / k.size
        entropy = quantise.entropy(share)
        return {
            "bits": k.shape[1] * math.log2(of.codes),
            "entropy": k.shape[1] * entropy,
            "used": int((share > 0).sum()),
            "of": of.codes,
            "perplexity": 2**entropy,
        }


@dataclass(frozen=True)
class Vector(_Whole):
    """The nearest vector of a table.

    Attributes:
        codes: K.
        commitment: weight of |z - sg(e)|^2.
        decay: g of the running means that the table follows; None: it moves down |sg(z) - e|^2.
        dead: share of 1 / K below which a code is put on a vector of the batch; of running means alone.

    Raises:
        ValueError: for fewer than two codes, or another number out of its range.
    """

    codes: int
    commitment: float = 0.25
    decay: float | None = 0.99
    dead: float = 0.05

    def __post_init__(self) -> None:
        host.check_int("codes", self.codes, 2, most=quantise.MOST)
        if not 0 <= self.commitment < np.inf:
            raise ValueError(f"Got commitment = {self.commitment!r}, expected a weight, 0 or more.")
        if self.decay is not None and not 0 <= self.decay < 1:
            raise ValueError(f"Got decay = {self.decay!r}, expected one in [0, 1) of running means, or None.")
        if not 0 <= self.dead < 1:
            raise ValueError(f"Got dead = {self.dead!r}, expected a share of 1 / {self.codes} in [0, 1).")

    @property
    def follows(self) -> bool:
        """Whether the table follows running means."""
        return self.decay is not None

    def init(self, key: Key, h: Array) -> PyTree:
        """Draws a normal table; that of running means has small shares, so that a first batch replaces what it uses."""
        if h.ndim < 1:
            raise ValueError(f"The encoder makes {h.shape}, expected vectors: an array with a last axis.")
        table = jax.random.normal(key, (self.codes, h.shape[-1]))
        if not self.follows:
            return {"table": table / math.sqrt(h.shape[-1])}
        share = jnp.full((self.codes,), self.dead / 2 / self.codes if self.dead else 1 / self.codes)
        return quantise.Running(share, share[:, None] * table)._asdict()

    def table(self, params: PyTree) -> Array:
        """Gives the vectors (K, d)."""
        return quantise.Running(**params).table if self.follows else jnp.asarray(params["table"])

    def passed(self, params: PyTree, key: Key, h: Array, size: int) -> Passed:
        """Computes z + sg(e - z), and the losses of table and encoder."""
        table = self.table(params)
        e = table[quantise.nearest(h, table)]
        cost = self.commitment * quantise.commitment(h, e)
        cost += 0.0 if self.follows else quantise.codebook(h, e)
        return Passed(quantise.straight_through(h, e), cost, {"quantised": jnp.mean((h - e) ** 2)})

    def moved(self, params: PyTree, key: Key, z: Array) -> PyTree:
        """Makes the running means after vectors z (n, d), dead codes put on some of them."""
        assert self.decay is not None
        running = quantise.Running(**params)
        found = quantise.counted(z, quantise.nearest(z, running.table), self.codes)
        return quantise.restarted(key, quantise.moved(running, found, self.decay), z, self.dead)._asdict()

    def encode(self, params: PyTree, h: Array) -> Array:
        """Finds the nearest code at each place, int32."""
        return quantise.nearest(h, self.table(params))

    def decode(self, params: PyTree, code: Array) -> Array:
        """Looks the vectors up; nan for a code out of range, which an index would clamp."""
        known = (code >= 0) & (code < self.codes)
        return jnp.where(known[..., None], self.table(params)[code], jnp.nan)

    def draw(self, params: PyTree, key: Key, shape: tuple[int, ...]) -> Array:
        """Draws places apart, by the shares of running means; else all codes alike."""
        logits = jnp.log(params["share"]) if self.follows else jnp.zeros(self.codes)
        return Categorical(jnp.broadcast_to(logits, (*shape, self.codes))).sample(key)


@dataclass(frozen=True)
class Choice(_Whole):
    """A vector of a table, drawn by the encoder's logits; a relaxed choice passes the gradient (`diffjax.gumbel`).

    Source: Jang et al. 2017; Ramesh et al. 2021, section 2.1, whose decoder sees the relaxed choice (hard=False)
    while tau falls; here tau stands still.

    Attributes:
        codes: K.
        width: entries of a vector.
        tau: the temperature of the relaxed choice.
        hard: whether the decoder sees one vector, and the relaxed choice is for the way back alone.
        beta: weight of KL(q || even) in nats, beside a distance summed over the entries of x.

    Raises:
        ValueError: for fewer than two codes, a width or a tau that is not positive, or a negative weight.
    """

    codes: int
    width: int = 8
    tau: float = 1.0
    hard: bool = True
    beta: float = 0.01

    follows = False

    def __post_init__(self) -> None:
        host.check_int("codes", self.codes, 2, most=quantise.MOST)
        host.check_int("width", self.width)
        host.check_positive("tau", self.tau)
        if not 0 <= self.beta < np.inf:
            raise ValueError(f"Got beta = {self.beta!r}, expected the weight of the KL, 0 or more.")

    def init(self, key: Key, h: Array) -> PyTree:
        """Draws a normal table, for an encoder that makes K logits."""
        if h.ndim < 1 or h.shape[-1] != self.codes:
            raise ValueError(f"The encoder makes {h.shape}, expected {self.codes} channels, the logits of as many.")
        return {"table": jax.random.normal(key, (self.codes, self.width)) / math.sqrt(self.width)}

    def passed(self, params: PyTree, key: Key, h: Array, size: int) -> Passed:
        """Draws a choice at each place, and computes beta KL / size."""
        noisy = gumbel.perturbed(key, h)
        chosen = gumbel.straight_through(noisy, self.tau) if self.hard else gumbel.softmax(noisy, self.tau)
        kl = self.divergence(h)
        return Passed(chosen @ params["table"], self.beta * kl / size, {"kl": kl})  # (latents.10)

    def divergence(self, h: Array) -> Array:
        """Computes KL(q || even) of one example, in nats: at each place log K less the entropy."""
        log = jax.nn.log_softmax(h)
        return jnp.sum(jnp.exp(log) * (log + math.log(self.codes)))

    def encode(self, params: PyTree, h: Array) -> Array:
        """Finds the likeliest code at each place, int32."""
        return quantise.known(jnp.argmax(h, -1), h)

    def decode(self, params: PyTree, code: Array) -> Array:
        """Looks the vectors up; nan for a code out of range, which an index would clamp."""
        known = (code >= 0) & (code < self.codes)
        return jnp.where(known[..., None], jnp.asarray(params["table"])[code], jnp.nan)

    def draw(self, params: PyTree, key: Key, shape: tuple[int, ...]) -> Array:
        """Draws all codes alike, places apart."""
        return jax.random.randint(key, shape, 0, self.codes, jnp.int32)

    def bits(self, params: PyTree, h: np.ndarray) -> dict[str, float]:
        """Counts codes, and measures the mean KL: what a draw of q takes by bits back."""
        nats = np.asarray(jax.jit(jax.vmap(self.divergence))(h), np.float64)
        return {**super().bits(params, h), "bits_back": float(nats.mean() / math.log(2))}


@dataclass(frozen=True)
class Scalar(_Whole):
    """A rounded number for each channel of the encoder.

    Attributes:
        levels: of each channel.

    Raises:
        ValueError: for fewer than 2 levels of a channel, or no channel.
    """

    levels: tuple[int, ...]

    follows = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "levels", quantise.check_levels(self.levels))

    @property
    def codes(self) -> int:
        """The number of codes, the product of the levels."""
        return math.prod(self.levels)

    def init(self, key: Key, h: Array) -> PyTree:
        """Checks that the encoder makes as many channels as there are levels; there are no parameters."""
        if h.ndim < 1 or h.shape[-1] != len(self.levels):
            raise ValueError(f"The encoder makes {h.shape}, expected {len(self.levels)} channels, a level each.")

    def passed(self, params: PyTree, key: Key, h: Array, size: int) -> Passed:
        """Rounds, at no cost."""
        return Passed(quantise.rounded(h, self.levels), jnp.zeros(()), {})

    def encode(self, params: PyTree, h: Array) -> Array:
        """Numbers the rounded channels of each place, int32."""
        return quantise.index(quantise.rounded(h, self.levels), self.levels)

    def decode(self, params: PyTree, code: Array) -> Array:
        """Gives the rounded channels; nan for a code out of range."""
        known = (code >= 0) & (code < self.codes)
        return jnp.where(known[..., None], quantise.values(code, self.levels), jnp.nan)

    def draw(self, params: PyTree, key: Key, shape: tuple[int, ...]) -> Array:
        """Draws all codes alike, places apart."""
        return jax.random.randint(key, shape, 0, self.codes, jnp.int32)
