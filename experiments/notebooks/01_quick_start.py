# %% [markdown]
# # 1. Quick start: train, look, judge
#
# A diffusion model destroys data by noise, $x_t=\alpha_t x_0+\sigma_t z$, learns what is left to be known of it,
# $E[x_0\mid x_t]$, and walks back from noise. Here it does so on points of the plane, in seconds, and then on digits.
#
# The first cell installs diffjax where it is not there; the jax of the machine (a TPU's, a GPU's) is left alone.

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
import matplotlib.pyplot as plt
import numpy as np
import optax

import diffjax
from diffjax import data, denoisers, methods, models, processes, runs, schedules
from diffjax.metrics import digits, frechet, wasserstein

diffjax.doctor()

# %% [markdown]
# ## Train
#
# Four parts make a method: a **network**, a **process** (here $\alpha_t^2+\sigma_t^2=1$, the schedule VP), a **target**
# (what the network predicts: $v=\alpha_t z-\sigma_t x_0$), and a sampler, whose default is DDIM. Data and an optimizer
# make a run of it.

# %%
moons = data.moons()
network = models.of(models.MLP(width=64 if FAST else 128, depth=2 if FAST else 4))
method = methods.denoising(network, processes.Gaussian(schedules.VP()), denoisers.V())
steps = 1200 if FAST else 6000
rate = optax.cosine_decay_schedule(2e-3, steps)
trainer = runs.Trainer(method, moons, optimizer=optax.adam(rate), batch_size=256, steps=steps, log_every=steps // 4)
run = trainer.train()

# %% [markdown]
# ## Look
#
# A sample is a function of its seed. `draw` takes another sampler, or another number of evaluations, by its name.

# %%
samples = run.draw(2000, sampler="dpmpp_2m", nfe=20)
held_out = moons.held_out.gather(np.arange(2000)).x

figure, axes = plt.subplots(1, 2, figsize=(8, 3), sharex=True, sharey=True)
for one, (title, x) in zip(axes, {"held-out data": held_out, "samples, 20 evaluations": samples}.items()):
    one.scatter(*x.T, s=2, alpha=0.4, linewidths=0)
    one.set(title=title, aspect="equal")
plt.show()

# %% [markdown]
# **What to see.** Two thin half circles on both sides. Points of the samples between the moons are what a young network
# gets wrong; with more steps they go.

# %% [markdown]
# ## Judge
#
# A distance wants two companions: its **floor**, which real data has (training points against held-out ones), and a
# **baseline**, here one Gaussian fitted to the data. The distance is sliced $W_2$, in the units of $x$.

# %%
real = moons.train.gather(np.arange(2000)).x
rng = np.random.default_rng(0)
fitted = rng.multivariate_normal(real.mean(0), np.cov(real.T), 2000)
distance = {
    name: wasserstein.sliced(x, held_out) for name, x in {"samples": samples, "floor": real, "Gaussian": fitted}.items()
}
print({name: round(value, 4) for name, value in distance.items()})

# %% [markdown]
# ## A run from a config
#
# `configs/vpsde.py` is a whole recipe: a U-Net on 1500 real digits, 2400 steps, minutes on two CPU cores and less on an
# accelerator. `report` judges 1024 samples and writes `report.md`, pictures beside it. Frechet distances compare
# Gaussian fits of features, $\|m_1-m_2\|^2+\mathrm{tr}(C_1+C_2-2(C_1C_2)^{1/2})$.

# %%
if FAST:
    print("left out in the fast form: training on digits")
else:
    built = runs.build_run(runs.load("configs/vpsde.py"))
    recipe = runs.Trainer(**built._asdict(), workdir="runs/quick-start")
    recipe.train()
    results = recipe.report()

# %% [markdown]
# **What to see.** Three times on the way the samples of 64 seeds, by the averaged parameters and by the raw ones: noise
# becomes strokes, strokes become digits. At the end, samples beside held-out digits.

# %% [markdown]
# How the number is made, on data alone: 297 held-out digits against as many training digits (the floor), and against
# noise.

# %%
two = data.digits()
shown, seen = two.held_out.gather(np.arange(297)).x, two.train.gather(np.arange(297)).x
noise = np.asarray(jax.random.uniform(jax.random.key(0), shown.shape, minval=-1.0))
features = {name: digits.read(x).features for name, x in {"held out": shown, "floor": seen, "noise": noise}.items()}
found = {name: frechet.frechet(features[name], features["held out"]) for name in ("floor", "noise")}
print({name: round(value, 2) for name, value in found.items()})

# %% [markdown]
# ## What has to hold
#
# Samples are within a few floors of held-out data, and far nearer to it than a Gaussian; and the digits pass their
# gate.

# %%
assert distance["samples"] < 0.4 * distance["Gaussian"], distance
assert distance["samples"] < 4 * distance["floor"], distance
assert found["floor"] < 10 < 100 < found["noise"], found
assert FAST or results["gate"], results

# %% [markdown]
# Next: [2, choosing a sampler](02_choose_sampler.ipynb).
