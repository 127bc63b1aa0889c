# %% [markdown]
# # 1. 快速上手：训练，看图，评判
#
# 扩散模型先用噪声把数据拆掉，$x_t=\alpha_t x_0+\sigma_t z$；再学习还能知道的东西，$E[x_0\mid x_t]$；然后从噪声一步步走回来。这里先在平面点集上用几秒钟做一遍，再到手写数字上去。
#
# 第一格在没有 diffjax 时安装它；机器自带的 jax（TPU 或 GPU 版）不会被改动。

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
# ## 训练
#
# 一个方法由四部分组成：**网络**、**过程**（这里 $\alpha_t^2+\sigma_t^2=1$，即 VP）、**预测目标**（网络预测什么：$v=\alpha_t z-\sigma_t x_0$）和采样器（默认是 DDIM）。加上数据与优化器就是一次训练。

# %%
moons = data.moons()
network = models.of(models.MLP(width=64 if FAST else 128, depth=2 if FAST else 4))
method = methods.denoising(network, processes.Gaussian(schedules.VP()), denoisers.V())
steps = 1200 if FAST else 6000
rate = optax.cosine_decay_schedule(2e-3, steps)
trainer = runs.Trainer(method, moons, optimizer=optax.adam(rate), batch_size=256, steps=steps, log_every=steps // 4)
run = trainer.train()

# %% [markdown]
# ## 看图
#
# 样本是随机种子的函数。`draw` 可以按名字换采样器，也可以换步数。

# %%
samples = run.draw(2000, sampler="dpmpp_2m", nfe=20)
held_out = moons.held_out.gather(np.arange(2000)).x

figure, axes = plt.subplots(1, 2, figsize=(8, 3), sharex=True, sharey=True)
for one, (title, x) in zip(axes, {"held-out data": held_out, "samples, 20 evaluations": samples}.items()):
    one.scatter(*x.T, s=2, alpha=0.4, linewidths=0)
    one.set(title=title, aspect="equal")
plt.show()

# %% [markdown]
# **看点。** 两边各有两条细细的半圆。样本里落在两个月牙之间的点，是还没训练好的网络弄错的；多训练几步就会消失。

# %% [markdown]
# ## 评判
#
# 一个距离要有两个参照：**下限**，即真实数据自己的距离（训练点对留出点）；**基线**，这里是拟合数据的一个高斯。距离取切片 $W_2$，单位与 $x$ 相同。

# %%
real = moons.train.gather(np.arange(2000)).x
rng = np.random.default_rng(0)
fitted = rng.multivariate_normal(real.mean(0), np.cov(real.T), 2000)
distance = {
    name: wasserstein.sliced(x, held_out) for name, x in {"samples": samples, "floor": real, "Gaussian": fitted}.items()
}
print({name: round(value, 4) for name, value in distance.items()})

# %% [markdown]
# ## 用配置文件训练
#
# `configs/vpsde.py` 是一份完整的配方：U-Net，1500 张真实数字，2400 步，两个 CPU 核上要几分钟，加速器上更快。`report` 评判 1024 个样本，写出 `report.md` 和图片。Frechet 距离比较特征的高斯拟合：$\|m_1-m_2\|^2+\mathrm{tr}(C_1+C_2-2(C_1C_2)^{1/2})$。

# %%
if FAST:
    print("left out in the fast form: training on digits")
else:
    built = runs.build_run(runs.load("configs/vpsde.py"))
    recipe = runs.Trainer(**built._asdict(), workdir="runs/quick-start")
    recipe.train()
    results = recipe.report()

# %% [markdown]
# **看点。** 训练途中三次画出 64 个种子的样本，分别用滑动平均的参数和原始参数：噪声变成笔画，笔画变成数字。最后是样本与留出数字并排。

# %% [markdown]
# 这个数怎么来的，只用数据就能看到：297 张留出数字，对同样多的训练数字（下限），以及对噪声。

# %%
two = data.digits()
shown, seen = two.held_out.gather(np.arange(297)).x, two.train.gather(np.arange(297)).x
noise = np.asarray(jax.random.uniform(jax.random.key(0), shown.shape, minval=-1.0))
features = {name: digits.read(x).features for name, x in {"held out": shown, "floor": seen, "noise": noise}.items()}
found = {name: frechet.frechet(features[name], features["held out"]) for name in ("floor", "noise")}
print({name: round(value, 2) for name, value in found.items()})

# %% [markdown]
# ## 应当成立的结论
#
# 样本离留出数据只有几倍下限，比高斯近得多；数字的样本要通过门限。

# %%
assert distance["samples"] < 0.4 * distance["Gaussian"], distance
assert distance["samples"] < 4 * distance["floor"], distance
assert found["floor"] < 10 < 100 < found["noise"], found
assert FAST or results["gate"], results

# %% [markdown]
# 下一篇：[2，选择采样器](02_choose_sampler.zh.ipynb)。
