# %% [markdown]
# # 3. 平面上的扩散：得分完全已知
#
# 得分已知时，扩散模型的一切都画得出来。这里取三个高斯的混合，它在任何噪声水平下仍是混合：$p_t=\sum_k w_k\,N(\alpha m_k,\ \alpha^2C_k+\sigma^2I)$。这一篇不训练任何网络。

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
# ## 噪声调度
#
# 噪声调度就是 $t\mapsto(\alpha_t,\sigma_t)$。$x_0$ 的后验只看到其中一个数，即对数信噪比 $\lambda=\log(\alpha^2/\sigma^2)$：$\lambda$ 相同的两个噪声调度只差 $x_t$ 的一个缩放。

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
# **看点。** 左图：VP、余弦和 DDPM 的表走的是同一段四分之一圆，Rectified Flow 走的是弦。右图：各走多快。DDPM 的表与 VP 重合，后者是它步数很多时的极限。两者大部分时间都在 $\lambda=0$ 以下，即噪声多于信号；余弦和 Rectified Flow 则对半分。

# %% [markdown]
# ## 得分指向哪里
#
# Tweedie 公式：$\sigma_t^2\,\nabla\log p_t(x)=\alpha_tE[x_0\mid x_t=x]-x$。噪声大时，不论 $x$ 在哪里，得分都指向（缩放后的）全体数据的均值；噪声小时，指向最近的峰。

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
# **看点。** 分布还是一团时，箭头（只画方向）汇于一点；三个峰分开时，箭头也分道扬镳：样本归哪个峰，就是在这中间决定的。

# %% [markdown]
# ## 同一个方程，许多种轨迹：ODE 与 SDE
#
# 对任意强度 $c\ge0$，反向过程
# $$dx=\Bigl[f_tx-\tfrac{1+c^2}{2}g_t^2\nabla\log p_t(x)\Bigr]dt+c\,g_t\,dw$$
# 的边缘分布都与前向过程相同。$c=0$ 是概率流ODE，$c=1$ 是反向SDE。

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
# **看点。** 轨迹从噪声（左，$t=1$）走到数据（右），一格比一格更粗糙，但都终止于同样三处（颜色表示峰），比例也一样。

# %%
for churn, x in ends.items():
    shares = np.bincount(nearest(x)) / count
    print(f"churn {churn}: mean {np.asarray(x, float).mean(0).round(2)}, shares {shares.round(2)}")

# %% [markdown]
# ## 泊松流与其他构造
#
# 一个 ODE 也可以由单个点的去向来构造：分布 $p_t(x\mid x_0)$ 与速度 $f_t(x\mid x_0)$，满足 $\partial_tp+\nabla\!\cdot(pf)=0$。有了数据就对它们做平均，$v(x,t)=E[f_t(x\mid x_0)\mid x_t=x]$。取高一维空间里电荷的场就是 PFGM（泊松流），取高斯就是扩散；特征线法则可以从任意先验出发。

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
# **看点。** 从先验到同样三个点的三种走法：先验分别是重尾分布、高斯和方块。颜色把平面切得各不相同，但每个点都收到自己的那一份。

# %% [markdown]
# ## 桥
#
# 桥从给定的 $y$ 出发，而不是从噪声出发：让过程以 $x_T=y$ 为条件（Doob 的 $h$ 变换），漂移项就多出 $g_t^2\nabla_x\log p(x_T=y\mid x_t=x)$。借助 DBIM，扩散模型的采样器可以原样拿来走。

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
# **看点。** 所有轨迹都从星号出发，终于三个峰。这里 $x_0$ 与 $y$ 相互独立，所以每个峰得到自己的权重；用成对数据训练的网络学到的则是 $p(x_0\mid y)$。

# %% [markdown]
# ## 薛定谔桥
#
# 两组没有配对的点：在从一组到另一组的所有过程中，薛定谔桥离终点方差为 $\varepsilon$ 的布朗运动最近。两个高斯分布之间它是已知的，$\mathrm{Cov}(x_0,x_1)=S_0^{1/2}HS_0^{-1/2}$，漂移也随之已知。这种桥的网络不知道 $y$。

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
# **看点。** 轨迹从右到左，颜色是起点的高度。噪声小时几乎是最优传输的直线，颜色的次序不变；噪声大时起点与终点几乎互不相识。两者的终点分布相同。

# %% [markdown]
# ## 应当成立的结论
#
# 每种走法的终点都符合它该有的分布：各峰的比例在四个标准差之内（每个为 $\sqrt{w(1-w)/n}$），三种强度的均值与混合分布自己的均值一致，峰的宽度也对。

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
