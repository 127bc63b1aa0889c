# %% [markdown]
# # 2. Choose a sampler: error and Frechet distance against evaluations
#
# A sampler costs evaluations of the network. What it makes of them can be measured exactly where the denoiser is known:
# for a Gaussian mixture $E[x_0\mid x_t]$ has a closed form. The mixture here is fitted to real digits, so that the
# numbers speak of 64 dimensions and of pictures.

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
from sklearn.mixture import GaussianMixture

from diffjax import analytic, data, grids, samplers, schedules
from diffjax.metrics import digits, frechet
from diffjax.samplers import ancestral, fitted, heun, multistep, pndm, principal, sde, unipc

# %% [markdown]
# ## The exact model
#
# With components $N(m_k,C_k)$ and $V_k=\alpha^2C_k+\sigma^2I$,
# $$E[x_0\mid x_t]=\sum_k r_k(x_t)\,\bigl(m_k+\alpha C_kV_k^{-1}(x_t-\alpha m_k)\bigr).$$

# %%
train = data.digits().train.gather(np.arange(1500)).x
fit = GaussianMixture(10, reg_covar=3e-3, random_state=0).fit(train.reshape(1500, 64).astype(float))
mixture = analytic.gaussian_mixture(fit.weights_, fit.means_.reshape(-1, 8, 8, 1), fit.covariances_)
schedule = schedules.VP()
model = mixture.denoiser(schedule)

# %% [markdown]
# ## Error: how far from the end of the flow
#
# Deterministic samplers solve the probability-flow ODE, which takes every $x_T$ to one $x_0$. The reference is a walk
# of many small steps. The error is a root mean square over pixels, in standard deviations of $x_0$, of the median walk:
# a walk that ends in another component of the mixture would hide all others in a mean.

# %%
starts = schedule(1.0)[1] * jax.random.normal(jax.random.key(0), (64 if FAST else 256, 8, 8, 1))
walk = jax.jit(lambda sample, keys, x: jax.vmap(sample, in_axes=(None, 0, 0))(model, keys, x))
keys = jax.random.split(jax.random.key(1), len(starts))
fine = samplers.sampling_fn(multistep.adams(schedule, 3), grids.karras(schedule, 320, t_min=1e-5), max_rows=320)
exact = walk(fine, keys, starts)


def error(make, n):
    """Walks n steps of the log-SNR grid; gives (evaluations, error)."""
    sample = samplers.sampling_fn(make(schedule), grids.log_snr(schedule, n, t_min=1e-3), max_rows=80)
    missed = jnp.mean((walk(sample, keys, starts) - exact) ** 2, (1, 2, 3))
    return samplers.nfe(sample), float(jnp.sqrt(jnp.median(missed) / jnp.mean(jnp.var(exact, 0))))


# %% [markdown]
# `max_rows` pads the walk: one compiled program serves every number of steps of a kind of sampler.

# %%
axes_of_data = principal.Axes.of(np.asarray(mixture.sample(jax.random.key(6), 4000)))
makers = {
    "DDIM": ancestral.ddim,
    "Heun": heun.edm,
    "DPM-Solver++(2M)": multistep.dpmpp_2m,
    "exponential Adams 3": multistep.adams,
    "iPNDM 4": pndm.ipndm,
    "UniPC 3": lambda s: unipc.unipc(s, 3),
    "principal Adams 2": lambda s: principal.adams(s, axes_of_data),
}
if FAST:
    makers = {name: makers[name] for name in ("DDIM", "DPM-Solver++(2M)", "exponential Adams 3")}
steps = (5, 10, 20, 40) if FAST else (5, 6, 8, 10, 15, 20, 30, 40)
errors = {name: [error(make, n) for n in steps] for name, make in makers.items()}

figure, axes = plt.subplots(figsize=(6, 4))
for name, found in errors.items():
    axes.loglog(*zip(*found), marker="o", markersize=3, label=name)
axes.set(xlabel="evaluations of the model", ylabel="error / standard deviation of $x_0$")
axes.set_xticks(steps, steps)
axes.set_xticks([], minor=True)
axes.legend(fontsize=8, frameon=False)
plt.show()

# %% [markdown]
# **What to see.** Where a line is straight its slope is the order: halving the step halves DDIM's error, and quarters
# that of second-order methods. At five evaluations order three is no better than DDIM, since it extrapolates too far;
# at twenty it is among the best. Heun's steps cost two evaluations each. Principal Adams knows mean and covariance of
# the data, and begins lowest.

# %% [markdown]
# ## Frechet distance: how far the samples' law is
#
# What is asked of samples is their law, not where one walk ends. Stochastic samplers ($\eta=1$) have no reference walk,
# but the same law. The distance is of features of a digits classifier, to exact draws of the mixture; two sets of exact
# draws give the floor.

# %%
count = 256 if FAST else 1024
draws = [np.asarray(mixture.sample(jax.random.key(seed), count)) for seed in (2, 3)]
features = digits.read(draws[0]).features
floor = frechet.frechet(digits.read(draws[1]).features, features)
x_T = schedule(1.0)[1] * jax.random.normal(jax.random.key(4), (count, 8, 8, 1))
each = jax.random.split(jax.random.key(5), count)


def distance(make, n):
    """Draws with n steps, and gives the Frechet distance to exact draws."""
    sample = samplers.sampling_fn(make(schedule), grids.log_snr(schedule, n, t_min=1e-3), max_rows=64)
    return frechet.frechet(digits.read(np.asarray(walk(sample, each, x_T))).features, features)


stochastic = {
    "DDIM, $\\eta=0$": ancestral.ddim,
    "DDIM, $\\eta=1$ (DDPM)": ancestral.ddpm,
    "exponential Adams 2": lambda s: multistep.adams(s, 2),
    "Euler-Maruyama": sde.euler_maruyama,
}
if FAST:
    stochastic.popitem()
laws = {name: [distance(make, n) for n in steps] for name, make in stochastic.items()}

figure, axes = plt.subplots(figsize=(6, 4))
for name, found in laws.items():
    axes.loglog(steps, found, marker="o", markersize=3, label=name)
axes.axhline(floor, color="grey", linestyle=":", label="floor: exact draws")
axes.set(xlabel="evaluations of the model", ylabel="Frechet distance")
axes.set_xticks(steps, steps)
axes.set_xticks([], minor=True)
axes.legend(fontsize=8, frameon=False)
plt.show()

# %% [markdown]
# **What to see.** Every method comes down towards the dotted floor; the question is with how many evaluations. With few
# of them noise hurts: $\eta=1$ lies above $\eta=0$, and Euler-Maruyama, which takes coefficients for constant within a
# step, far above both. Second order is there first.

# %% [markdown]
# ## Calibrated on the model
#
# A model that is drawn from often can have coefficients of its own: those of a known sampler, fitted by gradients
# through the walk on starts of other seeds. The error is that of walks that the fit has not seen. A trained run is
# calibrated by `experiments/nfe/calibrate.py`, which saves a table that `--sampler=fitted.table` loads.

# %%
others = schedule(1.0)[1] * jax.random.normal(jax.random.key(7), starts.shape)
five = grids.log_snr(schedule, 5, t_min=1e-3)
table = fitted.fit(multistep.dpmpp_2m(schedule), five, model, others, walk(fine, keys, others), 30 if FAST else 200)
print(f"DPM-Solver++(2M) in 5 evaluations: {table.before:.3f}, its coefficients fitted: {table.after:.3f}")
assert table.after < table.before

# %% [markdown]
# ## With a network
#
# A trained network errs by itself, and noise can then help: what is wrong in $x_t$ is forgotten. So measure on the run:
#
# ```bash
# python -m diffjax.main --mode=eval --workdir=runs/... --sampler=dpmpp_2m --nfe=10
# ```
#
# or many at once, [8, a sweep](08_sweep.ipynb). The next cell holds the two orders, and that ten evaluations are enough
# for the law where the order is two.

# %%
missed = {name: {n: value for n, (_, value) in zip(steps, found)} for name, found in errors.items()}
slope = {name: np.log2(found[20] / found[40]) for name, found in missed.items()}
print({name: round(float(value), 2) for name, value in slope.items()}, "floor", round(floor, 2))
assert 0.8 < slope["DDIM"] < 1.2, slope
assert slope["DPM-Solver++(2M)"] > 1.5, slope
assert slope["exponential Adams 3"] > 2, slope
assert missed["exponential Adams 3"][20] < missed["DDIM"][40] / 3, errors
ten = steps.index(10)
assert laws["exponential Adams 2"][ten] < laws["DDIM, $\\eta=0$"][ten] < laws["DDIM, $\\eta=1$ (DDPM)"][ten], laws
