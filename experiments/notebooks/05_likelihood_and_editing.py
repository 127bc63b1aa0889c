# %% [markdown]
# # 5. Likelihood, encoding, interpolation, editing, restoration
#
# What else a trained denoiser is good for, without training it again. To have something to hold results against, the
# "network" is exact: the posterior mean of a Gaussian mixture fitted to real digits, written as a function of what
# every network sees, $x_t$ and its log-SNR. A workdir of your own takes its place.

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
import optax
from sklearn.mixture import GaussianMixture

import diffjax
from diffjax import (
    analytic,
    data,
    denoisers,
    grids,
    likelihood,
    methods,
    models,
    operators,
    plots,
    processes,
    runs,
    samplers,
    schedules,
)
from diffjax.samplers import multistep

WORKDIR = ""  # of a run on digits, such as "runs/quick-start" of notebook 1

# %% [markdown]
# ## The run
#
# On VP $\alpha^2=1/(1+e^{-\lambda})$, so that the log-SNR $\lambda$ says it all.

# %%
digits = data.digits()
train = digits.train.gather(np.arange(1500)).x
fit = GaussianMixture(10, reg_covar=3e-3, random_state=0).fit(train.reshape(1500, 64).astype(float))
mixture = analytic.gaussian_mixture(fit.weights_, fit.means_.reshape(-1, 8, 8, 1), fit.covariances_)


def exact(params, x, c, given):
    return mixture.posterior(x, jnp.sqrt(jax.nn.sigmoid(c)), jnp.sqrt(jax.nn.sigmoid(-c))).mean


if WORKDIR:
    run = diffjax.open(WORKDIR)
else:
    network = models.from_function(exact, {"none": jnp.zeros(1)}, reads=())
    method = methods.denoising(network, processes.Gaussian(schedules.VP()), denoisers.X0())
    run = runs.Trainer(method, digits, optimizer=optax.sgd(0.0)).run()  # nothing is trained
denoise, schedule = run.denoiser(), run.method.parts.schedule
real = digits.held_out.gather(np.arange(297)).x


def show(images, columns, title):
    board = plots.tile(images, columns)
    _, axes = plt.subplots(figsize=(0.55 * columns + 0.6, 0.55 * len(images) / columns + 0.6))
    axes.imshow(board[..., 0], cmap="gray", vmin=0, vmax=255)
    axes.set(title=title, xticks=[], yticks=[])
    axes.title.set_fontsize(9)
    plt.show()


# %% [markdown]
# ## Likelihood
#
# Along the probability-flow ODE the density changes by the divergence of its field,
# $$\log p_0(x_0)=\log p_T(x_T)+\int_0^T\nabla\!\cdot v(x_t,t)\,dt .$$
# The trace is exact here; with more entries Hutchinson's $\epsilon^\top\frac{\partial v}{\partial x}\epsilon$ takes its
# place.

# %%
ts = grids.log_snr(schedule, 1, t_min=1e-2, zero=False)
density = likelihood.ode(ts, run.method.parts.process, rtol=1e-4, atol=1e-4, trace="exact")
few = 4 if FAST else 32
found = jax.jit(jax.vmap(lambda x: density(denoise, jax.random.key(0), x)))(real[:few])
alpha, sigma = schedule(ts[-1])
known = jax.vmap(lambda x: mixture.log_prob(x, alpha, sigma))(real[:few])
bits = -np.asarray(found.log_p) / 64 / np.log(2)
print("bits per dimension", bits[:4].round(3), "; exact", (-np.asarray(known) / 64 / np.log(2))[:4].round(3))

# %% [markdown]
# ## Encoding
#
# A deterministic sampler walked up its grid is an encoder: every digit has a noise $x_T$, and walking down gives the
# digit back, to the order of the sampler.

# %%
sampler, steps = multistep.adams(schedule, 2), 60 if FAST else 200
grid = grids.log_snr(schedule, steps, zero=False)
over = lambda walk: jax.jit(jax.vmap(lambda x: walk(denoise, jax.random.key(0), x)))
encode, decode = over(samplers.encoding_fn(sampler, grid)), over(samplers.sampling_fn(sampler, grid))
some = jnp.asarray(real[:16])
z = encode(some)
back = decode(z)
round_trip = float(jnp.sqrt(jnp.mean((back - some) ** 2)))
print(f"round trip {round_trip:.4f}; noise: mean {float(z.mean()):.2f}, standard deviation {float(z.std()):.2f}")
show(jnp.concatenate([some[:10], z[:10] / 3, back[:10]]), 10, "digits, their noise, and back")

# %% [markdown]
# **What to see.** The third row is the first one again. In the second there is no digit to be seen: it is close to
# standard normal noise.

# %% [markdown]
# ## Interpolation
#
# Between two noises on the great circle, decoded at every place. A straight line would shrink the noise in the middle
# and leave the law the sampler knows.

# %%
weights = jnp.linspace(0, 1, 9)
arc = jax.vmap(lambda a, b: jax.vmap(lambda w: samplers.encoding.slerp(a, b, w))(weights))(z[:8:2], z[1:8:2])
between = decode(arc.reshape(-1, 8, 8, 1))
show(between, 9, "from one digit to another, on the great circle of their noises")

# %% [markdown]
# **What to see.** Ends are the digits that were encoded. In between are digits too, not two pictures laid over one
# another.

# %% [markdown]
# ## Editing
#
# SDEdit noises a picture to a share of the time and walks it back. Strength 0 is the picture, 1 a fresh sample.

# %%
strengths = (0.1, 0.25, 0.4, 0.6)
edits = [run.edit(real[:10], strength, sampler="dpmpp_2m", nfe=20) for strength in strengths]
show(np.concatenate([real[:10], *(edit.x for edit in edits)]), 10, f"digits, and edits of strength {strengths}")

# %% [markdown]
# **What to see.** From row to row less is left: first the stroke changes, then the digit.

# %% [markdown]
# ## Restoration
#
# $y=Ax_0$ with a linear $A$; here 2 x 4 pixels in the middle are hidden. TMPD conditions $N(\hat
# x_0,\mathrm{Cov}[x_0\mid x_t])$ on $y$, with the covariance from the denoiser's own derivative.

# %%
operator = run.operator({"name": "inpaint", "box": (3, 5, 2, 6)})
y = jax.vmap(operator)(real[:10])
fixed = run.restore(y, operator, seeds=10, by="tmpd", noise=0.02, nfe=20)
seen = operators.shown(operator, y, (8, 8, 1))
show(np.concatenate([real[:10], seen, fixed.x]), 10, "digits, what is seen of them, restored")

# %% [markdown]
# **What to see.** The middle is made up, and goes with the rest: where what is seen leaves open which digit it was,
# another one may come.

# %% [markdown]
# ## What has to hold
#
# Densities are the exact ones, the round trip closes, a weak edit is nearer than a strong one, what is seen is kept,
# and the hidden middle is nearer to the truth than the mean digit.

# %%
middle = (slice(None), slice(3, 5), slice(2, 6))
rms = lambda x: float(np.sqrt(np.mean(np.square(x))))
missed, blind = rms((fixed.x - real[:10])[middle]), rms((train.mean(0) - real[:10])[middle])
moved = [rms(edit.x - real[:10]) for edit in edits]
print(
    f"middle {missed:.2f}, by the mean digit {blind:.2f}; edits {np.round(moved, 2)}; kept {fixed.residual.max():.3f}"
)
assert WORKDIR or np.abs(np.asarray(found.log_p - known)).max() < 0.3
assert round_trip < 0.1, round_trip
assert 0.8 < float(z.std()) < 1.2, z.std()
assert np.all(np.diff(moved) > 0), moved
assert fixed.residual.max() < 0.1, fixed.residual
assert missed < 0.95 * blind, (missed, blind)
