# %% [markdown]
# # 8. A sweep and its table
#
# A sweep trains a config at every point of a grid, and evaluates each training at every point of another grid: samplers
# and numbers of steps never train again. It is a folder. What is done is skipped, what was interrupted goes on, and
# several processes or machines may share it.

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
import tempfile
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Image, display

import diffjax
from diffjax import analytic, grids, samplers, schedules
from diffjax.metrics import wasserstein
from diffjax.samplers import ancestral, multistep

ROOT = Path(tempfile.mkdtemp())

# %% [markdown]
# ## A config
#
# A config is a Python file with a table `VARIANTS`. This one differs from the default in data, network and length; it
# could be one of `configs/` as well.

# %%
CONFIG = ROOT / "moons.py"
text = f"""
from diffjax.config import recipe, spec

def moons():
    config = recipe()
    config.data = spec("moons", n=4000)
    config.model = spec("MLP", width=64, depth=2)
    config.target = spec("V")
    config.learning_rate.update(dict(peak=2e-3, schedule="cosine"))
    config.train.update(dict(steps={200 if FAST else 1000}, batch_size=128, log_every=200))
    config.train.sample_every = 10**6
    config.checkpoint.every = config.train.steps
    return config

VARIANTS = dict(moons=moons)
"""
CONFIG.write_text(text)
print(text)

# %% [markdown]
# ## What an evaluation measures
#
# By default it is a whole report, with its Frechet distance. `measure` gives something else, of the run as its sampler
# and grid were set: here sliced $W_2$ to held-out points.


# %%
def distance(run):
    held_out = run.data.held_out.gather(np.arange(1000)).x
    return {"w2": wasserstein.sliced(run.draw(1000), held_out)}


# %% [markdown]
# ## The sweep
#
# Keys are those of the command line. Two rates and two seeds are four trainings; each is evaluated with two samplers on
# two grids.

# %%
sweep = diffjax.Sweep(
    str(CONFIG),
    {"learning_rate.peak": [2e-4, 2e-3], "seed": [0, 1] if FAST else [0, 1, 2]},
    evaluate={"sampler.name": ["ddim", "dpmpp_2m"], "grid.n": [5, 20]},
    measure=distance,
    root=ROOT / "rates",
).run()

# %% [markdown]
# Each training is an ordinary workdir, `rates/train/ID`, with its log and its pictures: `samples/step_*.png` there.

# %% [markdown]
# ## Its table
#
# With `over="seed"` a row is a mean and its standard error. The table is made of what is in the folder alone, by
# anyone, at any time: `sweeps.table(root, ["w2"], over="seed")`.

# %%
table = sweep.table(["w2"], over="seed")
table

# %%
display(Image(str(sweep.plot(x="grid.n", by=["learning_rate.peak", "sampler.name"], y="w2", over="seed"))))

# %% [markdown]
# **What to see.** On the right, where both samplers have enough steps, the larger rate lies lower: in so short a
# training the smaller one has not learned the moons. On the left DDIM's own error hides that; the second-order sampler
# shows it in five steps.

# %% [markdown]
# ## A sweep over a function
#
# Where nothing is trained, a function takes the config's place: its arguments are the keys, what it returns the
# columns. Here the error of samplers on an exact denoiser, against a fine walk.

# %%
turn = np.pi / 4 * np.arange(8)
ring = analytic.gaussian_mixture(np.ones(8), np.stack([np.cos(turn), np.sin(turn)], 1), [0.02] * 8)
schedule = schedules.VP()
x_T = schedule(1.0)[1] * jax.random.normal(jax.random.key(0), (256, 2))
walk = jax.jit(lambda sample: jax.vmap(lambda x: sample(ring.denoiser(schedule), jax.random.key(0), x))(x_T))
exact = walk(samplers.sampling_fn(multistep.adams(schedule, 3), grids.log_snr(schedule, 400, t_min=1e-4)))
KINDS = {"ddim": ancestral.ddim, "dpmpp_2m": multistep.dpmpp_2m, "adams": multistep.adams}


def error(sampler, n):
    sample = samplers.sampling_fn(KINDS[sampler](schedule), grids.log_snr(schedule, n, t_min=1e-4), max_rows=40)
    missed = np.linalg.norm(walk(sample) - exact, axis=1)
    return {"miss": float(np.median(missed)), "evaluations": samplers.nfe(sample)}


calls = diffjax.Sweep(error, {"sampler": list(KINDS), "n": [10, 20, 40]}, root=ROOT / "errors").run()
calls.table(["miss"])

# %%
rows = calls.table(["miss"]).rows
figure, axes = plt.subplots(figsize=(5, 3.2))
for name in KINDS:
    found = [(row["n"], row["miss"]) for row in rows if row["sampler"] == name]
    axes.loglog(*zip(*found), marker="o", label=name)
axes.set(xlabel="steps", ylabel="median distance to the exact end")
axes.set_xticks([10, 20, 40], [10, 20, 40])
axes.set_xticks([], minor=True)
axes.legend(frameon=False, fontsize=8)
plt.show()

# %% [markdown]
# **What to see.** Three orders: at the right end slopes of about one, two and three.

# %% [markdown]
# ## What has to hold
#
# Every point is done, a second start does nothing, and the numbers say what theory does.

# %%
points = sweep.table(["w2"]).rows
assert len(points) == 8 * (2 if FAST else 3)
assert all(row["status"] == "done" for row in points)
before = {path: path.stat().st_mtime_ns for path in ROOT.rglob("eval.json")}
sweep.run()
assert {path: path.stat().st_mtime_ns for path in ROOT.rglob("eval.json")} == before
w2 = {(row["learning_rate.peak"], row["sampler.name"], row["grid.n"]): row["w2"] for row in table}
print(w2)
assert w2[2e-3, "dpmpp_2m", 20] < 0.75 * w2[2e-4, "dpmpp_2m", 20], w2
miss = {(row["sampler"], row["n"]): row["miss"] for row in rows}
slope = {name: float(np.log2(miss[name, 20] / miss[name, 40])) for name in KINDS}
print(slope)
assert 0.8 < slope["ddim"] < 1.2, slope
assert slope["dpmpp_2m"] > 1.6, slope
assert slope["adams"] > 2.3, slope
