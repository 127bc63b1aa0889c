# %% [markdown]
# # 6. On a TPU or a GPU: devices, batches, CIFAR-10, going on from Drive
#
# One program serves a CPU, a GPU and a TPU chip; which it is, jax says. This notebook takes what it finds, and says
# what it leaves out. On Colab: *Runtime, Change runtime type*, one TPU chip or a GPU. The first cell leaves the image's
# jax alone.

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
import importlib.util
import json
import tempfile
import urllib.request
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np
import optax

import diffjax
from diffjax import data, denoisers, methods, models, plots, processes, runs, schedules

diffjax.doctor()
ACCELERATED = jax.default_backend() != "cpu"
print("devices:", *jax.devices())
if not ACCELERATED:
    print("no accelerator: left out are CIFAR-10 and a U-Net of 42 M parameters; instead, an MLP on digits")

# %% [markdown]
# ## Where runs go
#
# A Colab machine is taken away some time; its Drive stays. A run in a folder there goes on where it was.

# %%
if importlib.util.find_spec("google.colab") if importlib.util.find_spec("google") else None:
    from google.colab import drive

    drive.mount("/content/drive")
    ROOT = Path("/content/drive/MyDrive/diffjax")
else:
    ROOT = Path(tempfile.mkdtemp())
    print(f"no Drive: runs go to {ROOT}, which does not outlive this machine")

# %% [markdown]
# ## Data
#
# CIFAR-10 as TensorFlow Datasets has it, without TensorFlow: the archive is fetched once and prepared. It needs the
# readers (`pip install array_record grain importlib_resources`). Without an accelerator, readers or network it is
# digits.

# %%
ARCHIVE = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"  # 170 MB


def cifar10():
    """Opens CIFAR-10, fetching and preparing it where it is not there; None, with a word, where that cannot be."""
    try:
        return data.tfds("cifar10", flip=True)
    except (FileNotFoundError, ValueError, ImportError) as missing:
        print(f"not there yet: {str(missing).splitlines()[0]}")
    try:
        from diffjax.data import prepare  # needs the readers

        archive, _ = urllib.request.urlretrieve(ARCHIVE)
        prepare.prepare_cifar10(archive, prepare.default_dir())
        return data.tfds("cifar10", flip=True)
    except (OSError, ValueError, ImportError) as failed:
        print(f"no CIFAR-10: {failed}")
        return None


images = (cifar10() if ACCELERATED else None) or data.digits()
big = images.name.startswith("cifar")
print(f"{images.name}: {len(images.train)} examples of shape {images.shape}")

# %% [markdown]
# ## Network and batch
#
# A batch is spread over all devices; its size has to be a multiple of their number, and of `accumulate`, the parts that
# it is worked through in where the memory is short. On an accelerator several steps are dispatched at once
# (`steps_per_dispatch`), so that Python is not waited for. bfloat16 halves the memory of activations; parameters stay
# float32.

# %%
if big:
    net = models.UNet(channels=128, multipliers=(1, 2, 2, 2), blocks=2, attention=(16,), dropout=0.1, dtype="bfloat16")
else:
    net = models.MLP(width=64, depth=2)
devices = jax.device_count()
settings = dict(
    batch_size=128 * devices,
    steps_per_dispatch=8 if ACCELERATED else 1,
    checkpoint_every=40 if FAST else 200,
    log_every=40 if FAST else 200,
    sample_every=10**6,
    chunk=64,
    ema="0.99",
)


def trainer(**words):
    """Makes the run anew, as another start of the notebook would."""
    method = methods.denoising(models.of(net), processes.Gaussian(schedules.VP()), denoisers.V())
    return runs.Trainer(method, images, optimizer=optax.adam(3e-4 if big else 2e-3), **settings, **words)


# %% [markdown]
# ## Train, and go on
#
# The first start is stopped half way. The second one finds the newest checkpoint in its folder: parameters, optimizer,
# averages, step and position in the data. On Colab: run the notebook again.

# %%
half = 80 if FAST else 400
with trainer(workdir=ROOT / "accelerators") as first:
    before = first.train(half).draw(16, nfe=10)
with trainer(workdir=ROOT / "accelerators") as second:
    found = second.run().draw(16, nfe=10)
    run = second.train(2 * half)
after = run.draw(16, nfe=10)

# %% [markdown]
# **What to see.** At the end of each start the samples of 64 seeds, by the averaged parameters and by the raw ones: the
# same seeds, a little better the second time.

# %% [markdown]
# ## How fast, and how well

# %%
lines = [json.loads(line) for line in (ROOT / "accelerators" / "metrics.jsonl").read_text().splitlines()]
rates = [line["timing"]["images_per_s"] for line in lines]
print(f"{max(rates):,.0f} images a second on {devices} x {jax.devices()[0].device_kind}")

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 2.8), width_ratios=(2, 3))
left.plot([line["step"] for line in lines], [line["loss"] for line in lines], marker="o", markersize=3)
left.axvline(half, color="grey", linestyle=":")
left.set(xlabel="step", ylabel="loss")
board = plots.tile(after, 8)
right.imshow(board if board.shape[-1] == 3 else board[..., 0], cmap="gray")
right.set(xticks=[], yticks=[], title=f"after {run.step} steps")
plt.show()

# %% [markdown]
# **What to see.** The loss goes on falling across the dotted line, where the first start was stopped. The samples are
# of a young network: the recipe of `configs/vpsde.py:cifar10` has 1.3 million steps.

# %% [markdown]
# ## What has to hold
#
# What is restored draws the same samples to the bit; the loss falls; and on a CPU a run that was stopped ends with the
# same samples as one that never was.

# %%
np.testing.assert_array_equal(before, found)
assert run.step == 2 * half
assert lines[-1]["loss"] < 0.85 * lines[0]["loss"], (lines[0]["loss"], lines[-1]["loss"])
if ACCELERATED:
    print("left out: a run without a stop, to compare with")
else:
    np.testing.assert_array_equal(after, trainer().train(2 * half).draw(16, nfe=10))

# %% [markdown]
# Several devices need no other line. Several hosts: `diffjax.cluster.join()` first (docs/scale.md). What fits into
# the memory of a device is said by `python -m diffjax.main --mode=show --config=configs/vpsde.py:cifar10`.
