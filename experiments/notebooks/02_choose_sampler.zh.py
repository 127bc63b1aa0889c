# %% [markdown]
# # 2. 选择采样器：误差、Frechet 距离与求值次数
#
# 采样器花的是网络的求值次数。去噪器已知时，这些次数换来了什么可以精确地量出来：对高斯混合，$E[x_0\mid x_t]$ 有解析式。这里的混合是由真实数字拟合的，所以数值说的是 64 维，也看得到图。

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
# ## 精确的模型
#
# 各分量为 $N(m_k,C_k)$，记 $V_k=\alpha^2C_k+\sigma^2I$，则
# $$E[x_0\mid x_t]=\sum_k r_k(x_t)\,\bigl(m_k+\alpha C_kV_k^{-1}(x_t-\alpha m_k)\bigr).$$

# %%
train = data.digits().train.gather(np.arange(1500)).x
fit = GaussianMixture(10, reg_covar=3e-3, random_state=0).fit(train.reshape(1500, 64).astype(float))
mixture = analytic.gaussian_mixture(fit.weights_, fit.means_.reshape(-1, 8, 8, 1), fit.covariances_)
schedule = schedules.VP()
model = mixture.denoiser(schedule)

# %% [markdown]
# ## 误差：离流的终点有多远
#
# 确定性采样器解的是概率流ODE，它把每个 $x_T$ 带到唯一的 $x_0$。参照是步数很多的一次求解。误差是像素的均方根，以 $x_0$ 的标准差为单位，并取各条轨迹的中位数：万一某条轨迹落进了另一个分量，平均值就会被它一条盖住。

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
# `max_rows` 把步数补齐：同一类采样器的各种步数只编译一次。

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
# **看点。** 直线段的斜率就是阶数：步长减半，DDIM 的误差减半，二阶方法的误差变成四分之一。只算 5 次时，三阶并不比 DDIM 好，因为外推得太远；到 20 次它已属最好之列。Heun 每步要算两次。Principal Adams 知道数据的均值与协方差，起点最低。

# %% [markdown]
# ## Frechet 距离：样本的分布有多远
#
# 我们要的是样本的分布，而不是某一条轨迹的终点。随机采样器（$\eta=1$）没有参照轨迹，却有同样的分布。距离用数字分类器的特征，对混合分布的精确样本计算；两组精确样本之间的距离就是下限。

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
# **看点。** 每种方法都朝虚线（下限）降下去，问题是要算几次。次数少时噪声是有害的：$\eta=1$ 高于 $\eta=0$，而把一步之内的系数当作常数的 Euler-Maruyama 远在两者之上。二阶方法最先到达。

# %% [markdown]
# ## 按模型校准
#
# 要反复采样的模型可以有自己的系数：从已知采样器的系数出发，用另一些种子的起点，穿过整个求解过程做梯度下降。给出的误差来自拟合未见过的轨迹。训练好的模型由 `experiments/nfe/calibrate.py` 校准，存下的表由 `--sampler=fitted.table` 读取。

# %%
others = schedule(1.0)[1] * jax.random.normal(jax.random.key(7), starts.shape)
five = grids.log_snr(schedule, 5, t_min=1e-3)
table = fitted.fit(multistep.dpmpp_2m(schedule), five, model, others, walk(fine, keys, others), 30 if FAST else 200)
print(f"DPM-Solver++(2M) in 5 evaluations: {table.before:.3f}, its coefficients fitted: {table.after:.3f}")
assert table.after < table.before

# %% [markdown]
# ## 换成真正的网络
#
# 训练出来的网络自己也有误差，这时噪声反而可能有益：$x_t$ 里的错会被忘掉。所以要在自己的模型上量：
#
# ```bash
# python -m diffjax.main --mode=eval --workdir=runs/... --sampler=dpmpp_2m --nfe=10
# ```
#
# 或者一次量许多个，见[8，成批实验](08_sweep.zh.ipynb)。下一格检验上面两个阶数，以及二阶方法求值十次时分布最准。

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
