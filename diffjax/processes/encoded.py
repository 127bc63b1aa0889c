"""A process in the space of an encoder's codes: x_t = alpha_t E(x_0) + sigma_t z, where x_0 stays what data is.

Encoding (kexue 9271); compare Li et al. 2022 (Diffusion-LM), Dieleman et al. 2022 (CDCD). x_0 may be tokens, x_t is
real; what is known of x_0 is a law over tokens, and a step back draws x_0 of it and corrects with E(x_0):

    x_s = alpha_s E(x_0) + sigma_s z',        z = (x_t - alpha_t E(x_0)) / sigma_t, of which a share is renewed.

The last step arrives at E(x_0) of the x_0 that was drawn: decoded, it is that draw.
"""

from typing import Any

import jax
import jax.numpy as jnp

from diffjax.codecs import Codec
from diffjax.processes.gaussian import Unconditional
from diffjax.types import Array, Key, Process, Schedule, pytree


@pytree
class Encoded(Unconditional):
    """The process of a codec.

    Attributes:
        base: what destroys codes, `processes.Gaussian(schedule)`.
        codec: `encode` is E; its leaves may be parameters in training.
    """

    base: Process
    codec: Codec

    @property
    def schedule(self) -> Schedule:
        """The schedule of the base."""
        return self.base.schedule

    def noise(self, key: Key, x0: Array) -> Array:
        """Draws z of the base's law, of the shape of a code."""
        code = jax.eval_shape(self.codec.encode, x0)
        return self.base.noise(key, jnp.zeros(code.shape, code.dtype))

    def corrupt(self, x0: Array, z: Array, t: Any) -> Array:
        """Computes x_t = alpha_t E(x_0) + sigma_t z."""
        return self.base.corrupt(self.codec.encode(x0), z, t)  # (encoded.1)

    def invert(self, key: Key, x0: Array, x: Array, t: Any) -> Any:
        """Computes the z of the base with x = alpha_t E(x_0) + sigma_t z."""
        return self.base.invert(key, self.codec.encode(x0), x, t)  # pyright: ignore[reportAttributeAccessIssue]

    def renew(self, key: Key, z: Any, share: Any) -> Any:
        """Replaces a share of z by new noise, as the base does."""
        return self.base.renew(key, z, share)  # pyright: ignore[reportAttributeAccessIssue]

    def prior(self, key: Key, shape: tuple[int, ...], t: Any = None) -> Array:
        """Draws x_T, of the shape of a code.

        It leaves out alpha_T E(x_0): codes of few tokens, each of length sqrt(d), are told apart by less signal than
        images are, so let alpha_T be 0 or small.
        """
        return self.base.prior(key, shape, t)

    def prior_log_density(self, x: Array, t: Any = None) -> Array:
        """Computes the log density in nats of what `prior` draws, a scalar."""
        return self.base.prior_log_density(x, t)

    def on(self, schedule: Schedule) -> "Encoded":
        """Puts the base on another schedule."""
        return Encoded(self.base.on(schedule), self.codec)
