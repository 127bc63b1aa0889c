# %% [markdown]
# # 5. 似然、编码、插值、编辑、复原
#
# 训练好的去噪器还能做什么，而且不必再训练。为了有东西可对照，这里的“网络”是精确的：由真实数字拟合的高斯混合的后验均值，写成网络所见之物的函数，即 $x_t$ 和对数信噪比。也可以换成自己训练好的模型。

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
# ## 准备模型
#
# 在 VP 下 $\alpha^2=1/(1+e^{-\lambda})$，所以知道 $\lambda$ 就够了。

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
# ## 似然
#
# 沿着概率流ODE，密度按场的散度变化：
# $$\log p_0(x_0)=\log p_T(x_T)+\int_0^T\nabla\!\cdot v(x_t,t)\,dt .$$
# 这里的迹是精确计算的；维数更高时用 Hutchinson 估计 $\epsilon^\top\frac{\partial v}{\partial x}\epsilon$ 代替。

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
# ## 编码
#
# 把确定性采样器沿时间网格倒着走，就是编码器：每个数字对应一个噪声 $x_T$，再走下来便还原出数字，误差由采样器的阶数决定。

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
# **看点。** 第三行就是第一行。第二行里看不出数字：它接近标准正态噪声。

# %% [markdown]
# ## 插值
#
# 在两个噪声之间沿大圆走，每一处都解码。若走直线，中间的噪声方差会变小，就不再是采样器所认识的分布了。

# %%
weights = jnp.linspace(0, 1, 9)
arc = jax.vmap(lambda a, b: jax.vmap(lambda w: samplers.encoding.slerp(a, b, w))(weights))(z[:8:2], z[1:8:2])
between = decode(arc.reshape(-1, 8, 8, 1))
show(between, 9, "from one digit to another, on the great circle of their noises")

# %% [markdown]
# **看点。** 两端是被编码的数字。中间的也是数字，而不是两张图叠在一起。

# %% [markdown]
# ## 编辑
#
# SDEdit 把图片加噪到总时间的某个比例，再走回来。强度为 0 就是原图，为 1 就是全新的样本。

# %%
strengths = (0.1, 0.25, 0.4, 0.6)
edits = [run.edit(real[:10], strength, sampler="dpmpp_2m", nfe=20) for strength in strengths]
show(np.concatenate([real[:10], *(edit.x for edit in edits)]), 10, f"digits, and edits of strength {strengths}")

# %% [markdown]
# **看点。** 一行比一行留下得少：先变的是笔画，然后连数字也变了。

# %% [markdown]
# ## 复原
#
# $y=Ax_0$，$A$ 是线性的；这里遮住中间 2 x 4 个像素。TMPD 以 $y$ 为条件修正 $N(\hat x_0,\mathrm{Cov}[x_0\mid x_t])$，其中协方差来自去噪器自己的导数。

# %%
operator = run.operator({"name": "inpaint", "box": (3, 5, 2, 6)})
y = jax.vmap(operator)(real[:10])
fixed = run.restore(y, operator, seeds=10, by="tmpd", noise=0.02, nfe=20)
seen = operators.shown(operator, y, (8, 8, 1))
show(np.concatenate([real[:10], seen, fixed.x]), 10, "digits, what is seen of them, restored")

# %% [markdown]
# **看点。** 中间是补出来的，并与其余部分相配：如果看到的部分定不下是哪个数字，补出来的可能是另一个。

# %% [markdown]
# ## 应当成立的结论
#
# 密度与精确值一致，编码再解码能还原，弱的编辑比强的更接近原图，看到的部分保持不变，遮住的部分比用平均数字去补更接近真相。

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
