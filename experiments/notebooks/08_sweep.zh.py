# %% [markdown]
# # 8. 成批实验与它的表格
#
# 成批实验（sweep）在一个网格的每一点上训练，再在另一个网格的每一点上评估每次训练：换采样器、换步数都不必重新训练。它就是一个文件夹：做完的跳过，中断的继续，可以由几个进程或几台机器一起做。

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
# ## 配置
#
# 配置是一个 Python 文件，里面有一张表 `VARIANTS`。下面这个只写明与默认值不同的地方：数据、网络和训练长度；换成 `configs/` 里的任何一个也行。

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
# ## 评估时量什么
#
# 默认写一份完整的报告，包括 Frechet 距离。`measure` 可以换成别的，它拿到的是设好了采样器和步数的模型：这里取到留出点的切片 $W_2$。


# %%
def distance(run):
    held_out = run.data.held_out.gather(np.arange(1000)).x
    return {"w2": wasserstein.sliced(run.draw(1000), held_out)}


# %% [markdown]
# ## 成批实验
#
# 键与命令行的相同。两个学习率、几个种子，各训练一次；每次训练用两个采样器、两种步数来评估。

# %%
sweep = diffjax.Sweep(
    str(CONFIG),
    {"learning_rate.peak": [2e-4, 2e-3], "seed": [0, 1] if FAST else [0, 1, 2]},
    evaluate={"sampler.name": ["ddim", "dpmpp_2m"], "grid.n": [5, 20]},
    measure=distance,
    root=ROOT / "rates",
).run()

# %% [markdown]
# 每次训练都是一个普通的工作目录 `rates/train/ID`，日志和图都在里面：见其中的 `samples/step_*.png`。

# %% [markdown]
# ## 表格
#
# 加上 `over="seed"`，一行就是平均值与标准误。表格只由文件夹里的内容得出，谁都可以随时做：`sweeps.table(root, ["w2"], over="seed")`。

# %%
table = sweep.table(["w2"], over="seed")
table

# %%
display(Image(str(sweep.plot(x="grid.n", by=["learning_rate.peak", "sampler.name"], y="w2", over="seed"))))

# %% [markdown]
# **看点。** 看右边，两个采样器的步数都够了，学习率大的更低：训练这么短，小的学习率还没学会月牙。左边 DDIM 自己的误差把这一点盖住了；二阶采样器只用五步就看得出来。

# %% [markdown]
# ## 对函数做成批实验
#
# 不需要训练时，用一个函数代替配置：键是它的参数，返回值是表格的列。这里量采样器在精确去噪器上的误差，参照是很细的求解。

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
# **看点。** 三种阶数：右端的斜率约为一、二、三。

# %% [markdown]
# ## 应当成立的结论
#
# 每一点都做完了，再启动一次什么也不会重做，数值与理论相符。

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
