"""A process of tokens for the tests of estimate and correct, twice: for JAX, and with all random choices enumerated.

Each place is kept with probability alpha_t, else replaced by a token of the law pi: x_t,i = x_0,i if u_i < alpha_t else
w_i, z = (u, w), u uniform on [0, 1), w of the law pi.
"""

import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffjax.processes import Unconditional
from diffjax.schedules import Rectified
from diffjax.types import Categorical, pytree, static


class Z(NamedTuple):
    """The noise of a sequence, per place."""

    u: Any
    w: Any


@pytree
class Replacing(Unconditional):
    """The process: alpha_t is the probability that a place is kept.

    Attributes:
        law: pi, (K,); K = V, or V + 1 with a token for what is hidden.
        vocabulary: V.
    """

    schedule: Rectified
    law: Any
    vocabulary: int = static()

    def noise(self, key, x0):
        """Draws (u, w)."""
        key_u, key_w = jax.random.split(key)
        return Z(jax.random.uniform(key_u, x0.shape), self.prior(key_w, x0.shape))

    def corrupt(self, x0, z, t):
        """What is kept, and what is not."""
        return jnp.where(z.u < self.schedule(t)[0], x0, z.w)

    def prior(self, key, shape, t=None):
        """Draws w."""
        return jax.random.choice(key, len(self.law), shape, p=jnp.asarray(self.law)).astype(jnp.int32)

    def invert(self, key, x0, x, t):
        """A place that holds another token was replaced; one that holds its own was kept, or replaced by it."""
        alpha = self.schedule(t)[0]
        key_kept, key_u, key_w = jax.random.split(key, 3)
        chance = jnp.where(x == x0, alpha / (alpha + (1 - alpha) * jnp.asarray(self.law)[x]), 0.0)
        kept = jax.random.uniform(key_kept, x.shape) < chance
        u = jax.random.uniform(key_u, x.shape)
        return Z(jnp.where(kept, alpha * u, alpha + (1 - alpha) * u), jnp.where(kept, self.prior(key_w, x.shape), x))

    def renew(self, key, z, share):
        """Each place anew with probability share."""
        key_new, key_where = jax.random.split(key)
        new, anew = self.noise(key_new, z.u), jax.random.uniform(key_where, z.u.shape) < share
        return Z(jnp.where(anew, new.u, z.u), jnp.where(anew, new.w, z.w))


@pytree
class Exact:
    """The denoiser of a joint law of few tokens, independent from place to place, for the JAX process.

    Attributes:
        p: (V,) * L.
    """

    p: Any
    process: Replacing

    @property
    def schedule(self):
        """The schedule of the process."""
        return self.process.schedule

    def __call__(self, x, t) -> Categorical:
        """The marginals of p(x_0 | x_t = x)."""
        alpha, length = self.schedule(t)[0], self.p.ndim
        own = jnp.eye(len(self.process.law))[x][:, : self.process.vocabulary]  # (L, V)
        found = jnp.asarray(self.p)
        for place in range(length):
            weight = alpha * own[place] + (1 - alpha) * jnp.asarray(self.process.law)[x[place]]
            found = found * weight.reshape([-1 if axis == place else 1 for axis in range(length)])
        marginals = [found.sum([axis for axis in range(length) if axis != place]) for place in range(length)]
        return Categorical(jnp.log(jnp.stack(marginals)))


class Tally:
    """The same process on every outcome at once: each verb gives the outcomes' own values, and weighs them.

    An outcome is (x_t, x_0, z, z''), each a number of a sequence: x over K states, x_0 over V tokens, z over cells of u
    between the grid's alphas and tokens w. A verb multiplies the weight of every outcome by the probability of what it
    would have drawn there; what comes out is an exact law.

    Attributes:
        p: the data, (V,) * L.
        law: pi, (K,).
        alphas: probabilities that a place is kept at the times of the grid; a time is an index into them.
        joint: whether the estimate is drawn from the joint posterior; else place by place.
    """

    schedule = Rectified()

    def __init__(self, p, law, alphas, joint=True):
        self.p, self.law, self.alphas, self.joint = p, np.asarray(law), np.asarray(alphas), joint
        self.length, self.vocabulary, self.states = p.ndim, p.shape[0], len(law)
        edges = np.unique([0.0, *alphas, 1.0])
        self.low, widths = edges[:-1], np.diff(edges)
        place = list(itertools.product(range(len(widths)), range(self.states)))
        self.z = np.array(list(itertools.product(place, repeat=self.length)))  # (Z, L, 2)
        self.z = self.z[np.prod(self.law[self.z[..., 1]], -1) > 0]
        self.q_place = widths[self.z[..., 0]] * self.law[self.z[..., 1]]
        self.x0 = np.array(list(itertools.product(range(self.vocabulary), repeat=self.length)))
        self.x = np.array(list(itertools.product(range(self.states), repeat=self.length)))
        self.p0 = p.ravel()

    def moved(self, t):
        """x_t (X0, Z, L) of every x_0 and z."""
        kept = self.low[self.z[..., 0]] < self.alphas[t]
        return np.where(kept, self.x0[:, None], self.z[..., 1])

    def number(self, x):
        """The number of a sequence of states."""
        return np.ravel_multi_index(tuple(np.moveaxis(x, -1, 0)), (self.states,) * self.length)

    def of(self, t):
        """The joint law (X, X0, Z) of x_t, x_0 and z."""
        found = np.zeros((len(self.x), len(self.x0), len(self.z)))
        every = np.indices(found.shape[1:])
        found[self.number(self.moved(t)), every[0], every[1]] = self.p0[:, None] * self.q_place.prod(-1)
        return found

    def step(self, step, before, t, row):
        """The law of x_s: one step of the sampler, on every outcome, from the law `before` of x_t."""
        shape = (len(self.x), len(self.x0), len(self.z), len(self.z))
        self.index = np.indices(shape, np.int32, sparse=True)
        self.weight, self.t = before[self.index[0]] * np.ones(shape), t
        self.told = []
        state = step.init(np.broadcast_to(self.x[self.index[0]], (*shape, self.length)))
        x = step.step(self, jax.random.key(0), state, row).x
        return np.bincount(self.number(x).ravel(), self.weight.ravel(), len(self.x))

    def __call__(self, x, t):
        """The model: the posterior is this object, for its sample is a verb too."""
        self.told.append(("model", t))
        return self

    def sample(self, key):
        """x_0 given x_t."""
        joint = self.of(self.t).sum(-1)
        known = joint / np.maximum(joint.sum(-1, keepdims=True), 1e-300)
        if not self.joint:
            law = known.reshape(-1, *self.p.shape)
            parts = [
                law.sum(tuple(1 + j for j in range(self.length) if j != i))[:, self.x0[:, i]]
                for i in range(self.length)
            ]
            known = np.prod(parts, axis=0)
        self.weight *= known[:, :, None, None]
        return self._sequence(self.x0, 1)

    def noise(self, key, x0):
        """z, new: z'' is not asked for, and stands at its first outcome."""
        self.weight *= self.q_place.prod(-1)[:, None] * self._first()
        return self._sequence(self.z, 2)

    def invert(self, key, x0, x, t):
        """z given x_0 and x_t, by Bayes; z'' is not asked for yet, and stands at its first outcome."""
        self.told.append(("invert", t))
        self.unrenewed = self.weight * self.inverse(t)[..., None]
        self.weight = self.unrenewed * self._first()
        return self._sequence(self.z, 2)

    def renew(self, key, z, share):
        """z'' given z: at each place z itself, or another one."""
        self.told.append(("renew", share))
        same = (self.z[:, None] == self.z[None]).all(-1)  # (Z, Z, L)
        kernel = np.prod((1 - share) * same + share * self.q_place[None], -1)
        self.weight = self.unrenewed * kernel
        return self._sequence(self.z, 3)

    def corrupt(self, x0, z, s):
        """x_s, of the outcomes' own x_0 and z."""
        self.told.append(("corrupt", s))
        kept = self.low[z[..., 0]] < self.alphas[s]
        return np.where(kept, x0, z[..., 1]) * np.ones(self.weight.shape, int)[..., None]

    def inverse(self, t):
        """p(z | x_0, x_t), (X, X0, Z): the z that lead there, as likely as they are."""
        found = (self.moved(t)[None] == self.x[:, None, None]).all(-1) * self.q_place.prod(-1)
        return found / np.maximum(found.sum(-1, keepdims=True), 1e-300)

    def _first(self):
        return (np.arange(len(self.z)) == 0).astype(float)

    def _sequence(self, values, axis):
        return values[self.index[axis]]
