# %% [markdown]
# # 6. 在 TPU 或 GPU 上：设备、批量、CIFAR-10、从云端硬盘继续
#
# 同一个程序可以跑在 CPU、GPU 和 TPU 上，由 jax 决定用哪个。这一篇有什么就用什么，跳过的部分会明说。在 Colab 上：*代码执行程序，更改运行时类型*，选一块 TPU 或 GPU。第一格不会动镜像自带的 jax。

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
# ## 结果放在哪里
#
# Colab 的机器迟早会被收走，云端硬盘（Drive）却留着。训练的文件夹放在那里，就能从断处继续。

# %%
if importlib.util.find_spec("google.colab") if importlib.util.find_spec("google") else None:
    from google.colab import drive

    drive.mount("/content/drive")
    ROOT = Path("/content/drive/MyDrive/diffjax")
else:
    ROOT = Path(tempfile.mkdtemp())
    print(f"no Drive: runs go to {ROOT}, which does not outlive this machine")

# %% [markdown]
# ## 数据
#
# CIFAR-10 采用 TensorFlow Datasets 的格式，但不需要 TensorFlow：下载一次压缩包，转换好即可。读取它需要 `pip install array_record grain importlib_resources`。没有加速器、没有这些包或没有网络时，就用手写数字。

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
# ## 网络与批量
#
# 一个批次分摊到所有设备上，它的大小必须是设备数的倍数；内存不够时分成 `accumulate` 份来算，也必须是它的倍数。在加速器上一次下发好几步（`steps_per_dispatch`），免得等 Python。bfloat16 让中间结果的内存减半，参数仍是 float32。

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
# ## 训练，并从断处继续
#
# 第一次训练到一半就停。第二次在文件夹里找到最新的存档：参数、优化器、滑动平均、步数，以及数据读到了哪里。在 Colab 上，把整个笔记本再跑一遍就行。

# %%
half = 80 if FAST else 400
with trainer(workdir=ROOT / "accelerators") as first:
    before = first.train(half).draw(16, nfe=10)
with trainer(workdir=ROOT / "accelerators") as second:
    found = second.run().draw(16, nfe=10)
    run = second.train(2 * half)
after = run.draw(16, nfe=10)

# %% [markdown]
# **看点。** 每次训练结束时，64 个种子的样本，分别用滑动平均的参数和原始参数得到：种子相同，第二次稍好一些。

# %% [markdown]
# ## 有多快，有多好

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
# **看点。** 虚线处第一次训练停下，损失越过它继续下降。样本出自刚开始训练的网络：`configs/vpsde.py:cifar10` 的配方要 130 万步。

# %% [markdown]
# ## 应当成立的结论
#
# 恢复之后画出的样本逐比特相同；损失在下降；在 CPU 上，中途停过的训练与从未停过的训练，最后样本完全一样。

# %%
np.testing.assert_array_equal(before, found)
assert run.step == 2 * half
assert lines[-1]["loss"] < 0.85 * lines[0]["loss"], (lines[0]["loss"], lines[-1]["loss"])
if ACCELERATED:
    print("left out: a run without a stop, to compare with")
else:
    np.testing.assert_array_equal(after, trainer().train(2 * half).draw(16, nfe=10))

# %% [markdown]
# 多块设备不需要多写一行。多台主机则先调用 `diffjax.cluster.join()`（见 docs/scale.md）。一块设备的内存放得下什么，由 `python -m diffjax.main --mode=show --config=configs/vpsde.py:cifar10` 给出。
