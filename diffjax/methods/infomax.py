"""Deep InfoMax: an encoder whose code tells an example's own features from another's; no labels, no reconstruction.

Hjelm et al. 2019 (arXiv:1808.06670), with the code's law in the place of an adversary's prior (kexue 6024):

    - whole J(F, z) - local mean_ij J(h_ij, z) + kl KL(q(z | x) || N(0, I)),        z ~ q(z | x) = N(m(h), v(h)),

h the map of features of x, h_ij at a place, F all of them, J the bound of `losses.information` whose pairs apart have
the map of the next example of the batch. Scores are bilinear, (f, 1)' W (z, 1) (encode and dot, section 4.2 there). The
divergence gives the code a scale, without which a distance in it means nothing.

The features are m. What identifies an image across places is what they keep; noise of pixels, which does not, they
learn to pass over: a distance in their space is a second opinion beside a classifier's, and bounds no noise.

A decoder is a probe beside it: its squared error is descended by itself alone, no gradient of it reaches the code. It
says what the code knows of x, and its reading of z ~ N(0, I) is what a draw shows: no model of the data.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from diffjax.codecs import Codec
from diffjax.losses import information
from diffjax.method import KEY_AXES, Drawn, Example, Keys, Method, Section, Turn, keys_of
from diffjax.methods import kinds, shapes
from diffjax.methods.autoencoder import divergence, pca_error
from diffjax.methods.examples import check_real
from diffjax.types import Array, Key, Posterior, PyTree

MOST = 2000  # held-out examples that a report looks at


class InfoMax(NamedTuple):
    """The networks, as functions of their parameters {"network", "encoder", "decoder", "scores"}; `infomax` says more.

    Attributes:
        whole, local, kl: weights of the three terms.
    """

    network: Any
    encoder: Any
    decoder: Any
    whole: float = 0.5
    local: float = 1.5
    kl: float = 0.01

    check_examples = check_real

    def likelihood(self, run: Any, most: int = MOST) -> Section:
        """Raises the ValueError that says why features have no likelihood."""
        raise ValueError(
            "This run has no likelihood: it learned features of examples, and no law of them; its report has bounds of "
            "what the features know, by --mode=eval."
        )

    def map(self, params: PyTree, x: Array, **options: Any) -> Array:
        """Computes the map of features, (..., C), of an example."""
        return self.network.apply(params["network"], x, jnp.zeros(()), {}, **options)

    def code(self, params: PyTree, h: Array, **options: Any) -> Posterior:
        """Computes q(z | x) of a map."""
        said = self.encoder.apply(params["encoder"], h, jnp.zeros(()), {}, **options)
        mean, log_var = jnp.split(said, 2, axis=-1)
        return Posterior(mean, jnp.exp(log_var))

    def decode(self, params: PyTree, z: Array, **options: Any) -> Array:
        """Computes the probe's reading of a code."""
        return self.decoder.apply(params["decoder"], z, jnp.zeros(()), {}, **options)

    def features(self, params: PyTree) -> Callable[[Array], Array]:
        """Makes the function from an example to its features (k,), for `metrics.features.learned`."""
        return Partial(_features, Partial(self.map), Partial(self.code), params)

    def codec(self, params: PyTree, given: dict | None = None) -> Codec:
        """Makes the codec of the features and the probe."""
        return Codec(self.features(params), Partial(self.decode, params))

    def bounds(self, params: PyTree, h: Array, other: Array, z: Array) -> tuple[Array, Array]:
        """Computes J of the whole map, and its mean over places, of a code z: h is of its example, other of another."""
        one = lambda matrix, f: _with_one(f) @ matrix @ _with_one(z)
        whole, local = params["scores"]["whole"], params["scores"]["local"]
        J = lambda matrix, f, g: information.jensen_shannon(one(matrix, f), one(matrix, g))
        places = lambda h: h.reshape(-1, h.shape[-1])
        mean = jnp.mean(jax.vmap(J, (None, 0, 0))(local, places(h), places(other)))  # (infomax.4)
        return J(whole, h.reshape(-1), other.reshape(-1)), mean

    def method(self) -> Method:
        """Makes the method of these parts."""
        return infomax(**self._asdict())


def _features(make_map: Callable, code: Callable, params: PyTree, x: Array) -> Array:
    return code(params, make_map(params, x)).mean.reshape(-1)


def _with_one(f: Array) -> Array:
    return jnp.concatenate([f, jnp.ones((1,), f.dtype)])


def infomax(
    network: Any, encoder: Any, decoder: Any, whole: float = 0.5, local: float = 1.5, kl: float = 0.01
) -> Method:
    """Makes the method that learns features by Deep InfoMax; logs J of the whole and of places, KL, the probe's error.

    Args:
        network: of x to a map of features (..., C), whose leading axes are places.
        encoder: of the map to mean and log-variance of the code, beside each other on one axis (2 k,).
        decoder: of the code to an example: the probe.
        whole, local, kl: weights, those of kexue's digits and images.

    Raises:
        ValueError: for a weight below 0, whole and local of 0, or networks that do not fit each other and the data.
    """
    for name, value in (("whole", whole), ("local", local), ("kl", kl)):
        if not 0 <= value < np.inf:
            raise ValueError(f"Got {name} = {value!r}, expected a weight, 0 or more.")
    if not whole + local:
        raise ValueError("Got whole = local = 0, expected one of them above: nothing else is told of x.")
    for name, part in (("network", network), ("encoder", encoder), ("decoder", decoder)):
        kinds.check_network(name, part)
    of = InfoMax(network, encoder, decoder, whole, local, kl)

    def init(key: Key, example: Example) -> PyTree:
        x, zero, own = example.x, jnp.zeros(()), jax.random.split(key, 3)
        params = {"network": network.init(own[0], x, zero, {})}
        h = jax.eval_shape(of.map, params, x)
        if h.ndim < 2:
            raise ValueError(
                f"The network makes {h.shape} of an example, expected a map (places, C): models.Maps, say."
            )
        params["encoder"] = encoder.init(own[1], jnp.zeros(h.shape), zero, {})
        said = jax.eval_shape(encoder.apply, params["encoder"], h, zero, {})
        if said.ndim != 1 or said.shape[0] % 2:
            raise ValueError(f"The encoder makes {said.shape}, expected mean and log-variance on one axis: (2 k,).")
        z = jnp.zeros(said.shape[0] // 2)
        params["decoder"] = decoder.init(own[2], z, zero, {})
        made = jax.eval_shape(of.decode, params, z).shape
        shapes.check_made("decoder", made, x.shape)
        first = lambda size: jnp.zeros((size + 1, z.size + 1))  # T = 0: every pair may be of either kind
        return params | {"scores": {"whole": first(h.size), "local": first(h.shape[-1])}}

    def loss(params: PyTree, keys: Keys, x: Array, other: Array) -> tuple[Array, dict[str, Array]]:
        key_code, *dropout = jax.random.split(keys.example, 5)
        h = of.map(params, x, train=True, key=dropout[0])
        code = of.code(params, h, train=True, key=dropout[1])
        z = code.sample(key_code)
        J = of.bounds(params, h, of.map(params, other, train=True, key=dropout[2]), z)
        rate = divergence(code)
        error = jnp.mean((of.decode(params, jax.lax.stop_gradient(z), train=True, key=dropout[3]) - x) ** 2)
        value = kl * rate - whole * J[0] - local * J[1]  # (infomax.5)
        return value + error, {"whole": J[0], "local": J[1], "kl": rate, "error": error}

    def losses(
        params: PyTree, key: Key, batch: Example, index: Array, size: int, gather: Callable = lambda tree: tree
    ) -> tuple[Array, dict[str, Array]]:
        everyone = gather(batch.x)
        others = jnp.take(everyone, (index + 1) % len(everyone), axis=0)  # the next of the batch: never itself
        return jax.vmap(loss, (None, KEY_AXES, 0, 0))(params, keys_of(key, index), batch.x, others)

    def draw(params: PyTree, request: shapes.Shape, key: Key, given: dict) -> Array:
        size = jax.eval_shape(of.features(params), jnp.zeros(request.shape)).shape
        return of.decode(params, jax.random.normal(key, size))

    return Method(init, (Turn(losses, coupled=True),), draw, shapes.plan, asks=(), parts=of, report=_report(of))


def _report(of: InfoMax) -> Callable[[Any, Drawn], list[Section]]:
    def report(run: Any, drawn: Drawn) -> list[Section]:
        """Reports both bounds on held-out examples, the KL, and the probe's error beside that of PCA of equal size."""
        held_out, train = (run.data.some(part, MOST).x for part in ("held_out", "train"))

        def one(params: PyTree, key: Key, x: Array, other: Array) -> tuple[Array, ...]:
            h = of.map(params, x)
            code = of.code(params, h)
            error = jnp.mean((of.decode(params, code.mean) - x) ** 2)
            J = of.bounds(params, h, of.map(params, other), code.sample(key))
            return *J, divergence(code), error, code.mean

        keys = jax.random.split(jax.random.key(0), len(held_out))
        rows = jax.jit(jax.vmap(one, (None, 0, 0, 0)))(run.params, keys, held_out, np.roll(held_out, -1, 0))
        *found, codes = (np.asarray(a, np.float64) for a in rows)
        whole, local, rate, error = (float(a.mean()) for a in found)
        flat = int((codes.std(0) == 0).sum())
        pca = pca_error(train, held_out, codes.shape[1])
        told = {"whole": float(information.divergence(whole)), "local": float(information.divergence(local))}
        text = (
            f"## Features\n\n| {codes.shape[1]} features, held out | this run | bound |\n|---|---|---|\n"
            f"| Jensen-Shannon divergence, the whole map (nats, from below) | {told['whole']:.4f} | {np.log(2):.4f} |\n"
            f"| the same of a place, in the mean | {told['local']:.4f} | {np.log(2):.4f} |\n"
            f"| squared error of the probe (PCA of this size) | {error:.5f} | {pca:.5f} |\n\n"
            f"KL {rate:.3f} nats per example. Samples are the probe's reading of normal codes, no model of the data.\n"
        )
        text += f"\n{flat} features are constant: a distance between Gaussians is singular there.\n" if flat else ""
        probe = {"value": error, "pca": pca}
        return [Section({"information": told, "reconstruction_error": probe, "kl": rate, "constant": flat}, text)]

    return report
