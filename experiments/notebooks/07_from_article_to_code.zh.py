# %% [markdown]
# # 7. 从文章到代码
#
# 苏剑林的“生成扩散模型漫谈”系列一篇一篇地推导扩散模型。凡是代码里有其方法的文章，这里都有一格：一句话说文章讲了什么，接着几行代码把它跑起来。后面的格会用到前面的名字，每一格都以断言结尾：对照的是解析式、数值积分，或另一种推导。
#
# 文章中的 $\bar\alpha_t$ 就是这里的 $\alpha_t$，$\bar\beta_t$ 就是 $\sigma_t$，都是幅度：$x_t=\alpha_tx_0+\sigma_tz$。

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
import numpy as np

from diffjax import analytic, denoisers, grids, models, processes, samplers, schedules
from diffjax.samplers import ancestral
from diffjax.theory import constructions, generator, residuals

vp = schedules.VP()
mixture = analytic.gaussian_mixture([0.3, 0.7], [[-1.0, 0.0], [1.5, 0.5]], [0.05, 0.2])
log_p = lambda x, t: mixture.log_prob(x, *vp(t))  # of x_t, exactly
score = lambda x, t: mixture.score(x, *vp(t))
x, t, s = jnp.array([0.4, -0.2]), 0.5, 0.3  # a point, a time, and an earlier one
v = 0.25  # the variance of Gaussian data, where that is all there is
V = lambda t: vp(t)[0] ** 2 * v + vp(t)[1] ** 2  # that of its x_t

# %% [markdown]
# ## [5253](https://kexue.fm/archives/5253) 变分自编码器（一）：原来是这么一回事
#
# 解码器与编码器给出 $\log p(x)$ 的下界：重构项减去 $\mathrm{KL}(q(z\mid x)\,\|\,N(0,1))$，后者在 $q$ 为高斯时等于 $\frac12(m^2+v-1-\log v)$。
# 编码与解码都是线性的高斯情形，最优者即概率PCA，下界就等于 $\log p(x)$。

# %%
# kexue 5253
from diffjax import codecs
from diffjax.methods.autoencoder import divergence
from diffjax.types import Posterior

z, m, var = np.linspace(-12, 12, 4001), 0.7, 0.3
log_q = -((z - m) ** 2) / (2 * var) - np.log(2 * np.pi * var) / 2
log_ratio = log_q + z**2 / 2 + np.log(2 * np.pi) / 2
by_quadrature = np.sum(np.exp(log_q) * log_ratio) * (z[1] - z[0])
np.testing.assert_allclose(divergence(Posterior(jnp.float32(m), jnp.float32(var))), by_quadrature, rtol=1e-5)

root = np.linalg.cholesky(0.9 ** np.abs(np.subtract.outer(np.arange(6), np.arange(6))))
data = np.concatenate([root.T, -root.T]) * np.sqrt(11 / 2)  # twelve points of mean 0, whose covariance is root root'
codec, s2 = codecs.probabilistic(data, 2)  # the best linear autoencoder of two latents: probabilistic PCA
W, one = np.asarray(jax.jacobian(codec.decode)(jnp.zeros(2))), jnp.asarray(data[3], jnp.float32)
q = Posterior(codec.encode(one), codec.std(one) ** 2)
square = np.sum((data[3] - codec.decode(q.mean)) ** 2) + np.sum(W**2 * q.var)
bound = -(6 * np.log(2 * np.pi * s2) + square / s2) / 2 - divergence(q)
model = W @ W.T + s2 * np.eye(6)
log_density = -(np.linalg.slogdet(2 * np.pi * model)[1] + data[3] @ np.linalg.solve(model, data[3])) / 2
np.testing.assert_allclose(bound, log_density, atol=1e-4)

# %% [markdown]
# ## [5776](https://kexue.fm/archives/5776) 细水长flow之NICE
#
# 加性耦合把一半按另一半的函数平移：$\log|\det|=0$，最后一层再逐分量缩放。

# %%
# kexue 5776
from diffjax.methods import CouplingFlow

key = jax.random.key(0)
shaken = lambda k, a: a + 0.3 * jax.random.normal(jax.random.fold_in(key, k), a.shape)
one_map = models.of(models.MLP(width=8, depth=1))
nice = CouplingFlow(one_map, layers=2, bound=0.0)
params = {f"layer_{i}": jax.tree.map(lambda a: shaken(i, a), one_map.init(key, x, 0.0, {})) for i in range(2)}
image, log_det = jax.jit(nice.forward)({**params, "log_scale": jnp.array([0.5, -0.2])}, x)
np.testing.assert_allclose(log_det, 0.5 - 0.2, rtol=1e-6)
assert np.abs(image - x * np.exp([0.5, -0.2])).max() > 0.05

# %% [markdown]
# ## [5807](https://kexue.fm/archives/5807) 细水长flow之RealNVP与Glow
#
# 耦合层用 $x$ 的一半来变换另一半：求逆不费力气，雅可比矩阵是三角形的，$\log|\det|$ 只是求和。

# %%
# kexue 5807
from diffjax.methods import CouplingFlow

net = models.of(models.MLP(width=8, depth=1, outputs=2))
key = jax.random.key(0)
shaken = lambda k, a: a + 0.3 * jax.random.normal(jax.random.fold_in(key, k), a.shape)
flow = CouplingFlow(net, layers=2)
params = {f"layer_{i}": jax.tree.map(lambda a: shaken(i, a), net.init(key, x, 0.0, {})) for i in range(2)}
image, log_det = jax.jit(flow.forward)(params, x)
jacobian = jax.jit(jax.jacfwd(lambda x: flow.forward(params, x)[0]))(x)
np.testing.assert_allclose(log_det, np.linalg.slogdet(jacobian)[1], atol=1e-4)
np.testing.assert_allclose(flow.backward(params, image), x, atol=1e-5)

# %% [markdown]
# ## [6024](https://kexue.fm/archives/6024) 深度学习的互信息:无监督提取特征
#
# 打分函数分辨同一次采样的对与错配的对。最优打分是 $\log p(x,z)/(p(x)p(z))$，它的均值是 $2\,\mathrm{JSD}-2\log 2$：
# 只需样本就能算的下界，Deep InfoMax 就是在爬它。

# %%
# kexue 6024
from diffjax.losses import information

pairs = np.array([[3, 1], [1, 3]]) / 8  # p(x, z), and 1/4 apart
best = jnp.log(pairs / 0.25)
both = information.jensen_shannon(best[:, :, None, None], best[None, None])  # (x, z) of one draw, (x, z) of two
J = np.einsum("ij,ijkl->", pairs, np.asarray(both)) / 4
kl = lambda p, q: np.sum(p * np.log(p / q))
jsd = (kl(pairs, (pairs + 0.25) / 2) + kl(0.25 * np.ones((2, 2)), (pairs + 0.25) / 2)) / 2
np.testing.assert_allclose(J, 2 * jsd - 2 * np.log(2), atol=1e-6)
np.testing.assert_allclose(information.divergence(J), jsd, atol=1e-6)

# %% [markdown]
# ## [6583](https://kexue.fm/archives/6583) 从动力学角度看优化算法（四）：GAN的第三个阶段
#
# 数据在 0，假样本在 $\theta$，判别器为 $\varphi x$：饱和的游戏永远绕圈，对判别器斜率的惩罚（R1）使它静止，而同时下降的步长至多 $4\gamma$。

# %%
# kexue 6583
from diffjax.theory import gan_dynamics

start = gan_dynamics.Point(1.0, 1.0)
bare, calmed = gan_dynamics.game("saturating"), gan_dynamics.game("saturating", r1=0.5)
np.testing.assert_allclose(gan_dynamics.square(gan_dynamics.flow(bare, start, [0, 50, 100])), 2, rtol=1e-9)
assert gan_dynamics.square(gan_dynamics.flow(calmed, start, [0, 50, 100]))[-1] < 1e-9
np.testing.assert_allclose(gan_dynamics.largest_step(gan_dynamics.eigenvalues(calmed)), 2, rtol=1e-9)
assert gan_dynamics.square(gan_dynamics.orbit(bare, start, 0.1, 1000))[-1] > 2  # the step's own doing

# %% [markdown]
# ## [6705](https://kexue.fm/archives/6705) 漫谈重参数：从正态分布到Gumbel Softmax
#
# logits 加 Gumbel 噪声后最大者就是采到的 token；对同一个和取 softmax，梯度便能穿过；直通估计前向取 token，反向取这个梯度。

# %%
# kexue 6705
from diffjax import gumbel

logits = jnp.log(jnp.array([0.1, 0.2, 0.7]))
noisy = jax.vmap(gumbel.perturbed, (0, None))(jax.random.split(jax.random.key(0), 20_000), logits)
shares = np.bincount(np.argmax(noisy, -1), minlength=3) / 20_000
np.testing.assert_allclose(shares, [0.1, 0.2, 0.7], atol=4 * np.sqrt(0.25 / 20_000))
worth = lambda o: gumbel.straight_through(o, 0.5) @ jnp.array([1.0, 2.0, 4.0])
assert worth(noisy[0]) in (1.0, 2.0, 4.0)
assert np.abs(jax.grad(worth)(noisy[0])).max() > 0

# %% [markdown]
# ## [7038](https://kexue.fm/archives/7038) 从去噪自编码器到生成模型
#
# 去噪自编码器学到的是得分：$\alpha E[x_0\mid x_t]=x_t+\sigma^2\nabla\log p_t$。让它等于某个数的梯度，这个数就是 $-\log p_t$ 加常数，即能量。

# %%
# kexue 7038
from diffjax.denoisers import variance
from diffjax.models import scalar

exact, x_7038, (a_7038, sd_7038) = mixture.denoiser(vp), jnp.array([0.3, -0.2]), vp(0.4)
E, slope = exact.energy_gradient(x_7038, 0.4)
np.testing.assert_allclose(slope, jax.grad(exact.energy)(x_7038, 0.4), rtol=1e-4)
np.testing.assert_allclose(x_7038 - sd_7038**2 * slope, a_7038 * exact(x_7038, 0.4).mean, rtol=1e-3, atol=1e-5)
net = scalar.gradient(scalar.scalar(models.from_function(lambda params, x, c, given: params * x, 0.0), "inner"))
untrained = variance.energy(jax.tree_util.Partial(net.apply, jnp.zeros(())), vp, denoisers.Eps())
np.testing.assert_allclose(untrained.energy(x_7038, 0.4), x_7038 @ x_7038 / 2, rtol=1e-5)  # that of N(0, 1)

# %% [markdown]
# ## [9105](https://kexue.fm/archives/9105) 相对位置编码Transformer的一个理论缺陷与对策
#
# softmax 的每行之和为 1，token 全同时，不论 logits 上加什么，注意力处处相同。之后再乘 $C_{ij}=c_{i-j}$ 就能计数：

# %%
# kexue 9105
from diffjax.models import layers

offset = np.arange(5)[:, None] - np.arange(5)
queries, keys = np.eye(5)[:, None] * np.sqrt(5), -0.3 * np.abs(offset).T[:, None]  # logits -0.3 |i - j|
count = lambda C: np.ravel(layers.attention(jnp.asarray(queries), jnp.asarray(keys), jnp.ones((5, 1, 1)), factors=C))
np.testing.assert_allclose(count(None), 1, rtol=1e-6)
np.testing.assert_allclose(count(jnp.asarray(1 + offset[None] / 10)), [0.857779, 0.932577, 1, 1.067423, 1.142221], 1e-5)

# %% [markdown]
# ## [9119](https://kexue.fm/archives/9119) 生成扩散模型漫谈（一）：DDPM = 拆楼 + 建楼
#
# 拆楼一步一步来，$x_k=\alpha_kx_{k-1}+\beta_k\varepsilon$，$\alpha_k=\sqrt{1-0.02k/T}$；许多步合起来就是一步，系数是各 $\alpha_k$ 之积。建楼则是学习噪声。

# %%
# kexue 9119
from diffjax.tabulated import Tabulated

chain = Tabulated.kexue(1000)
product = np.prod(np.sqrt(1 - 0.02 * np.arange(1, 501) / 1000))
alpha, sigma = chain(0.5)
np.testing.assert_allclose([alpha, sigma], [product, np.sqrt(1 - product**2)], rtol=1e-5)
assert float(chain(1.0)[0]) < 0.01  # nothing is left of the building

# %% [markdown]
# ## [9138](https://kexue.fm/archives/9138) Ladder Side-Tuning：预训练模型的过墙梯
#
# 一个窄网络读取冻结网络的各块，$s_i=\mathrm{Block}_i(g_ih_iD_i+(1-g_i)s_{i-1})$，再加到最后一块上。反向传播不经过冻结的块：需要保留的量随抽头的个数增长，与深度无关。

# %%
# kexue 9138
from diffjax import models
from diffjax.models import side


def kept(depth, blocks):
    net = side.ladder(models.DiT(depth=depth, width=16, heads=2), width=4, where=blocks)
    image, told = jnp.ones((8, 8, 1)), jnp.zeros(())
    shapes = jax.eval_shape(net.init, jax.random.key(0), image, told)
    frozen = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), shapes["base"])
    return models.residual_bytes(lambda own: net.apply({"base": frozen, "side": own}, image, told), shapes["side"])


assert kept(2, "block_(0|1)$") == kept(4, "block_(1|3)$")
assert kept(2, "") < kept(4, "")

# %% [markdown]
# ## [9147](https://kexue.fm/archives/9147) “维度灾难”之Hubness现象浅析
#
# 高维空间里，有些点会成为许多其他点的近邻。正态噪声中的这些点就是范数小的点：挑选它们，就是降温。

# %%
# kexue 9147
from diffjax.metrics import hubness

pool = np.random.default_rng(0).normal(size=(1000, 64))
assert hubness.counts(pool, 10).mean() == 10
kept = pool[hubness.hubs(pool, 10, most=100)]
assert np.linalg.norm(kept, axis=1).mean() < np.linalg.norm(pool, axis=1).mean()
assert 0.6 < hubness.shrunk(kept, pool) < 0.85

# %% [markdown]
# ## [9152](https://kexue.fm/archives/9152) 生成扩散模型漫谈（二）：DDPM = 自回归式VAE
#
# 整条链的联合KL散度拆成逐步的各项，每一项是两个方差相同的高斯的KL：均值误差的平方除以两倍方差，也就是 $x_0$ 误差的平方乘以这一步信噪比增量的一半。

# %%
# kexue 9152
from diffjax.losses.variational import kl

rows = ancestral.ddpm(vp).plan(np.array([t, s]))
snr = lambda t: float((vp(t)[0] / vp(t)[1]) ** 2)
x0, guess = 0.8, 0.5
by_hand = (rows.mean[0] * (x0 - guess)) ** 2 / (2 * rows.noise_var[0])
np.testing.assert_allclose(kl(Posterior(guess, 0.0), snr(s) - snr(t), x0), by_hand, rtol=1e-4)

from diffjax.theory import hierarchy  # the whole chain as an autoencoder of 50 latents, on x_0 ~ N(0, v)

terms = hierarchy.chain_terms(vp, grids.uniform(vp, n=50, t_min=0.0), v)
entropy = np.log(2 * np.pi * np.e * v) / 2
mismatch = (V(1.0) - 1 - np.log(V(1.0))) / 2  # KL(q(x_T) || N(0, 1)): all that exact variances lose
np.testing.assert_allclose(terms.total, entropy + mismatch, atol=1e-6)

# %% [markdown]
# ## [9164](https://kexue.fm/archives/9164) 生成扩散模型漫谈（三）：DDPM = 贝叶斯 + 去噪
#
# 由贝叶斯公式得到高斯分布 $q(x_s\mid x_t,x_0)$，再把预测的 $x_0$ 代进去。对 $(x_s,x_t)$ 的联合高斯取条件，就得到这一步的三个系数。

# %%
# kexue 9164
(a_s, sd_s), (a_t, sd_t) = (np.float64(vp(s)), np.float64(vp(t)))
gain = (a_t / a_s) * sd_s**2 / sd_t**2  # Cov(x_s, x_t) / Var(x_t), given x_0
rows = ancestral.ddpm(vp).plan(np.array([t, s]))
np.testing.assert_allclose(rows.x, gain, rtol=1e-5)
np.testing.assert_allclose(rows.mean, a_s - gain * a_t, rtol=1e-5)
np.testing.assert_allclose(rows.noise_var, sd_s**2 - gain * (a_t / a_s) * sd_s**2, rtol=1e-5)

# %% [markdown]
# ## [9181](https://kexue.fm/archives/9181) 生成扩散模型漫谈（四）：DDIM = 高观点DDPM
#
# 只要求边缘分布不变，就剩下一族解，每步的噪声 $\nu$ 可以任选：$x_s=\alpha_sx_0+\sqrt{\sigma_s^2-\nu^2}\,\varepsilon+\nu z$。$\eta=1$ 是 DDPM，$\eta=0$ 是 DDIM，它是确定性的，可以用来编码。

# %%
# kexue 9181
for eta in (0.0, 0.5, 1.0):
    rows = ancestral.ddim(vp, eta).plan(np.array([t, s]))
    np.testing.assert_allclose(rows.x * vp(t)[0] + rows.mean, vp(s)[0], rtol=1e-5)  # of x_0
    np.testing.assert_allclose(rows.x**2 * vp(t)[1] ** 2 + rows.noise_var, vp(s)[1] ** 2, rtol=1e-5)  # of the noise
assert ancestral.ddim(vp, 0.0).plan(np.array([t, s])).noise_var[0] == 0

# %% [markdown]
# ## [9209](https://kexue.fm/archives/9209) 生成扩散模型漫谈（五）：一般框架之SDE篇
#
# $dx=f\,dt+g\,dw$ 的边缘分布就是噪声调度所说的那些，而 $dx=[f-g^2\nabla\log p_t]\,dt+g\,dw$ 把它们倒着走一遍。分布是否属于某个SDE，看 Fokker-Planck 方程的残差是否为 0。

# %%
# kexue 9209
forward = generator.forward(vp)
backward = generator.time_reversal(forward, score, vp.t_max)
missed = jax.jit(residuals.fokker_planck, static_argnums=(0, 1))
assert abs(float(missed(log_p, forward, x, t))) < 1e-3
reversed_p = lambda x, r: log_p(x, vp.t_max - r)
assert abs(float(missed(reversed_p, backward, x, vp.t_max - t))) < 1e-3
other = generator.forward(schedules.VP(beta_max=10.0))  # its noise is another one
assert abs(float(missed(log_p, other, x, 0.2))) > 0.1

# %% [markdown]
# ## [9228](https://kexue.fm/archives/9228) 生成扩散模型漫谈（六）：一般框架之ODE篇
#
# Fokker-Planck 方程不管噪声怎么分：任何强度的边缘分布都一样。强度为 0 时，SDE 变成 ODE：$dx=[f-\frac12g^2\nabla\log p_t]\,dt$，密度按它的散度变化。

# %%
# kexue 9228
velocity = generator.probability_flow(forward, score)
assert abs(float(jax.jit(residuals.continuity, static_argnums=(0, 1))(log_p, velocity, x, t))) < 1e-3
for churn in (0.0, 0.5, 2.0):
    family = generator.time_reversal(forward, score, vp.t_max, churn)
    assert abs(float(missed(reversed_p, family, x, vp.t_max - t))) < 1e-3

# %% [markdown]
# ## [9245](https://kexue.fm/archives/9245) 生成扩散模型漫谈（七）：最优扩散方差估计（上）
#
# $p(x_0\mid x_t)$ 的最优方差，由全方差公式只用预测的均值就能得到：$\mathrm{Var}[x_0]-E\|\hat x_0-Ex_0\|^2/d$。数据为高斯时它等于 $v\sigma^2/(\alpha^2v+\sigma^2)$。

# %%
# kexue 9245
from diffjax.denoisers import moments

gaussian = analytic.gaussian_mixture([1.0], np.zeros((1, 64)), [v])
examples = {"x": np.sqrt(v) * np.random.default_rng(0).normal(size=(512, 64)).astype(np.float32)}
exact = lambda example: gaussian.denoiser(vp)
found = moments.measure(exact, processes.Gaussian(vp), jax.random.key(0), examples, [s, t])
best = np.array([v * float(vp(t)[1] ** 2 / V(t)) for t in (s, t)])
# 512 x 64 squares: a relative standard error of sqrt(2 / 32768) = 0.008 in each mean, larger in what is subtracted
np.testing.assert_allclose(found.spread, best, atol=6 * 0.008 * v)

# %% [markdown]
# ## [9246](https://kexue.fm/archives/9246) 生成扩散模型漫谈（八）：最优扩散方差估计（下）
#
# 均值有误差时，最优方差要加上这个误差：在数据上量出*模型自己的*均值差了多少，不论模型如何都是对的；用噪声或均值的离散程度来估计就不对了。下面把均值缩小一成：


# %%
# kexue 9246
class Shrunk:
    schedule = vp

    def __call__(self, x, t):
        return Posterior(0.9 * gaussian.denoiser(vp)(x, t).mean)


wrong = moments.measure(lambda example: Shrunk(), processes.Gaussian(vp), jax.random.key(0), examples, [0.1])
best = v * vp(0.1)[1] ** 2 / V(0.1)
of_means = v - best  # the variance of the right means
np.testing.assert_allclose(wrong.error[0], best + 0.1**2 * of_means, rtol=0.05)
assert wrong.spread[0] > 1.1 * wrong.error[0]

# %% [markdown]
# ## [9257](https://kexue.fm/archives/9257) 生成扩散模型漫谈（九）：条件控制生成结果
#
# 还是贝叶斯公式：$\nabla\log p(x_t\mid y)=\nabla\log p(x_t)+\nabla\log p(y\mid x_t)$，分类器把全体数据的去噪器变成某一类的去噪器。分类器精确时，得到的正是那一类的精确去噪器。

# %%
# kexue 9257
from diffjax.denoisers import guidance

second = analytic.gaussian_mixture([1.0], [[1.5, 0.5]], [0.2])
classifier = lambda x, t: jnp.log(0.7) + second.log_prob(x, *vp(t)) - log_p(x, t)  # log p(y | x_t)
guided = guidance.tilted(mixture.denoiser(vp), classifier)
np.testing.assert_allclose(guided(x, t).mean, second.denoiser(vp)(x, t).mean, atol=1e-4)

# %% [markdown]
# 条件也可以是词：`data.Vocabulary` 把词变成 token，由 transformer 读取（`configs/captioned.py:text`）。它应当学到 $E[x_0\mid x_t,\text{words}]$，即对描述中含有这些词的样本取平均；没有文本时对全体取平均。两个词各自的均值相加，并不等于两个词一起的均值。

# %%
from diffjax.data import Vocabulary
from diffjax.denoisers import composition

vocabulary = Vocabulary(words=("big", "blue", "red", "round"), length=2)
items = {"red round": (0.4, [-1.5, 0.5]), "big red": (0.2, [-1.0, -1.0]), "blue round": (0.4, [1.0, 1.2])}


def told(text):  # E[x_0 | x_t, words]: the mixture of the items that have them all
    asked = set(vocabulary.text(vocabulary.tokens(text)).split())
    weights, means = zip(*(item for name, item in items.items() if asked <= set(name.split())))
    return analytic.gaussian_mixture(weights, means, [0.04] * len(means)).denoiser(vp)


weights = jnp.exp(-0.5 * jnp.sum((x - jnp.stack([vp(t)[0] * jnp.asarray(m) for _, m in items.values()])) ** 2, 1)
                  / (0.04 * vp(t)[0] ** 2 + vp(t)[1] ** 2)) * jnp.asarray([w for w, _ in items.values()])  # fmt: skip
of = jnp.stack([told(name)(x, t).mean for name in items])
for text, rows in {"red": [0, 1], "round": [0, 2], "": [0, 1, 2]}.items():  # Bayes over the items, written out
    share = weights[np.array(rows)] / weights[np.array(rows)].sum()
    np.testing.assert_allclose(told(text)(x, t).mean, share @ of[np.array(rows)], atol=1e-5)
composed = composition.Weighted((told(""), told("red"), told("round")), (-1.0, 1.0, 1.0))(x, t).mean
assert jnp.max(jnp.abs(composed - told("red round")(x, t).mean)) > 0.05  # words do not add up

# %% [markdown]
# ## [9262](https://kexue.fm/archives/9262) 生成扩散模型漫谈（十）：统一扩散模型（理论篇）
#
# 怎样破坏都可以：先从 $p(x_0\mid x_t)$ 里*采样*来预估 $x_0$，再破坏一次，但破坏得少些。破坏所用的噪声，可以是走到这里的那份、全新的，或者各占一部分（`samplers.unified`）。对所有 $x_t$ 从 $p(x_0\mid x_t)$ 采样，得到的就是数据的分布，与噪声换新的比例无关；若用均值代替采样，样本就偏窄。

# %%
# kexue 9262
line = analytic.gaussian_mixture([1.0], [[0.0]], [v])
keys = jax.random.split(jax.random.key(2), 4000)
x_T = jnp.sqrt(V(vp.t_max)) * jax.random.normal(jax.random.key(1), (4000, 1))


def spread(share, estimate):  # of samples in ten steps, over that of data
    sampler = samplers.unified(processes.Gaussian(vp), share, estimate)
    walk = jax.vmap(samplers.sampling_fn(sampler, grids.uniform(vp, 10)), in_axes=(None, 0, 0))
    return float(jax.jit(walk)(line.denoiser(vp, with_var=True), keys, x_T).std() / np.sqrt(v))


for share in (0.0, 0.5, 1.0):  # the noise that led here; half of it; none
    assert abs(spread(share, "sample") - 1) < 4 / np.sqrt(2 * 4000)
    assert spread(share, "mean") < 0.95

# %% [markdown]
# ## [9271](https://kexue.fm/archives/9271) 生成扩散模型漫谈（十一）：统一扩散模型（应用篇）
#
# 先预估再修正，用 DDIM 那一族的步子：只要 $x_0$ 是采样得来的，族中每个成员、每种步长都精确保持边缘分布。数据为高斯时，这只是系数之间的代数恒等式。冷扩散：完全模糊后每个通道只剩一个数，不换新噪声的修正是 $x_s=x_t+D_s(\hat x_0)-D_t(\hat x_0)$。

# %%
# kexue 9271
(slope,), (left,) = line.denoiser(vp, with_var=True)(jnp.array([1.0]), t)  # E[x_0 | x_t = 1], Var[x_0 | x_t]
for eta in (0.0, 0.5, 1.0):
    rows = ancestral.ddim(vp, eta).plan(np.array([t, s]))
    variance = (rows.x + rows.mean * slope) ** 2 * V(t) + rows.mean**2 * left + rows.noise_var
    np.testing.assert_allclose(variance, V(s), rtol=1e-4)

blur, image = processes.cold.blur(), jax.random.normal(jax.random.key(4), (8, 8, 1))
np.testing.assert_allclose(blur.degrade(image, 1.0), jnp.full((8, 8, 1), image.mean()), atol=0.05)
restore = denoisers.denoiser(lambda x, c: jnp.tanh(x), blur.schedule, denoisers.X0())
step = samplers.sampling_fn(samplers.unified(blur, estimate="mean"), [t, s])
x_0 = restore(image, t).mean
corrected = image + blur.degrade(x_0, s) - blur.degrade(x_0, t)
np.testing.assert_allclose(step(restore, jax.random.key(0), image), corrected, atol=1e-5)

# %% [markdown]
# 文本编辑：恰好有 $t$ 个词是错的。每步改对一个，以概率 $p(x_{0,i}=v\,|\,x_t)/t$ 把第 $i$ 个词改成 $v$；只需要边缘分布，这些概率之和为 1。

# %%
# kexue 9271
from diffjax import processes
from diffjax.samplers import edits
from diffjax.schedules import Counted
from diffjax.types import Categorical

editing, x_0 = processes.editing(Counted(6), 4), jnp.array([0, 1, 2, 3, 0, 1])
x_3 = editing.corrupt(x_0, editing.noise(jax.random.key(3), x_0), 3)
assert (x_3 != x_0).sum() == 3
known = Categorical(jnp.log(jax.nn.one_hot(x_0, 4)))  # x_0 is known: the pair is one of the three places
pairs = edits.pairs(known, x_3).probs.reshape(6, 4)
np.testing.assert_allclose(pairs.sum(1), np.where(x_3 != x_0, 1 / 3, 0.0), rtol=1e-6)
assert abs(edits.total(known, x_3, 3) - 1) < 1e-6

# %% [markdown]
# 离散符号：用遮住来破坏，由已见的符号预估每个被遮的符号，揭开一个，再继续。条件分布精确时，无论顺序如何，样本都服从联合分布。

# %%
# kexue 9271
joint = jnp.array([[0.1, 0.4], [0.3, 0.2]])  # of two tokens
of_first = jnp.vstack([joint.T, joint.sum(1)])  # row 2: the other one is hidden
of_second = jnp.vstack([joint, joint.sum(0)])
exact = lambda x, c: jnp.log(jnp.stack([of_first[x[1]], of_second[x[0]]]))
hiding = processes.categorical.masked(schedules.Rectified(), vocabulary=2)
known = denoisers.categorical.Known(exact, hiding, denoisers.categorical.Whole())
one_by_one = samplers.sampling_fn(samplers.decoding.random(hiding), [1.0, 0.5, 0.0])
opened = jax.jit(jax.vmap(lambda key: one_by_one(known, key, jnp.array([2, 2]))))(jax.random.split(keys[0], 20_000))
shares = np.bincount(np.asarray(opened) @ [2, 1], minlength=4) / 20_000
np.testing.assert_allclose(shares, np.ravel(joint), atol=0.015)

# %% [markdown]
# 也可以在 token 的向量 $E$ 上加实数噪声：已知的是 token 上的分布，单个位置时由贝叶斯公式给出；采到的 token 以 $E(\hat x_0)$ 修正。

# %%
from diffjax.codecs import Codec
from diffjax.types import Categorical

E, prior = jnp.array([[1.0, 0.0], [-0.6, 0.8], [0.0, -1.0]]), jnp.array([0.5, 0.3, 0.2])
process = processes.Encoded(processes.Gaussian(vp), Codec(lambda x: E[x], lambda code: code))
key_x, key_z, key_new = jax.random.split(jax.random.key(3), 3)
x_0 = Categorical(jnp.log(prior)).sample(key_x, (20_000,))
x_t = process.corrupt(x_0, process.noise(key_z, x_0), t)
logits = jnp.log(prior)[None] - jnp.sum((x_t[:, None] - vp(t)[0] * E[None]) ** 2, -1) / (2 * vp(t)[1] ** 2)
drawn = Categorical(logits).sample(key_new)
x_s = process.corrupt(drawn, process.invert(key_z, drawn, x_t, t), s)
np.testing.assert_allclose(x_s.mean(0), vp(s)[0] * prior @ E, atol=4 / np.sqrt(20_000))

# %% [markdown]
# ## [9280](https://kexue.fm/archives/9280) 生成扩散模型漫谈（十二）：“硬刚”扩散ODE
#
# 不经过SDE：取 $v=-\dot\sigma\sigma\nabla\log p_t$，连续性方程就成了热传导方程，它用高斯来平滑。$\alpha$ 由缩放补回来。

# %%
# kexue 9280
from diffjax.theory import heat

level = lambda t: t
smoothed = lambda x, t: mixture.log_prob(x, 1.0, t)
field = heat.flow(lambda x, t: mixture.score(x, 1.0, t), level)
both = jax.jit(lambda x, t: (heat.residual(smoothed, level, x, t), residuals.continuity(smoothed, field, x, t)))
np.testing.assert_allclose(both(x, t), 0.0, atol=1e-3)

# %% [markdown]
# ## [9305](https://kexue.fm/archives/9305) 生成扩散模型漫谈（十三）：从万有引力到扩散模型
#
# 把数据看作高一维空间（多出的坐标为 $z$）里的质点：$\sum_i(x_i-x)/r_i^{d+1}$ 的场线从远处通向数据，$dx/dz=E_x/E_z$。

# %%
# kexue 9305
from diffjax.losses.poisson import batch_field
from diffjax.theory import green

points, z = np.array([[1.0, 0.0], [-1.0, 0.5], [0.0, -1.0]]), 0.7
gaps = np.concatenate([points - np.asarray(x), np.full((3, 1), -z)], 1)
pull = (gaps / np.linalg.norm(gaps, axis=1, keepdims=True) ** 3).sum(0)
mine = batch_field(x, z, jnp.asarray(points, jnp.float32), gamma=0.0)
np.testing.assert_allclose(mine.x / mine.z, pull[:2] / pull[2], rtol=1e-4)
law = constructions.marginal(green.SpaceTimeIsotropic(), points)
np.testing.assert_allclose(law.velocity(x, z), pull[:2] / pull[2], rtol=1e-4)

# %% [markdown]
# ## [9370](https://kexue.fm/archives/9370) 生成扩散模型漫谈（十四）：构建ODE的一般步骤（上）
#
# 对单个点给出一个分布 $p_t(x\mid x_0)$ 和与之相配的速度，使 $\partial_tp+\nabla\!\cdot(pf)=0$，再用数据做平均。可选的分布很多：电荷的场、高斯、任何只依赖距离的分布。

# %%
# kexue 9370
origin = jnp.zeros(2)
for one in (green.SpaceTimeIsotropic(), green.SpaceIsotropic(lambda t: t), green.tanh(), green.exponential()):
    mixed = constructions.marginal(one, points)
    of_one = jax.jit(lambda x, t: constructions.residual(one, x, origin, t))
    of_all = jax.jit(lambda x, t: residuals.continuity(mixed.log_prob, mixed.velocity, x, t))
    assert abs(float(of_one(x, t))) < 1e-3
    assert abs(float(of_all(x, t))) < 1e-3

# %% [markdown]
# ## [9379](https://kexue.fm/archives/9379) 生成扩散模型漫谈（十五）：构建ODE的一般步骤（中）
#
# 或者先给出从 $x_0$ 到 $x_T$ 的轨迹（特征线），终点可以是任意先验。文中的例子：数据是 0.5（两次）、1.2、1.7，先验在 $[0,2]$ 上均匀。一半的起点应当终于 0.5。

# %%
# kexue 9379
from diffjax.theory import characteristics

even = characteristics.uniform(0.0, 2.0)
model = constructions.marginal(even, [[0.5], [0.5], [1.2], [1.7]]).denoiser(schedules.EDM(1.0))
walk = samplers.sampling_fn(ancestral.ddim(model.schedule), grids.karras(schedules.EDM(1.0), 400))
starts = jnp.asarray((np.arange(1000) + 0.5) / 500, jnp.float32)[:, None]
ends = np.asarray(jax.jit(jax.vmap(lambda x: walk(model, jax.random.key(0), x)))(starts))
nearest = np.abs(ends - np.array([[0.5, 1.2, 1.7]])).argmin(1)
np.testing.assert_allclose(np.bincount(nearest) / 1000, [0.5, 0.25, 0.25], atol=0.01)

# %% [markdown]
# ## [9461](https://kexue.fm/archives/9461) 测试函数法推导连续性方程和Fokker-Planck方程
#
# 连续性方程和 Fokker-Planck 方程都可由测试函数得到：对一切 $\phi$ 有 $\frac{d}{dt}E\phi(x_t)=E[L\phi]$，再分部积分，$\int(L\phi)\,p\,dx=\int\phi\,(L^*p)\,dx$。取 $\phi=\sin$，用数值积分验证：

# %%
# kexue 9461
p = lambda x: jnp.exp(-jnp.sum((x - 0.3) ** 2) / 2) / jnp.sqrt(2 * jnp.pi)
phi = lambda x: jnp.sin(x[0])
over = jnp.linspace(-9, 9, 2001)[:, None]
of_phi = jax.jit(jax.vmap(lambda x: generator.generator(forward, phi, x, t) * p(x)))(over)
of_p = jax.jit(jax.vmap(lambda x: phi(x) * generator.adjoint(forward, p, x, t)))(over)
np.testing.assert_allclose(of_phi.sum() * 0.009, of_p.sum() * 0.009, rtol=1e-3)
assert abs(float(of_phi.sum() * 0.009)) > 0.1

# %% [markdown]
# ## [9467](https://kexue.fm/archives/9467) 生成扩散模型漫谈（十六）：W距离 $\le$ 得分匹配
#
# 模型的场差多少，按它的流拉伸的快慢加权，就给出所生成分布的 $W_2$ 的上界。都取高斯时两边都知道：数据为 $N(0,v)$，模型以为它是 $N(0.2,1.2v)$。

# %%
# kexue 9467
from diffjax.theory import wasserstein_bound

truth = generator.probability_flow(forward, lambda x, t: -x / V(t))
taken = lambda t: vp(t)[0] ** 2 * 1.2 * v + vp(t)[1] ** 2
model = generator.probability_flow(forward, lambda x, t: -(x - 0.2 * vp(t)[0]) / taken(t))
rule = wasserstein_bound.gauss_legendre(1.0, 16, t_min=1e-3)
w2 = lambda t: float(np.hypot(0.2 * vp(t)[0], np.sqrt(taken(t)) - np.sqrt(V(t))))
xs = jax.vmap(lambda t: wasserstein_bound.cubature(jnp.zeros(1), V(t) * jnp.eye(1)))(jnp.asarray(rule.ts, jnp.float32))
prior = w2(1.0)
bound = jax.jit(lambda xs: wasserstein_bound.bound(truth, model, xs, rule, prior).total)(xs)
print(f"W2 {w2(1e-3):.4f} <= {float(bound):.4f}")
assert w2(1e-3) <= float(bound) < 1.5 * w2(1e-3)

# %% [markdown]
# ## [9497](https://kexue.fm/archives/9497) 生成扩散模型漫谈（十七）：构建ODE的一般步骤（下）
#
# 在 $x_0$ 与 $z$ 之间选一条路径，用速度去回归它的切线。两端独立、路径为直线时，流是弯的：对 $N(0,v)$，弯曲程度为 $\int\mathrm{Var}[z-x_0\mid x_t]\,dt=\frac\pi2\sqrt v$。用流自己产生的配对再训练一次（ReFlow），流就直了。

# %%
# kexue 9497
from diffjax.theory.straightness import straightness

total = lambda t: (1 - t) ** 2 * v + t**2
bent = lambda x, t: (t - (1 - t) * v) / total(t) * x  # E[z - x_0 | x_t = x]
x0, z = (jax.random.normal(jax.random.key(i), (4000, 1)) for i in (3, 4))
found = float(straightness(bent, np.sqrt(v) * x0, z))
np.testing.assert_allclose(found, np.pi / 2 * np.sqrt(v), rtol=0.06)
straight = lambda x, t: (1 - np.sqrt(v)) / ((1 - t) * np.sqrt(v) + t) * x  # the flow of the pairs (sqrt(v) z, z)
assert float(straightness(straight, np.sqrt(v) * z, z)) < 1e-8

# %% [markdown]
# ## [9509](https://kexue.fm/archives/9509) 生成扩散模型漫谈（十八）：得分匹配 = 条件得分匹配
#
# 要学的得分不知道，但 $p(x_t\mid x_0)$ 的得分知道，是 $-z/\sigma$；两种损失的均值只差一个与所学的得分无关的常数，$\frac{\alpha^2}{2\sigma^4}E\,\mathrm{Var}[x_0\mid x_t]$。随便取一个错误的得分，对 $z$ 做数值积分：

# %%
# kexue 9509
from diffjax.losses import score_matching

two = analytic.gaussian_mixture([0.5, 0.5], [[-1.0], [1.0]], [0.0, 0.0])
nodes, weights = np.polynomial.hermite_e.hermegauss(80)
zs, weights = jnp.asarray(nodes, jnp.float32)[:, None], weights / weights.sum()
wrong = lambda x: -jnp.sin(x)
at = lambda z: vp(t)[0] * jnp.ones(1) + vp(t)[1] * z  # x_0 = 1; the other half is its mirror image
each = lambda one: jax.jit(jax.vmap(one))(zs)
known = each(lambda z: score_matching.denoising(wrong, processes.Gaussian(vp), jnp.ones(1), z, t))
sought = each(lambda z: score_matching.explicit(wrong, lambda x: two.score(x, *vp(t)), at(z)))
gap = each(lambda z: score_matching.gap(two.denoiser(vp, with_var=True)(at(z), t), vp, t))
np.testing.assert_allclose(weights @ (known - sought), weights @ gap, rtol=1e-3)

# %% [markdown]
# ## [9595](https://kexue.fm/archives/9595) 如何度量数据的稀疏程度？
#
# 少数分量承担大部分时，范数之比就小；对注意力的一行，它说出这一行关注了多少个 token：$nS^2=1/\sum_i a_i^2$。

# %%
# kexue 9595
from diffjax.metrics import sparsity

row = np.array([0.7, 0.1, 0.1, 0.1])
np.testing.assert_allclose(4 * sparsity.evenness(row) ** 2, 1 / np.sum(row**2), rtol=1e-12)
np.testing.assert_allclose(sparsity.evenness(np.tile(row, 3)), sparsity.evenness(row), rtol=1e-12)  # clones
assert sparsity.evenness([0.6, 0.2, 0.1, 0.1]) > sparsity.evenness(row)  # Robin Hood
normal = sparsity.evenness(np.random.default_rng(0).normal(size=(4000, 64)))
np.testing.assert_allclose(normal.mean(), sparsity.gaussian(64), atol=5 * normal.std() / 4000**0.5)

# %% [markdown]
# ## [9662](https://kexue.fm/archives/9662) 生成扩散模型漫谈（十九）：作为扩散ODE的GAN
#
# 记 $d=\log p/q$，则对任何增函数 $h$，点按 $\nabla h(d)$ 运动就把 $q$ 推向 $p$：$\frac{d}{d\tau}\mathrm{KL}(q\,\|\,p)=-E_q[h'(d)\|\nabla d\|^2]$。这里 $q=N(1,1)$，$p=N(0,1)$，于是 $d=\frac12-x$；取 $h=d$ 时均值以速率 1 下降，而 KL $=m^2/2$。

# %%
# kexue 9662
from scipy.stats import norm

from diffjax.methods import generators

q = 1 + norm.ppf((np.arange(2000) + 0.5) / 2000)
ratio = lambda x: 0.5 - x
for name, h in generators.H.items():
    moves = np.asarray(jax.vmap(jax.grad(lambda x: h(ratio(x))))(jnp.asarray(q, jnp.float32)), float)
    moved = q + 0.01 * moves
    fitted = (moved.mean() ** 2 + moved.var() - 1 - np.log(moved.var())) / 2
    assert np.all(moves < 0), name
    assert fitted < 0.5 - 0.001, (name, fitted)
    if name == "kl":
        np.testing.assert_allclose((0.5 - fitted) / 0.01, 1.0, atol=0.02)

# %% [markdown]
# ## [10958](https://kexue.fm/archives/10958) 生成扩散模型漫谈（三十）：从瞬时速度到平均速度
#
# 从 $t$ 到 $r$ 的平均速度 $u$ 只求值一次就把噪声变成数据；它满足 $u=v-(t-r)\frac{du}{dt}$，MeanFlow 回归的就是它。数据为 $N(0,v)$、路径为直线时，流只是缩放，$u$ 已知：

# %%
# kexue 10958
from diffjax.denoisers import Velocity
from diffjax.denoisers.flow_map import TwoTime
from diffjax.losses.flow_map import eulerian
from diffjax.schedules import Rectified

scale = lambda t: jnp.sqrt((1 - t) ** 2 * v + t**2)
u = lambda x, t, r: x * (1 - scale(r) / scale(t)) / (t - r)
now, then = jnp.float32(0.8), jnp.float32(0.2)
instant = x * jax.grad(scale)(now) / scale(now)


class Exact(TwoTime):
    def predict(self, x, t, r):
        return u(x, t, r)


flow = Exact(None, Rectified(), Velocity())
said, aim = eulerian(flow, x, now, then, instant)
np.testing.assert_allclose(said, aim, atol=1e-5)
np.testing.assert_allclose(flow.land(x, now, then), x * scale(then) / scale(now), rtol=1e-5, atol=1e-6)
