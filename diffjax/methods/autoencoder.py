"""Variational autoencoder: an encoder and a decoder, together a codec, that bound the log-likelihood of data.

Kingma & Welling 2014, eq. 3. DDPM is one of many layers whose encoder is fixed (kexue 9152 (2)). A latent
z ~ N(0, I) is decoded to x ~ N(g(z), s^2 I), an example encoded to q(z | x) = N(m(x), v(x)), v diagonal:

    log p(x) >= E_q[log p(x | z)] - KL(q(z | x) || N(0, I))        (kexue 5253),
    KL = 1/2 sum (m^2 + v - 1 - log v).

s is learned: fixed, it is a beta in disguise. beta weighs the KL (Higgins et al. 2017): away from 1 the loss trades
rate for distortion and bounds no likelihood. s may be of each entry, with a floor, since that of a pixel that is always
white falls to 0; grey levels are spread over their bins in training, so that the bound is one of their codelength.

With linear networks and Gaussian data of covariance U diag(l) U' this is probabilistic PCA (Tipping & Bishop 1999): the
optimum of k latents is s^2 = the mean of the left out l, g = W z with W = U_k (l_k - s^2)^(1/2), m = M^-1 W' x and
v = s^2 M^-1 with M = W'W + s^2 I = diag(l_k), and there the bound is the log-likelihood. Directions of l <= s^2
collapse: that is the likelihood's doing, not the bound's. Decoded means lose the left out l and s^4/l_i of each other.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from diffjax.codecs import Codec, principal_axes
from diffjax.method import Drawn, Example, Keys, Method, Section, Turn, drawing, per_example
from diffjax.methods import bound, codelength, shapes
from diffjax.methods.examples import check_real
from diffjax.types import Array, Key, Posterior, PyTree

MOST = 2000  # held-out examples that a report looks at


class Autoencoder(NamedTuple):
    """The two networks, as functions of their parameters {"encoder", "decoder", "log_std"}; `autoencoder` says more."""

    encoder: Any
    decoder: Any
    beta: float = 1.0
    std: float | None = None
    per_entry: bool = False
    floor: float = 0.0
    levels: int | None = None
    noisy: bool = False

    drawn_by = ("noisy",)  # what another draw may change
    check_examples = check_real

    def encode(self, params: PyTree, x: Array, given: dict | None = None, **options: Any) -> Posterior:
        """Computes q(z | x), the posterior of the latent."""
        said = self.encoder.apply(params["encoder"], x, jnp.zeros(()), given or {}, **options)
        mean, log_var = jnp.split(said, 2, axis=-1)
        return Posterior(mean, jnp.exp(log_var))

    def decode(self, params: PyTree, z: Array, given: dict | None = None, **options: Any) -> Posterior:
        """Computes p(x | z): the mean of x's shape, and s^2, a number or one for each entry."""
        mean = self.decoder.apply(params["decoder"], z, jnp.zeros(()), given or {}, **options)
        if self.std is not None:
            return Posterior(mean, jnp.asarray(self.std**2, mean.dtype))
        return Posterior(mean, self.floor**2 + jnp.exp(2 * params["log_std"]))  # (vae.3)

    def stated(self, params: PyTree, key: Key, x: Array, given: dict | None) -> codelength.Stated:
        """States the bound of log p(x), in nats, at one draw of the latent, and its two parts."""
        code = self.encode(params, x, given)
        z = code.sample(key)
        rate, distortion = divergence(code), -log_prob(self.decode(params, z, given), x)
        return codelength.Stated(-rate - distortion, z, {"KL": rate, "reconstruction": distortion})

    def likelihood(self, run: Any, most: int = bound.MOST) -> Section:
        """Measures the bound of a run's data, in bits per dimension (`methods.codelength`); beta is not in it."""
        return codelength.section(run, self.stated, False, self.levels, most)

    def held_out(self, run: Any) -> float:
        """Measures -bound of held-out data, in nats per dimension; `checkpoint.best_by=held_out` ranks by it."""
        return codelength.held_out(run, self.stated, self.levels)

    def remarks(self, dataset: Any) -> list[str]:
        """Says in a line where `levels` are not those of a data set."""
        return codelength.remarks(self.levels, dataset)

    def how(self) -> str:
        """Says how samples are made, for a report."""
        return "a draw of the decoder's law" if self.noisy else "the decoder's mean, which lacks the noise of its law"

    def codec(self, params: PyTree, given: dict | None = None) -> Codec:
        """Makes the codec of the two means, of examples that all have this `given`."""
        held = (params, given or {})
        return Codec(Partial(_mean, Partial(self.encode), held), Partial(_mean, Partial(self.decode), held))

    def method(self) -> Method:
        """Makes the method of these parts."""
        return autoencoder(**self._asdict())


def _mean(function: Callable[..., Posterior], held: tuple[PyTree, dict], x: Array) -> Array:
    params, given = held
    return function(params, x, given).mean


@drawing("noisy")
def autoencoder(
    encoder: Any,
    decoder: Any,
    beta: float = 1.0,
    std: float | None = None,
    per_entry: bool = False,
    floor: float = 0.0,
    levels: int | None = None,
    noisy: bool = False,
) -> Method:
    """Makes the method that descends -bound, in nats per dimension of x; logs KL (nats) and squared error of one draw.

    Args:
        encoder: network of x to mean and log-variance of the latent, beside each other on the last axis.
        decoder: network of the latent to an example.
        beta: weight of the KL; 1 is the bound.
        std: of the decoder's Gaussian; None: learned, 1 at first (beside `floor`).
        per_entry: whether each entry of x learns an s of its own.
        floor: of s, so that an entry that hardly moves has a density: s^2 = floor^2 + the learned square.
        levels: of data on a lattice in [-1, 1], which training spreads over its bins; None: x as it is.
        noisy: draws have the decoder's noise, as the model says; else they are its mean, as is the custom.

    Raises:
        ValueError: for numbers out of range, or networks that do not fit each other and the data.
    """
    for name, value in (("beta", beta), ("std", std)):
        if value is not None and not 0 < value < np.inf:
            raise ValueError(f"Got {name} = {value!r}, expected a positive number.")
    if not 0 <= floor < np.inf:
        raise ValueError(f"Got floor = {floor!r}, expected a standard deviation, 0 or more.")
    if std is not None and (per_entry or floor):
        raise ValueError(f"Got std = {std!r} with per_entry or floor, which are of a learned one: leave std out.")
    of = Autoencoder(encoder, decoder, beta, std, per_entry, floor, codelength.check_option(levels), noisy)

    def init(key: Key, example: Example) -> PyTree:
        x, zero, given = example.x, jnp.zeros(()), example.given
        params = {"encoder": encoder.init(jax.random.fold_in(key, 0), x, zero, given)}
        said = jax.eval_shape(encoder.apply, params["encoder"], x, zero, given)
        if said.ndim < 1 or said.shape[-1] % 2:
            raise ValueError(f"The encoder makes {said.shape}, expected mean and log-variance: an even last axis.")
        z = jnp.zeros((*said.shape[:-1], said.shape[-1] // 2))
        if z.size > x.size:
            raise ValueError(
                f"The encoder makes mean and log-variance of a latent of {z.size} numbers, expected {x.size} or fewer, "
                f"as many as an example of shape {x.shape} has; half of its last axis is the latent's."
            )
        params["decoder"] = decoder.init(jax.random.fold_in(key, 1), z, zero, given)
        made = jax.eval_shape(decoder.apply, params["decoder"], z, zero, given).shape
        shapes.check_made("decoder", made, x.shape)
        return params | ({"log_std": jnp.zeros(x.shape if per_entry else ())} if std is None else {})

    def loss(params: PyTree, keys: Keys, example: Example, index: Array, size: int) -> tuple[Array, dict[str, Array]]:
        key, x, given = keys.example, example.x, example.given
        if levels is not None:
            key_noise, key = jax.random.split(key)
            x = codelength.noised(key_noise, x, levels)
        key_latent, *dropout = jax.random.split(key, 3)
        code = of.encode(params, x, given, train=True, key=dropout[0])
        own = example.chosen["z"] if "z" in example.chosen else jax.random.normal(key_latent, code.mean.shape)
        made = of.decode(params, code.mean + jnp.sqrt(code.var) * own, given, train=True, key=dropout[1])
        kl = divergence(code)
        error = jnp.mean((x - made.mean) ** 2)
        return (beta * kl - log_prob(made, x)) / x.size, {"kl": kl, "error": error}  # (vae.1)

    def draw(params: PyTree, request: shapes.Shape, key: Key, given: dict) -> Array:
        key_latent, key_noise = jax.random.split(key)
        latent = jax.eval_shape(of.encode, params, jnp.zeros(request.shape), given).mean.shape
        made = of.decode(params, jax.random.normal(key_latent, latent), given)
        return made.sample(key_noise) if noisy else made.mean

    asks = None if None in (encoder.reads, decoder.reads) else tuple({*encoder.reads, *decoder.reads})
    return Method(init, (Turn(per_example(loss)),), draw, shapes.plan, asks=asks, parts=of, report=_report(of))


def log_prob(made: Posterior, x: Array) -> Array:
    """Computes log N(x; mean, var) of one example, in nats."""
    var = jnp.broadcast_to(made.var, x.shape)
    return -0.5 * jnp.sum((x - made.mean) ** 2 / var + jnp.log(2 * jnp.pi * var))


def divergence(code: Posterior) -> Array:
    """Computes KL(q(z | x) || N(0, I)) of one example, in nats."""
    return 0.5 * jnp.sum(code.mean**2 + code.var - 1 - jnp.log(code.var))  # (vae.2)


def _report(of: Autoencoder) -> Callable:
    def report(run: Any, drawn: Drawn) -> list[Section]:
        """Reports the squared error of held-out examples, encoded and decoded, beside that of PCA of equal size; KL."""
        held_out, train = (run.data.some(part, MOST) for part in ("held_out", "train"))
        names = run.method.asks
        given = {k: v for k, v in held_out.given.items() if names is None or k in names}

        def trip(params: PyTree, x: Array, given: dict) -> tuple[Array, Array, Any]:
            code = of.encode(params, x, given)
            made = of.decode(params, code.mean, given)
            return jnp.mean((made.mean - x) ** 2), divergence(code), jnp.mean(made.var)

        error, kl, var = (
            np.asarray(a, np.float64) for a in jax.jit(jax.vmap(trip, (None, 0, 0)))(run.params, held_out.x, given)
        )
        size = jax.eval_shape(of.encode, run.params, held_out.x[0], {k: v[0] for k, v in given.items()}).mean.size
        found = {"value": float(error.mean()), "pca": pca_error(train.x, held_out.x, size)}
        text = (
            f"## Codec\n\n| {size} latents | this codec | PCA |\n|---|---|---|\n"
            f"| squared error per entry, held out | {found['value']:.5f} | {found['pca']:.5f} |\n\n"
            f"KL {kl.mean():.3f} nats per example; the decoder's standard deviation {np.sqrt(var.mean()):.4f}.\n"
        )
        text += "".join(f"\n{line}.\n" for line in of.remarks(run.data))
        return [Section({"reconstruction_error": found, "kl": float(kl.mean())}, text)]

    return report


def pca_error(train: np.ndarray, held_out: np.ndarray, size: int) -> float:
    """Computes the squared error per entry of `held_out` (n, ...), projected on the first principal axes of `train`."""
    mean, axes = principal_axes(train, size)
    y = held_out.reshape(len(held_out), -1).astype(np.float64)
    return float(np.mean((y - mean - (y - mean) @ axes @ axes.T) ** 2))
