# %% [markdown]
# # 3. In the plane, with exact scores
#
# Everything about a diffusion model can be drawn where the score is known. Here it is that of a mixture of three
# Gaussians, whose law at every level is a mixture again: $p_t=\sum_k w_k\,N(\alpha m_k,\ \alpha^2C_k+\sigma^2I)$. No
# network is trained in this notebook.

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
import matplotlib.pyplot as plt
import numpy as np

from diffjax import analytic, grids, processes, samplers, schedules
from diffjax.samplers import ancestral, sde
from diffjax.tabulated import Tabulated
from diffjax.theory import characteristics, constructions, green, schroedinger

MEANS, WEIGHTS = np.array([[1.2, -0.7], [-1.2, -0.7], [0.0, 1.4]]), np.array([0.5, 0.3, 0.2])
mixture = analytic.gaussian_mixture(WEIGHTS, MEANS, [0.04, 0.04, 0.04])
COLOURS = np.array(["tab:blue", "tab:orange", "tab:green"])
nearest = lambda x: np.linalg.norm(np.asarray(x)[:, None] - MEANS[None], axis=2).argmin(1)

# %% [markdown]
# ## Schedules
#
# A schedule is $t\mapsto(\alpha_t,\sigma_t)$. What the posterior of $x_0$ sees of it is one number, the logarithm of
# the signal-to-noise ratio, $\lambda=\log(\alpha^2/\sigma^2)$: two schedules with an equal $\lambda$ differ by a
# scaling of $x_t$.

# %%
shown = {"VP": schedules.VP(), "cosine": schedules.Cosine(), "rectified": schedules.Rectified()}
shown |= {"sub-VP": schedules.SubVP(), "DDPM's table": Tabulated.linear()}
ts = np.linspace(0.005, 0.995, 200)
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3))
for name, schedule in shown.items():
    alpha, sigma = jax.vmap(schedule)(jnp.asarray(ts))
    left.plot(alpha, sigma, label=name)
    right.plot(ts, 2 * np.log(alpha / sigma), label=name)
left.set(xlabel=r"$\alpha$", ylabel=r"$\sigma$", aspect="equal")
right.set(xlabel="$t$", ylabel=r"$\log\,\alpha^2/\sigma^2$")
right.legend(fontsize=8, frameon=False)
plt.show()

# %% [markdown]
# **What to see.** Left: VP, cosine and DDPM's table walk one quarter circle, rectified flow its chord. Right: at which
# speed. DDPM's table lies on VP, its limit of many steps. Both spend most of their time below $\lambda=0$, where noise
# is more than signal; cosine and rectified flow divide it evenly.

# %% [markdown]
# ## The score, and what it points at
#
# Tweedie's formula: $\sigma_t^2\,\nabla\log p_t(x)=\alpha_tE[x_0\mid x_t=x]-x$. Where noise is
# high, the score points at the (scaled) mean of all data, wherever $x$ is; where it is low, at the nearest mode.

# %%
schedule = schedules.VP()
side = np.linspace(-3, 3, 21)
board = jnp.asarray(np.stack(np.meshgrid(side, side), -1).reshape(-1, 2))
figure, axes = plt.subplots(1, 3, figsize=(10, 3.4), sharey=True)
for one, t in zip(axes, (0.6, 0.25, 0.1)):
    alpha, sigma = schedule(t)
    density = jax.vmap(lambda x: jnp.exp(mixture.log_prob(x, alpha, sigma)))(board)
    score = jax.vmap(lambda x: mixture.score(x, alpha, sigma))(board)
    one.contourf(side, side, density.reshape(21, 21), levels=12, cmap="Blues")
    one.quiver(*board.T, *(score / jnp.linalg.norm(score, axis=1, keepdims=True)).T, scale=32, width=0.004)
    one.set(title=f"$t={t}$, $\\sigma/\\alpha={float(sigma / alpha):.2f}$", aspect="equal")
plt.show()

# %% [markdown]
# **What to see.** Arrows (directions alone) meet in one point while the law is one blob, and part ways when the three
# modes part: a sample's mode is decided in between.

# %% [markdown]
# ## One equation, many paths: the ODE and the SDEs
#
# For every churn $c\ge0$ the reversed process
# $$dx=\Bigl[f_tx-\tfrac{1+c^2}{2}g_t^2\nabla\log p_t(x)\Bigr]dt+c\,g_t\,dw$$
# has the marginals of the forward one. $c=0$ is the probability-flow ODE, $c=1$ the reverse SDE.

# %%
model, count, steps = mixture.denoiser(schedule), 512 if FAST else 4000, 200 if FAST else 800
keys = jax.random.split(jax.random.key(0), count)
x_T = schedule(1.0)[1] * jax.random.normal(jax.random.key(1), (count, 2))
traced = jax.jit(lambda sample, keys, x: jax.vmap(sample, in_axes=(None, 0, 0))(model, keys, x))
grid = grids.log_snr(schedule, steps, t_min=1e-3)
ends = {}
figure, axes = plt.subplots(1, 3, figsize=(10, 3.2), sharey=True)
for one, churn in zip(axes, (0.0, 0.5, 1.0)):
    sample = samplers.sampling_fn(sde.euler_maruyama(schedule, churn), grid, trace=lambda x: x)
    ends[churn], paths = traced(sample, keys, x_T)
    for path, colour in zip(np.asarray(paths[:40, :, 0]), COLOURS[nearest(ends[churn][:40])]):
        one.plot(grid[1:], path, color=colour, linewidth=0.5)
    one.set(title=f"churn {churn}", xlabel="$t$", xlim=(1, 0))
axes[0].set_ylabel("first coordinate")
plt.show()

# %% [markdown]
# **What to see.** Paths run from noise on the left to data on the right, rougher from panel to panel, yet they end in
# the same three places (the colour is the mode) in equal shares.

# %%
for churn, x in ends.items():
    shares = np.bincount(nearest(x)) / count
    print(f"churn {churn}: mean {np.asarray(x, float).mean(0).round(2)}, shares {shares.round(2)}")

# %% [markdown]
# ## Poisson flows and other constructions
#
# An ODE can be said by what becomes of a single point: a law $p_t(x\mid x_0)$ and a velocity $f_t(x\mid x_0)$ with
# $\partial_tp+\nabla\!\cdot(pf)=0$. Data mixes them, $v(x,t)=E[f_t(x\mid x_0)\mid x_t=x]$. The field of a charge in one
# more dimension gives PFGM (Poisson flow); a Gaussian gives diffusion; characteristics start from any prior.

# %%
made = {
    "Poisson (PFGM)": (green.SpaceTimeIsotropic(), 3.0),
    "Gaussian": (green.SpaceIsotropic(lambda t: t), 3.0),
    "uniform prior": (characteristics.uniform(-2.5, 2.5), 1.0),
}
shares = {}
figure, axes = plt.subplots(1, 3, figsize=(10, 3.4), sharey=True)
for one, (name, (construction, end)) in zip(axes, made.items()):
    law = constructions.marginal(construction, MEANS, WEIGHTS)
    clock = schedules.EDM(end)
    field = law.denoiser(clock)
    times = grids.karras(clock, 80 if FAST else 200)
    sample = samplers.sampling_fn(ancestral.ddim(field.schedule), times, trace=lambda x: x)
    start = jax.vmap(lambda key: law.sample(key, end))(keys)
    x, paths = jax.jit(jax.vmap(lambda key, x: sample(field, key, x)))(keys, start)
    shares[name] = np.bincount(nearest(x), minlength=3) / count
    whole = np.concatenate([start[:60, None], paths[:60]], 1)
    for path, colour in zip(whole, COLOURS[nearest(x[:60])]):
        one.plot(*path.T, color=colour, linewidth=0.5)
    one.scatter(*MEANS.T, s=25, c="black", zorder=3)
    one.set(title=name, aspect="equal", xlim=(-3, 3), ylim=(-3, 3))
plt.show()
print({name: share.round(3).tolist() for name, share in shares.items()}, "weights", WEIGHTS)

# %% [markdown]
# **What to see.** Three ways from a prior to the same three points: from heavy tails, from a Gaussian, from a square.
# The colours cut the plane differently, but each point collects its weight.

# %% [markdown]
# ## Bridges
#
# A bridge starts where a given $y$ is, not at noise: the process is conditioned on $x_T=y$ (Doob's $h$-transform),
# which adds $g_t^2\nabla_x\log p(x_T=y\mid x_t=x)$ to the drift. With DBIM the samplers of diffusion walk it as they
# are.

# %%
bridge = processes.bridge(schedules.VP(0.1, 2.1))
y = jnp.array([2.0, 1.5])
pinned, n = bridge.schedule, 40 if FAST else 120
times = grids.pinned(pinned, n, t_min=1e-3)
figure, axes = plt.subplots(1, 2, figsize=(8, 3.6), sharey=True)
landed = {}
for one, eta in zip(axes, (0.3, 1.0)):
    sample = samplers.bridging_fn(ancestral.ddim(pinned, eta), times, trace=lambda x: x)
    run = jax.vmap(lambda key: sample(mixture.denoiser(pinned), key, jnp.zeros(2)))
    landed[eta], paths = jax.jit(run)(keys)
    weights = jax.vmap(pinned.endpoint_weight)(jnp.asarray(times[-paths.shape[1] :]))
    places = paths[:40] + weights[None, :, None] * y
    for path, colour in zip(np.asarray(places), COLOURS[nearest(landed[eta][:40])]):
        one.plot(*np.concatenate([[y], path]).T, color=colour, linewidth=0.5)
    one.scatter(*y, s=40, c="black", marker="*", zorder=3)
    one.set(title=f"$\\eta={eta}$", aspect="equal", xlim=(-2, 3.3), ylim=(-1.7, 3.1))
plt.show()

# %% [markdown]
# **What to see.** All paths leave the star and end in the modes. Here $x_0$ is drawn independently of $y$, so that
# every mode gets its weight; a network that is trained on pairs learns $p(x_0\mid y)$ in its place.

# %% [markdown]
# ## Schroedinger bridges
#
# Two sets of points without pairs: of all processes from one to the other, the Schroedinger bridge is the nearest to
# Brownian motion with an end of variance $\varepsilon$. Between two Gaussians it is known,
# $\mathrm{Cov}(x_0,x_1)=S_0^{1/2}HS_0^{-1/2}$, and so is its drift. The network of such a bridge is not told $y$.

# %%
ending, starting = ([-1.5, 0.0], [[0.2, 0.1], [0.1, 0.3]]), ([1.5, 0.0], [[0.4, -0.2], [-0.2, 0.3]])
ys = jax.random.multivariate_normal(jax.random.key(1), *map(jnp.array, starting), (len(keys),))
figure, axes = plt.subplots(1, 2, figsize=(8, 3.0), sharey=True)
for one, epsilon in zip(axes, (0.02, 1.0)):
    pair = schroedinger.gaussian(*ending, *starting, epsilon)
    half = processes.schroedinger(schedules.EDM(epsilon**0.5)).schedule
    times = grids.pinned(half, n, t_min=1e-3)
    sample = samplers.bridging_fn(ancestral.ddpm(half), times, trace=lambda x: x)
    run = jax.vmap(lambda y, key: sample(schroedinger.exact(half, pair, y), key, jnp.zeros(2)))
    arrived, paths = jax.jit(run)(ys, keys)
    weights = jax.vmap(half.endpoint_weight)(jnp.asarray(times[-paths.shape[1] :]))
    for y, path in zip(ys[:40], np.asarray(paths[:40] + weights[None, :, None] * ys[:40, None])):
        one.plot(*np.concatenate([[y], path]).T, color=plt.cm.viridis(float(y[1]) / 2 + 0.5), linewidth=0.5)
    one.set(title=f"$\\varepsilon={epsilon}$", aspect="equal")
    found = np.cov(np.concatenate([arrived, ys], 1).T)
    np.testing.assert_allclose(found, pair.cov, atol=0.15)
plt.show()

# %% [markdown]
# **What to see.** Paths run from right to left, coloured by the height of their start. With little noise they are
# nearly the straight lines of optimal transport, and the order of the colours stays; with much, starts and ends hardly
# know each other. Both end in one law.

# %% [markdown]
# ## What has to hold
#
# Every walk ends in the law it was made for: shares within four standard deviations, $\sqrt{w(1-w)/n}$ each, and the
# three churns with the mixture's own mean and covariance.

# %%
allowed = 4 * np.sqrt(WEIGHTS * (1 - WEIGHTS) / count) + 0.01
for name, found in shares.items():
    assert np.all(np.abs(found - WEIGHTS) < allowed), (name, found)
for name, x in {**ends, **landed}.items():
    found = np.bincount(nearest(x), minlength=3) / count
    assert np.all(np.abs(found - WEIGHTS) < allowed), (name, found)
    spread = np.asarray(x) - MEANS[nearest(x)]
    assert 0.85 < spread.std() / 0.2 < 1.15, (name, spread.std())
for x in ends.values():
    centre, turn = WEIGHTS @ MEANS, np.asarray(x).mean(0)
    assert np.all(np.abs(turn - centre) < 4 * 1.1 / np.sqrt(count)), turn
