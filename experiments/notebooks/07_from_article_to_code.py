# %% [markdown]
# # 7. From article to code
#
# Su Jianlin's series 生成扩散模型漫谈 derives diffusion models article by article. Here is, for each article whose
# method is in the code, what it says in a sentence, and the lines that run it. A cell may use names of those
# above it, and ends with an assertion: against a closed form, a quadrature, or a second derivation.
#
# His $\bar\alpha_t$ is our $\alpha_t$, his $\bar\beta_t$ our $\sigma_t$: amplitudes, $x_t=\alpha_tx_0+\sigma_tz$.

# %%
import importlib
import importlib.util
import os
import subprocess
import sys

REPO = ""  # the repository's address, as `git clone` takes it
if importlib.util.find_spec("diffjax") is None:
    if not REPO:
        raise SystemExit(
            "diffjax is not installed: give its repository's address as REPO, or pip install a clone of it"
        )
    subprocess.run(["git", "clone", "--depth=1", REPO, "diffjax-clone"], check=True)
    kept = ["-c", "diffjax-clone/constraints/colab.txt"]  # the jax that is here stays as it is
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", *kept, "./diffjax-clone[ode]"], check=True)
    importlib.invalidate_caches()
FAST = os.environ.get("DIFFJAX_NOTEBOOK") == "fast"  # a small form, for tests

# %%
import jax
import jax.numpy as jnp
import numpy as np

from diffjax import analytic, denoisers, grids, models, processes, samplers, schedules
from diffjax.samplers import ancestral
from diffjax.theory import constructions, generator, residuals

vp = schedules.VP()
mixture = analytic.gaussian_mixture([0.3, 0.7], [[-1.0, 0.0], [1.5, 0.5]], [0.05, 0.2])
log_p = lambda x, t: mixture.log_prob(x, *vp(t))  # of x_t, exactly
score = lambda x, t: mixture.score(x, *vp(t))
x, t, s = jnp.array([0.4, -0.2]), 0.5, 0.3  # a point, a time, and an earlier one
v = 0.25  # the variance of Gaussian data, where that is all there is
V = lambda t: vp(t)[0] ** 2 * v + vp(t)[1] ** 2  # that of its x_t

# %% [markdown]
# ## [5253](https://kexue.fm/archives/5253) Variational autoencoders
#
# A decoder and an encoder bound $\log p(x)$: reconstruction less $\mathrm{KL}(q(z\mid x)\,\|\,N(0,1))$, which for a
# Gaussian $q$ is $\frac12(m^2+v-1-\log v)$. Of a linear encoder and decoder the best is probabilistic PCA, whose bound
# is $\log p(x)$ itself.

# %%
# kexue 5253
from diffjax import codecs
from diffjax.methods.autoencoder import divergence
from diffjax.types import Posterior

z, m, var = np.linspace(-12, 12, 4001), 0.7, 0.3
log_q = -((z - m) ** 2) / (2 * var) - np.log(2 * np.pi * var) / 2
log_ratio = log_q + z**2 / 2 + np.log(2 * np.pi) / 2
by_quadrature = np.sum(np.exp(log_q) * log_ratio) * (z[1] - z[0])
np.testing.assert_allclose(divergence(Posterior(jnp.float32(m), jnp.float32(var))), by_quadrature, rtol=1e-5)

root = np.linalg.cholesky(0.9 ** np.abs(np.subtract.outer(np.arange(6), np.arange(6))))
data = np.concatenate([root.T, -root.T]) * np.sqrt(11 / 2)  # twelve points of mean 0, whose covariance is root root'
codec, s2 = codecs.probabilistic(data, 2)  # the best linear autoencoder of two latents: probabilistic PCA
W, one = np.asarray(jax.jacobian(codec.decode)(jnp.zeros(2))), jnp.asarray(data[3], jnp.float32)
q = Posterior(codec.encode(one), codec.std(one) ** 2)
square = np.sum((data[3] - codec.decode(q.mean)) ** 2) + np.sum(W**2 * q.var)
bound = -(6 * np.log(2 * np.pi * s2) + square / s2) / 2 - divergence(q)
model = W @ W.T + s2 * np.eye(6)
log_density = -(np.linalg.slogdet(2 * np.pi * model)[1] + data[3] @ np.linalg.solve(model, data[3])) / 2
np.testing.assert_allclose(bound, log_density, atol=1e-4)

# %% [markdown]
# ## [5776](https://kexue.fm/archives/5776) NICE
#
# Additive couplings shift one half by a function of the other: $\log|\det|=0$, until a last layer scales each entry.

# %%
# kexue 5776
from diffjax.methods import CouplingFlow

key = jax.random.key(0)
shaken = lambda k, a: a + 0.3 * jax.random.normal(jax.random.fold_in(key, k), a.shape)
one_map = models.of(models.MLP(width=8, depth=1))
nice = CouplingFlow(one_map, layers=2, bound=0.0)
params = {f"layer_{i}": jax.tree.map(lambda a: shaken(i, a), one_map.init(key, x, 0.0, {})) for i in range(2)}
image, log_det = jax.jit(nice.forward)({**params, "log_scale": jnp.array([0.5, -0.2])}, x)
np.testing.assert_allclose(log_det, 0.5 - 0.2, rtol=1e-6)
assert np.abs(image - x * np.exp([0.5, -0.2])).max() > 0.05

# %% [markdown]
# ## [5807](https://kexue.fm/archives/5807) RealNVP
#
# A coupling layer moves half of $x$ by what the other half says: it is inverted at no cost, and its Jacobian is
# triangular, so that $\log|\det|$ is a sum.

# %%
# kexue 5807
from diffjax.methods import CouplingFlow

net = models.of(models.MLP(width=8, depth=1, outputs=2))
key = jax.random.key(0)
shaken = lambda k, a: a + 0.3 * jax.random.normal(jax.random.fold_in(key, k), a.shape)
flow = CouplingFlow(net, layers=2)
params = {f"layer_{i}": jax.tree.map(lambda a: shaken(i, a), net.init(key, x, 0.0, {})) for i in range(2)}
image, log_det = jax.jit(flow.forward)(params, x)
jacobian = jax.jit(jax.jacfwd(lambda x: flow.forward(params, x)[0]))(x)
np.testing.assert_allclose(log_det, np.linalg.slogdet(jacobian)[1], atol=1e-4)
np.testing.assert_allclose(flow.backward(params, image), x, atol=1e-5)

# %% [markdown]
# ## [6024](https://kexue.fm/archives/6024) Mutual information in deep learning
#
# A score tells pairs of one draw from pairs of two. At its best it is $\log p(x,z)/(p(x)p(z))$, and its mean
# $2\,\mathrm{JSD}-2\log 2$: a bound that needs samples alone, and that Deep InfoMax climbs.

# %%
# kexue 6024
from diffjax.losses import information

pairs = np.array([[3, 1], [1, 3]]) / 8  # p(x, z), and 1/4 apart
best = jnp.log(pairs / 0.25)
both = information.jensen_shannon(best[:, :, None, None], best[None, None])  # (x, z) of one draw, (x, z) of two
J = np.einsum("ij,ijkl->", pairs, np.asarray(both)) / 4
kl = lambda p, q: np.sum(p * np.log(p / q))
jsd = (kl(pairs, (pairs + 0.25) / 2) + kl(0.25 * np.ones((2, 2)), (pairs + 0.25) / 2)) / 2
np.testing.assert_allclose(J, 2 * jsd - 2 * np.log(2), atol=1e-6)
np.testing.assert_allclose(information.divergence(J), jsd, atol=1e-6)

# %% [markdown]
# ## [6583](https://kexue.fm/archives/6583) The third stage of GANs
#
# Data is at 0, the fake at $\theta$, the critic is $\varphi x$: the saturating game goes round for ever, a penalty
# (R1) on the critic's slope brings it to rest, and simultaneous descent stands it only up to a step of $4\gamma$.

# %%
# kexue 6583
from diffjax.theory import gan_dynamics

start = gan_dynamics.Point(1.0, 1.0)
bare, calmed = gan_dynamics.game("saturating"), gan_dynamics.game("saturating", r1=0.5)
np.testing.assert_allclose(gan_dynamics.square(gan_dynamics.flow(bare, start, [0, 50, 100])), 2, rtol=1e-9)
assert gan_dynamics.square(gan_dynamics.flow(calmed, start, [0, 50, 100]))[-1] < 1e-9
np.testing.assert_allclose(gan_dynamics.largest_step(gan_dynamics.eigenvalues(calmed)), 2, rtol=1e-9)
assert gan_dynamics.square(gan_dynamics.orbit(bare, start, 0.1, 1000))[-1] > 2  # the step's own doing

# %% [markdown]
# ## [6705](https://kexue.fm/archives/6705) From the normal law to Gumbel-softmax
#
# A token is the largest of its logits plus Gumbel noise; a soft maximum of the same sum lets a gradient through, and
# straight-through takes the token forwards and that gradient backwards.

# %%
# kexue 6705
from diffjax import gumbel

logits = jnp.log(jnp.array([0.1, 0.2, 0.7]))
noisy = jax.vmap(gumbel.perturbed, (0, None))(jax.random.split(jax.random.key(0), 20_000), logits)
shares = np.bincount(np.argmax(noisy, -1), minlength=3) / 20_000
np.testing.assert_allclose(shares, [0.1, 0.2, 0.7], atol=4 * np.sqrt(0.25 / 20_000))
worth = lambda o: gumbel.straight_through(o, 0.5) @ jnp.array([1.0, 2.0, 4.0])
assert worth(noisy[0]) in (1.0, 2.0, 4.0)
assert np.abs(jax.grad(worth)(noisy[0])).max() > 0

# %% [markdown]
# ## [7038](https://kexue.fm/archives/7038) From denoising autoencoders to generative models
#
# What a denoising autoencoder learns is a score: $\alpha E[x_0\mid x_t]=x_t+\sigma^2\nabla\log p_t$. Let it be the
# gradient of a number, and the number is $-\log p_t$ up to a constant: an energy.

# %%
# kexue 7038
from diffjax.denoisers import variance
from diffjax.models import scalar

exact, x_7038, (a_7038, sd_7038) = mixture.denoiser(vp), jnp.array([0.3, -0.2]), vp(0.4)
E, slope = exact.energy_gradient(x_7038, 0.4)
np.testing.assert_allclose(slope, jax.grad(exact.energy)(x_7038, 0.4), rtol=1e-4)
np.testing.assert_allclose(x_7038 - sd_7038**2 * slope, a_7038 * exact(x_7038, 0.4).mean, rtol=1e-3, atol=1e-5)
net = scalar.gradient(scalar.scalar(models.from_function(lambda params, x, c, given: params * x, 0.0), "inner"))
untrained = variance.energy(jax.tree_util.Partial(net.apply, jnp.zeros(())), vp, denoisers.Eps())
np.testing.assert_allclose(untrained.energy(x_7038, 0.4), x_7038 @ x_7038 / 2, rtol=1e-5)  # that of N(0, 1)

# %% [markdown]
# ## [9105](https://kexue.fm/archives/9105) What relative positions cannot do
#
# Rows of a softmax sum to 1, so that attention over equal tokens says the same everywhere, whatever is added to its
# logits. Multiplied afterwards by $C_{ij}=c_{i-j}$ it can count:

# %%
# kexue 9105
from diffjax.models import layers

offset = np.arange(5)[:, None] - np.arange(5)
queries, keys = np.eye(5)[:, None] * np.sqrt(5), -0.3 * np.abs(offset).T[:, None]  # logits -0.3 |i - j|
count = lambda C: np.ravel(layers.attention(jnp.asarray(queries), jnp.asarray(keys), jnp.ones((5, 1, 1)), factors=C))
np.testing.assert_allclose(count(None), 1, rtol=1e-6)
np.testing.assert_allclose(count(jnp.asarray(1 + offset[None] / 10)), [0.857779, 0.932577, 1, 1.067423, 1.142221], 1e-5)

# %% [markdown]
# ## [9119](https://kexue.fm/archives/9119) DDPM = demolish + rebuild
#
# Demolish step by step, $x_k=\alpha_kx_{k-1}+\beta_k\varepsilon$ with $\alpha_k=\sqrt{1-0.02k/T}$: all steps at once
# are one with the product of the $\alpha_k$. Rebuilding learns the noise.

# %%
# kexue 9119
from diffjax.tabulated import Tabulated

chain = Tabulated.kexue(1000)
product = np.prod(np.sqrt(1 - 0.02 * np.arange(1, 501) / 1000))
alpha, sigma = chain(0.5)
np.testing.assert_allclose([alpha, sigma], [product, np.sqrt(1 - product**2)], rtol=1e-5)
assert float(chain(1.0)[0]) < 0.01  # nothing is left of the building

# %% [markdown]
# ## [9138](https://kexue.fm/archives/9138) Ladder side-tuning
#
# A narrow network reads the blocks of a frozen one, $s_i=\mathrm{Block}_i(g_ih_iD_i+(1-g_i)s_{i-1})$, and adds to the
# last. Nothing goes back through the frozen blocks: what the way back keeps grows with the number of taps, not with the
# depth.

# %%
# kexue 9138
from diffjax import models
from diffjax.models import side


def kept(depth, blocks):
    net = side.ladder(models.DiT(depth=depth, width=16, heads=2), width=4, where=blocks)
    image, told = jnp.ones((8, 8, 1)), jnp.zeros(())
    shapes = jax.eval_shape(net.init, jax.random.key(0), image, told)
    frozen = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), shapes["base"])
    return models.residual_bytes(lambda own: net.apply({"base": frozen, "side": own}, image, told), shapes["side"])


assert kept(2, "block_(0|1)$") == kept(4, "block_(1|3)$")
assert kept(2, "") < kept(4, "")

# %% [markdown]
# ## [9147](https://kexue.fm/archives/9147) Hubness
#
# In many dimensions some points are among the nearest neighbours of many others. Of normal noise these are the short
# ones: to choose them is to lower the temperature.

# %%
# kexue 9147
from diffjax.metrics import hubness

pool = np.random.default_rng(0).normal(size=(1000, 64))
assert hubness.counts(pool, 10).mean() == 10
kept = pool[hubness.hubs(pool, 10, most=100)]
assert np.linalg.norm(kept, axis=1).mean() < np.linalg.norm(pool, axis=1).mean()
assert 0.6 < hubness.shrunk(kept, pool) < 0.85

# %% [markdown]
# ## [9152](https://kexue.fm/archives/9152) DDPM = autoregressive VAE
#
# The joint KL of the whole chain falls apart into steps, each a KL of two Gaussians of one variance: half the squared
# error of the mean over that variance, which is the squared error of $x_0$ times what the step adds to the SNR.

# %%
# kexue 9152
from diffjax.losses.variational import kl

rows = ancestral.ddpm(vp).plan(np.array([t, s]))
snr = lambda t: float((vp(t)[0] / vp(t)[1]) ** 2)
x0, guess = 0.8, 0.5
by_hand = (rows.mean[0] * (x0 - guess)) ** 2 / (2 * rows.noise_var[0])
np.testing.assert_allclose(kl(Posterior(guess, 0.0), snr(s) - snr(t), x0), by_hand, rtol=1e-4)

from diffjax.theory import hierarchy  # the whole chain as an autoencoder of 50 latents, on x_0 ~ N(0, v)

terms = hierarchy.chain_terms(vp, grids.uniform(vp, n=50, t_min=0.0), v)
entropy = np.log(2 * np.pi * np.e * v) / 2
mismatch = (V(1.0) - 1 - np.log(V(1.0))) / 2  # KL(q(x_T) || N(0, 1)): all that exact variances lose
np.testing.assert_allclose(terms.total, entropy + mismatch, atol=1e-6)

# %% [markdown]
# ## [9164](https://kexue.fm/archives/9164) DDPM = Bayes + denoising
#
# Bayes' rule gives $q(x_s\mid x_t,x_0)$, a Gaussian; put the predicted $x_0$ in its place. Conditioning the joint
# Gaussian of $(x_s,x_t)$ gives the three coefficients of the step.

# %%
# kexue 9164
(a_s, sd_s), (a_t, sd_t) = (np.float64(vp(s)), np.float64(vp(t)))
gain = (a_t / a_s) * sd_s**2 / sd_t**2  # Cov(x_s, x_t) / Var(x_t), given x_0
rows = ancestral.ddpm(vp).plan(np.array([t, s]))
np.testing.assert_allclose(rows.x, gain, rtol=1e-5)
np.testing.assert_allclose(rows.mean, a_s - gain * a_t, rtol=1e-5)
np.testing.assert_allclose(rows.noise_var, sd_s**2 - gain * (a_t / a_s) * sd_s**2, rtol=1e-5)

# %% [markdown]
# ## [9181](https://kexue.fm/archives/9181) DDIM = DDPM from a higher standpoint
#
# Ask for the marginals alone and a family is left: any noise $\nu$ in the step will do, with
# $x_s=\alpha_sx_0+\sqrt{\sigma_s^2-\nu^2}\,\varepsilon+\nu z$. $\eta=1$ is DDPM, $\eta=0$ DDIM, which is deterministic
# and encodes.

# %%
# kexue 9181
for eta in (0.0, 0.5, 1.0):
    rows = ancestral.ddim(vp, eta).plan(np.array([t, s]))
    np.testing.assert_allclose(rows.x * vp(t)[0] + rows.mean, vp(s)[0], rtol=1e-5)  # of x_0
    np.testing.assert_allclose(rows.x**2 * vp(t)[1] ** 2 + rows.noise_var, vp(s)[1] ** 2, rtol=1e-5)  # of the noise
assert ancestral.ddim(vp, 0.0).plan(np.array([t, s])).noise_var[0] == 0

# %% [markdown]
# ## [9209](https://kexue.fm/archives/9209) The general framework: SDE
#
# $dx=f\,dt+g\,dw$ has the marginals of the schedule, and the SDE $dx=[f-g^2\nabla\log p_t]\,dt+g\,dw$ runs them
# backwards. A law belongs to an SDE where the residual of the Fokker-Planck equation is 0.

# %%
# kexue 9209
forward = generator.forward(vp)
backward = generator.time_reversal(forward, score, vp.t_max)
missed = jax.jit(residuals.fokker_planck, static_argnums=(0, 1))
assert abs(float(missed(log_p, forward, x, t))) < 1e-3
reversed_p = lambda x, r: log_p(x, vp.t_max - r)
assert abs(float(missed(reversed_p, backward, x, vp.t_max - t))) < 1e-3
other = generator.forward(schedules.VP(beta_max=10.0))  # its noise is another one
assert abs(float(missed(log_p, other, x, 0.2))) > 0.1

# %% [markdown]
# ## [9228](https://kexue.fm/archives/9228) The general framework: ODE
#
# The Fokker-Planck equation does not tell how the noise is split: every strength has the same marginals, and at
# strength 0 the SDE is the ODE $dx=[f-\frac12g^2\nabla\log p_t]\,dt$, which moves densities by its divergence.

# %%
# kexue 9228
velocity = generator.probability_flow(forward, score)
assert abs(float(jax.jit(residuals.continuity, static_argnums=(0, 1))(log_p, velocity, x, t))) < 1e-3
for churn in (0.0, 0.5, 2.0):
    family = generator.time_reversal(forward, score, vp.t_max, churn)
    assert abs(float(missed(reversed_p, family, x, vp.t_max - t))) < 1e-3

# %% [markdown]
# ## [9245](https://kexue.fm/archives/9245) The optimal variance (1)
#
# The best variance of $p(x_0\mid x_t)$, had by a law of total variance from the predicted means alone:
# $\mathrm{Var}[x_0]-E\|\hat x_0-Ex_0\|^2/d$. For Gaussian data it is $v\sigma^2/(\alpha^2v+\sigma^2)$.

# %%
# kexue 9245
from diffjax.denoisers import moments

gaussian = analytic.gaussian_mixture([1.0], np.zeros((1, 64)), [v])
examples = {"x": np.sqrt(v) * np.random.default_rng(0).normal(size=(512, 64)).astype(np.float32)}
exact = lambda example: gaussian.denoiser(vp)
found = moments.measure(exact, processes.Gaussian(vp), jax.random.key(0), examples, [s, t])
best = np.array([v * float(vp(t)[1] ** 2 / V(t)) for t in (s, t)])
# 512 x 64 squares: a relative standard error of sqrt(2 / 32768) = 0.008 in each mean, larger in what is subtracted
np.testing.assert_allclose(found.spread, best, atol=6 * 0.008 * v)

# %% [markdown]
# ## [9246](https://kexue.fm/archives/9246) The optimal variance (2)
#
# With a mean that errs the best variance grows by the error: what the *model's* mean misses, measured on data, is right
# whatever the model; the estimates from the noise or the spread of the means are not. A mean shrunk by a tenth:


# %%
# kexue 9246
class Shrunk:
    schedule = vp

    def __call__(self, x, t):
        return Posterior(0.9 * gaussian.denoiser(vp)(x, t).mean)


wrong = moments.measure(lambda example: Shrunk(), processes.Gaussian(vp), jax.random.key(0), examples, [0.1])
best = v * vp(0.1)[1] ** 2 / V(0.1)
of_means = v - best  # the variance of the right means
np.testing.assert_allclose(wrong.error[0], best + 0.1**2 * of_means, rtol=0.05)
assert wrong.spread[0] > 1.1 * wrong.error[0]

# %% [markdown]
# ## [9257](https://kexue.fm/archives/9257) Generation under conditions
#
# Bayes once more, $\nabla\log p(x_t\mid y)=\nabla\log p(x_t)+\nabla\log p(y\mid x_t)$: a classifier turns the denoiser
# of all data into that of a class. With the exact classifier it is the exact denoiser of the class.

# %%
# kexue 9257
from diffjax.denoisers import guidance

second = analytic.gaussian_mixture([1.0], [[1.5, 0.5]], [0.2])
classifier = lambda x, t: jnp.log(0.7) + second.log_prob(x, *vp(t)) - log_p(x, t)  # log p(y | x_t)
guided = guidance.tilted(mixture.denoiser(vp), classifier)
np.testing.assert_allclose(guided(x, t).mean, second.denoiser(vp)(x, t).mean, atol=1e-4)

# %% [markdown]
# A condition may be words: `data.Vocabulary` makes tokens of them, which a transformer reads
# (`configs/captioned.py:text`). What it should learn is $E[x_0\mid x_t,\text{words}]$, the mean over the items whose
# captions have the words, and over all items where there is no text. The means of two words do not add up to that of
# both.

# %%
from diffjax.data import Vocabulary
from diffjax.denoisers import composition

vocabulary = Vocabulary(words=("big", "blue", "red", "round"), length=2)
items = {"red round": (0.4, [-1.5, 0.5]), "big red": (0.2, [-1.0, -1.0]), "blue round": (0.4, [1.0, 1.2])}


def told(text):  # E[x_0 | x_t, words]: the mixture of the items that have them all
    asked = set(vocabulary.text(vocabulary.tokens(text)).split())
    weights, means = zip(*(item for name, item in items.items() if asked <= set(name.split())))
    return analytic.gaussian_mixture(weights, means, [0.04] * len(means)).denoiser(vp)


weights = jnp.exp(-0.5 * jnp.sum((x - jnp.stack([vp(t)[0] * jnp.asarray(m) for _, m in items.values()])) ** 2, 1)
                  / (0.04 * vp(t)[0] ** 2 + vp(t)[1] ** 2)) * jnp.asarray([w for w, _ in items.values()])  # fmt: skip
of = jnp.stack([told(name)(x, t).mean for name in items])
for text, rows in {"red": [0, 1], "round": [0, 2], "": [0, 1, 2]}.items():  # Bayes over the items, written out
    share = weights[np.array(rows)] / weights[np.array(rows)].sum()
    np.testing.assert_allclose(told(text)(x, t).mean, share @ of[np.array(rows)], atol=1e-5)
composed = composition.Weighted((told(""), told("red"), told("round")), (-1.0, 1.0, 1.0))(x, t).mean
assert jnp.max(jnp.abs(composed - told("red round")(x, t).mean)) > 0.05  # words do not add up

# %% [markdown]
# ## [9262](https://kexue.fm/archives/9262) A unified diffusion model: theory
#
# Any way to destroy will do: estimate $x_0$ by a *draw* from $p(x_0\mid x_t)$, then destroy again, less, with the noise
# that led here, new noise, or part of each (`samplers.unified`). Draws of $p(x_0\mid x_t)$ over all $x_t$ are draws of
# the data, whatever the share of new noise; with means in their place samples come out too narrow.

# %%
# kexue 9262
line = analytic.gaussian_mixture([1.0], [[0.0]], [v])
keys = jax.random.split(jax.random.key(2), 4000)
x_T = jnp.sqrt(V(vp.t_max)) * jax.random.normal(jax.random.key(1), (4000, 1))


def spread(share, estimate):  # of samples in ten steps, over that of data
    sampler = samplers.unified(processes.Gaussian(vp), share, estimate)
    walk = jax.vmap(samplers.sampling_fn(sampler, grids.uniform(vp, 10)), in_axes=(None, 0, 0))
    return float(jax.jit(walk)(line.denoiser(vp, with_var=True), keys, x_T).std() / np.sqrt(v))


for share in (0.0, 0.5, 1.0):  # the noise that led here; half of it; none
    assert abs(spread(share, "sample") - 1) < 4 / np.sqrt(2 * 4000)
    assert spread(share, "mean") < 0.95

# %% [markdown]
# ## [9271](https://kexue.fm/archives/9271) A unified diffusion model: applications
#
# Estimate and correct with DDIM's family of steps: with a drawn $x_0$ every member keeps the marginals exactly, for
# steps of any length. For Gaussian data this is algebra on the coefficients. Cold diffusion: a full blur leaves one
# number of each channel, and the correction without new noise is $x_s=x_t+D_s(\hat x_0)-D_t(\hat x_0)$.

# %%
# kexue 9271
(slope,), (left,) = line.denoiser(vp, with_var=True)(jnp.array([1.0]), t)  # E[x_0 | x_t = 1], Var[x_0 | x_t]
for eta in (0.0, 0.5, 1.0):
    rows = ancestral.ddim(vp, eta).plan(np.array([t, s]))
    variance = (rows.x + rows.mean * slope) ** 2 * V(t) + rows.mean**2 * left + rows.noise_var
    np.testing.assert_allclose(variance, V(s), rtol=1e-4)

blur, image = processes.cold.blur(), jax.random.normal(jax.random.key(4), (8, 8, 1))
np.testing.assert_allclose(blur.degrade(image, 1.0), jnp.full((8, 8, 1), image.mean()), atol=0.05)
restore = denoisers.denoiser(lambda x, c: jnp.tanh(x), blur.schedule, denoisers.X0())
step = samplers.sampling_fn(samplers.unified(blur, estimate="mean"), [t, s])
x_0 = restore(image, t).mean
corrected = image + blur.degrade(x_0, s) - blur.degrade(x_0, t)
np.testing.assert_allclose(step(restore, jax.random.key(0), image), corrected, atol=1e-5)

# %% [markdown]
# Tokens by editing: exactly $t$ of them are wrong. One is set right a step, place $i$ to $v$ with probability
# $p(x_{0,i}=v\,|\,x_t)/t$, which needs the marginals alone; they sum to 1.

# %%
# kexue 9271
from diffjax import processes
from diffjax.samplers import edits
from diffjax.schedules import Counted
from diffjax.types import Categorical

editing, x_0 = processes.editing(Counted(6), 4), jnp.array([0, 1, 2, 3, 0, 1])
x_3 = editing.corrupt(x_0, editing.noise(jax.random.key(3), x_0), 3)
assert (x_3 != x_0).sum() == 3
known = Categorical(jnp.log(jax.nn.one_hot(x_0, 4)))  # x_0 is known: the pair is one of the three places
pairs = edits.pairs(known, x_3).probs.reshape(6, 4)
np.testing.assert_allclose(pairs.sum(1), np.where(x_3 != x_0, 1 / 3, 0.0), rtol=1e-6)
assert abs(edits.total(known, x_3, 3) - 1) < 1e-6

# %% [markdown]
# Tokens: destroy by hiding, estimate each hidden token given those that are seen, open one, and go on. With the exact
# conditionals the samples have the joint law, in any order.

# %%
# kexue 9271
joint = jnp.array([[0.1, 0.4], [0.3, 0.2]])  # of two tokens
of_first = jnp.vstack([joint.T, joint.sum(1)])  # row 2: the other one is hidden
of_second = jnp.vstack([joint, joint.sum(0)])
exact = lambda x, c: jnp.log(jnp.stack([of_first[x[1]], of_second[x[0]]]))
hiding = processes.categorical.masked(schedules.Rectified(), vocabulary=2)
known = denoisers.categorical.Known(exact, hiding, denoisers.categorical.Whole())
one_by_one = samplers.sampling_fn(samplers.decoding.random(hiding), [1.0, 0.5, 0.0])
opened = jax.jit(jax.vmap(lambda key: one_by_one(known, key, jnp.array([2, 2]))))(jax.random.split(keys[0], 20_000))
shares = np.bincount(np.asarray(opened) @ [2, 1], minlength=4) / 20_000
np.testing.assert_allclose(shares, np.ravel(joint), atol=0.015)

# %% [markdown]
# Or destroy tokens with real noise on their vectors $E$: what is known is a law over tokens, which Bayes's rule gives
# for one place; a drawn token corrects by $E(\hat x_0)$.

# %%
from diffjax.codecs import Codec
from diffjax.types import Categorical

E, prior = jnp.array([[1.0, 0.0], [-0.6, 0.8], [0.0, -1.0]]), jnp.array([0.5, 0.3, 0.2])
process = processes.Encoded(processes.Gaussian(vp), Codec(lambda x: E[x], lambda code: code))
key_x, key_z, key_new = jax.random.split(jax.random.key(3), 3)
x_0 = Categorical(jnp.log(prior)).sample(key_x, (20_000,))
x_t = process.corrupt(x_0, process.noise(key_z, x_0), t)
logits = jnp.log(prior)[None] - jnp.sum((x_t[:, None] - vp(t)[0] * E[None]) ** 2, -1) / (2 * vp(t)[1] ** 2)
drawn = Categorical(logits).sample(key_new)
x_s = process.corrupt(drawn, process.invert(key_z, drawn, x_t, t), s)
np.testing.assert_allclose(x_s.mean(0), vp(s)[0] * prior @ E, atol=4 / np.sqrt(20_000))

# %% [markdown]
# ## [9280](https://kexue.fm/archives/9280) The diffusion ODE head-on
#
# Without an SDE: $v=-\dot\sigma\sigma\nabla\log p_t$ makes the equation of continuity the heat equation, which smooths
# with a Gaussian. Scaling brings $\alpha$ back.

# %%
# kexue 9280
from diffjax.theory import heat

level = lambda t: t
smoothed = lambda x, t: mixture.log_prob(x, 1.0, t)
field = heat.flow(lambda x, t: mixture.score(x, 1.0, t), level)
both = jax.jit(lambda x, t: (heat.residual(smoothed, level, x, t), residuals.continuity(smoothed, field, x, t)))
np.testing.assert_allclose(both(x, t), 0.0, atol=1e-3)

# %% [markdown]
# ## [9305](https://kexue.fm/archives/9305) From gravitation to diffusion models
#
# Data as masses in one more dimension $z$: field lines of $\sum_i(x_i-x)/r_i^{d+1}$ lead from far away to the data,
# $dx/dz=E_x/E_z$.

# %%
# kexue 9305
from diffjax.losses.poisson import batch_field
from diffjax.theory import green

points, z = np.array([[1.0, 0.0], [-1.0, 0.5], [0.0, -1.0]]), 0.7
gaps = np.concatenate([points - np.asarray(x), np.full((3, 1), -z)], 1)
pull = (gaps / np.linalg.norm(gaps, axis=1, keepdims=True) ** 3).sum(0)
mine = batch_field(x, z, jnp.asarray(points, jnp.float32), gamma=0.0)
np.testing.assert_allclose(mine.x / mine.z, pull[:2] / pull[2], rtol=1e-4)
law = constructions.marginal(green.SpaceTimeIsotropic(), points)
np.testing.assert_allclose(law.velocity(x, z), pull[:2] / pull[2], rtol=1e-4)

# %% [markdown]
# ## [9370](https://kexue.fm/archives/9370) How to construct ODEs (1): Green functions
#
# Say for one point a law $p_t(x\mid x_0)$ and a velocity that fit, $\partial_tp+\nabla\!\cdot(pf)=0$; data mixes them.
# Many laws do: that of a charge, Gaussians, any law of the distance.

# %%
# kexue 9370
origin = jnp.zeros(2)
for one in (green.SpaceTimeIsotropic(), green.SpaceIsotropic(lambda t: t), green.tanh(), green.exponential()):
    mixed = constructions.marginal(one, points)
    of_one = jax.jit(lambda x, t: constructions.residual(one, x, origin, t))
    of_all = jax.jit(lambda x, t: residuals.continuity(mixed.log_prob, mixed.velocity, x, t))
    assert abs(float(of_one(x, t))) < 1e-3
    assert abs(float(of_all(x, t))) < 1e-3

# %% [markdown]
# ## [9379](https://kexue.fm/archives/9379) How to construct ODEs (2): characteristics
#
# Or say trajectories from $x_0$ to $x_T$, with any prior at their end. His example: data 0.5 twice, 1.2 and 1.7, the
# prior uniform on $[0,2]$. Half of the starts have to end at 0.5.

# %%
# kexue 9379
from diffjax.theory import characteristics

even = characteristics.uniform(0.0, 2.0)
model = constructions.marginal(even, [[0.5], [0.5], [1.2], [1.7]]).denoiser(schedules.EDM(1.0))
walk = samplers.sampling_fn(ancestral.ddim(model.schedule), grids.karras(schedules.EDM(1.0), 400))
starts = jnp.asarray((np.arange(1000) + 0.5) / 500, jnp.float32)[:, None]
ends = np.asarray(jax.jit(jax.vmap(lambda x: walk(model, jax.random.key(0), x)))(starts))
nearest = np.abs(ends - np.array([[0.5, 1.2, 1.7]])).argmin(1)
np.testing.assert_allclose(np.bincount(nearest) / 1000, [0.5, 0.25, 0.25], atol=0.01)

# %% [markdown]
# ## [9461](https://kexue.fm/archives/9461) Test functions
#
# The equations of continuity and of Fokker-Planck come out of test functions: $\frac{d}{dt}E\phi(x_t)=E[L\phi]$ for all
# $\phi$, and by parts $\int(L\phi)\,p\,dx=\int\phi\,(L^*p)\,dx$. By quadrature, for $\phi=\sin$:

# %%
# kexue 9461
p = lambda x: jnp.exp(-jnp.sum((x - 0.3) ** 2) / 2) / jnp.sqrt(2 * jnp.pi)
phi = lambda x: jnp.sin(x[0])
over = jnp.linspace(-9, 9, 2001)[:, None]
of_phi = jax.jit(jax.vmap(lambda x: generator.generator(forward, phi, x, t) * p(x)))(over)
of_p = jax.jit(jax.vmap(lambda x: phi(x) * generator.adjoint(forward, p, x, t)))(over)
np.testing.assert_allclose(of_phi.sum() * 0.009, of_p.sum() * 0.009, rtol=1e-3)
assert abs(float(of_phi.sum() * 0.009)) > 0.1

# %% [markdown]
# ## [9467](https://kexue.fm/archives/9467) Wasserstein distance $\le$ score matching
#
# What a model's field misses, weighted by how fast its flow stretches, bounds $W_2$ of what it draws. With Gaussians
# both sides are known: data $N(0,v)$, a model that takes it for $N(0.2,1.2v)$.

# %%
# kexue 9467
from diffjax.theory import wasserstein_bound

truth = generator.probability_flow(forward, lambda x, t: -x / V(t))
taken = lambda t: vp(t)[0] ** 2 * 1.2 * v + vp(t)[1] ** 2
model = generator.probability_flow(forward, lambda x, t: -(x - 0.2 * vp(t)[0]) / taken(t))
rule = wasserstein_bound.gauss_legendre(1.0, 16, t_min=1e-3)
w2 = lambda t: float(np.hypot(0.2 * vp(t)[0], np.sqrt(taken(t)) - np.sqrt(V(t))))
xs = jax.vmap(lambda t: wasserstein_bound.cubature(jnp.zeros(1), V(t) * jnp.eye(1)))(jnp.asarray(rule.ts, jnp.float32))
prior = w2(1.0)
bound = jax.jit(lambda xs: wasserstein_bound.bound(truth, model, xs, rule, prior).total)(xs)
print(f"W2 {w2(1e-3):.4f} <= {float(bound):.4f}")
assert w2(1e-3) <= float(bound) < 1.5 * w2(1e-3)

# %% [markdown]
# ## [9497](https://kexue.fm/archives/9497) How to construct ODEs (3): ReFlow
#
# Choose a path from $x_0$ to $z$, regress a velocity on its tangent. On straight lines with independent ends the flow
# is bent: for $N(0,v)$ its straightness is $\int\mathrm{Var}[z-x_0\mid x_t]\,dt=\frac\pi2\sqrt v$. Pairs of a flow make
# the next one straight.

# %%
# kexue 9497
from diffjax.theory.straightness import straightness

total = lambda t: (1 - t) ** 2 * v + t**2
bent = lambda x, t: (t - (1 - t) * v) / total(t) * x  # E[z - x_0 | x_t = x]
x0, z = (jax.random.normal(jax.random.key(i), (4000, 1)) for i in (3, 4))
found = float(straightness(bent, np.sqrt(v) * x0, z))
np.testing.assert_allclose(found, np.pi / 2 * np.sqrt(v), rtol=0.06)
straight = lambda x, t: (1 - np.sqrt(v)) / ((1 - t) * np.sqrt(v) + t) * x  # the flow of the pairs (sqrt(v) z, z)
assert float(straightness(straight, np.sqrt(v) * z, z)) < 1e-8

# %% [markdown]
# ## [9509](https://kexue.fm/archives/9509) Score matching = conditional score matching
#
# The score that is sought is not known, that of $p(x_t\mid x_0)$ is, $-z/\sigma$; in the mean the two losses differ by
# a constant that no score changes, $\frac{\alpha^2}{2\sigma^4}E\,\mathrm{Var}[x_0\mid x_t]$. For any wrong score, by
# quadrature over $z$:

# %%
# kexue 9509
from diffjax.losses import score_matching

two = analytic.gaussian_mixture([0.5, 0.5], [[-1.0], [1.0]], [0.0, 0.0])
nodes, weights = np.polynomial.hermite_e.hermegauss(80)
zs, weights = jnp.asarray(nodes, jnp.float32)[:, None], weights / weights.sum()
wrong = lambda x: -jnp.sin(x)
at = lambda z: vp(t)[0] * jnp.ones(1) + vp(t)[1] * z  # x_0 = 1; the other half is its mirror image
each = lambda one: jax.jit(jax.vmap(one))(zs)
known = each(lambda z: score_matching.denoising(wrong, processes.Gaussian(vp), jnp.ones(1), z, t))
sought = each(lambda z: score_matching.explicit(wrong, lambda x: two.score(x, *vp(t)), at(z)))
gap = each(lambda z: score_matching.gap(two.denoiser(vp, with_var=True)(at(z), t), vp, t))
np.testing.assert_allclose(weights @ (known - sought), weights @ gap, rtol=1e-3)

# %% [markdown]
# ## [9595](https://kexue.fm/archives/9595) How to measure sparsity
#
# A ratio of norms is small where few entries hold most of a vector; of a row of attention it is how many tokens the
# row attends to, $nS^2=1/\sum_i a_i^2$.

# %%
# kexue 9595
from diffjax.metrics import sparsity

row = np.array([0.7, 0.1, 0.1, 0.1])
np.testing.assert_allclose(4 * sparsity.evenness(row) ** 2, 1 / np.sum(row**2), rtol=1e-12)
np.testing.assert_allclose(sparsity.evenness(np.tile(row, 3)), sparsity.evenness(row), rtol=1e-12)  # clones
assert sparsity.evenness([0.6, 0.2, 0.1, 0.1]) > sparsity.evenness(row)  # Robin Hood
normal = sparsity.evenness(np.random.default_rng(0).normal(size=(4000, 64)))
np.testing.assert_allclose(normal.mean(), sparsity.gaussian(64), atol=5 * normal.std() / 4000**0.5)

# %% [markdown]
# ## [9662](https://kexue.fm/archives/9662) GANs as diffusion ODEs
#
# With $d=\log p/q$, points that move by $\nabla h(d)$ carry $q$ to $p$ for every increasing $h$:
# $\frac{d}{d\tau}\mathrm{KL}(q\,\|\,p)=-E_q[h'(d)\|\nabla d\|^2]$. Here $q=N(1,1)$ and $p=N(0,1)$, so that
# $d=\frac12-x$; for $h=d$ the mean falls at rate 1, and KL $=m^2/2$.

# %%
# kexue 9662
from scipy.stats import norm

from diffjax.methods import generators

q = 1 + norm.ppf((np.arange(2000) + 0.5) / 2000)
ratio = lambda x: 0.5 - x
for name, h in generators.H.items():
    moves = np.asarray(jax.vmap(jax.grad(lambda x: h(ratio(x))))(jnp.asarray(q, jnp.float32)), float)
    moved = q + 0.01 * moves
    fitted = (moved.mean() ** 2 + moved.var() - 1 - np.log(moved.var())) / 2
    assert np.all(moves < 0), name
    assert fitted < 0.5 - 0.001, (name, fitted)
    if name == "kl":
        np.testing.assert_allclose((0.5 - fitted) / 0.01, 1.0, atol=0.02)

# %% [markdown]
# ## [10958](https://kexue.fm/archives/10958) From instantaneous to mean velocity
#
# The mean velocity $u$ from $t$ to $r$ takes noise to data in one evaluation; it satisfies $u=v-(t-r)\frac{du}{dt}$,
# which is what MeanFlow regresses. For $N(0,v)$ on straight lines the flow is a scaling, and $u$ known:

# %%
# kexue 10958
from diffjax.denoisers import Velocity
from diffjax.denoisers.flow_map import TwoTime
from diffjax.losses.flow_map import eulerian
from diffjax.schedules import Rectified

scale = lambda t: jnp.sqrt((1 - t) ** 2 * v + t**2)
u = lambda x, t, r: x * (1 - scale(r) / scale(t)) / (t - r)
now, then = jnp.float32(0.8), jnp.float32(0.2)
instant = x * jax.grad(scale)(now) / scale(now)


class Exact(TwoTime):
    def predict(self, x, t, r):
        return u(x, t, r)


flow = Exact(None, Rectified(), Velocity())
said, aim = eulerian(flow, x, now, then, instant)
np.testing.assert_allclose(said, aim, atol=1e-5)
np.testing.assert_allclose(flow.land(x, now, then), x * scale(then) / scale(now), rtol=1e-5, atol=1e-6)
