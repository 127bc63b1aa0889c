"""The words of the index of the series, docs/tools/series.py, in both languages."""

from typing import Any

WORDS: dict[str, dict[str, Any]] = {
    "en": {
        "title": "From an article to the code",
        "intro": r"""
The articles of Su Jianlin's series 生成扩散模型漫谈 by number, then some of their neighbours on kexue.fm by number:
what their equations say in our words, the file (and the symbol in it) that computes them, a command that runs that
file, and what was measured. `python docs/tools/series.py 9228` prints one article with its exact lines, with
`--lang=zh` in Chinese. [Notebook 7](../experiments/notebooks/07_from_article_to_code.ipynb) has for each article a
cell that runs and ends with an assertion. The symbols are those of [notation.md](notation.md): his $\bar\alpha_t$ is
our alpha, his $\bar\beta_t$ our sigma. This page is made by `python docs/tools/series.py --write` from tags in
docstrings.""",
        "head": "equation | what it says | file (symbol) | command | measured",
        "later": "Not yet",
        "note": "Articles without a line of code, and the family that they would belong to.",
        "short": "article | title | family",
        "card": "card",
        "command": "command",
        "absent": "not yet; its family: {}",
        "none": "not yet",
        "lines": "{} lines",
        "families": {},
    },
    "zh": {
        "title": "从文章到代码",
        "intro": r"""
先是苏剑林的“生成扩散模型漫谈”系列，再是科学空间（kexue.fm）上的若干相关文章，各按编号排列：
公式说了什么、由哪个文件（及其中的哪个函数）计算、怎样运行它、测得了什么。
`python docs/tools/series.py 9228 --lang=zh` 给出某一篇的准确行号。
[笔记本 7](../../experiments/notebooks/07_from_article_to_code.zh.ipynb) 对每一篇都有一个可运行的单元，以断言结尾。
记号见[记号表](notation.md)：他的 $\bar\alpha_t$ 就是这里的 alpha，他的 $\bar\beta_t$ 就是这里的 sigma。
本页由 `python docs/tools/series.py --write` 根据文档字符串中的标签生成。""",
        "head": "公式 | 内容 | 文件（符号） | 命令 | 实测",
        "later": "尚未实现",
        "note": "代码中还没有的文章，以及它们将属于的方法类别。",
        "short": "文章 | 标题 | 类别",
        "card": "卡片",
        "command": "命令",
        "absent": "尚未实现；类别：{}",
        "none": "尚未实现",
        "lines": "{} 行",
        "families": {
            "Schedules and time grids": "噪声调度与时间网格",
            "What is predicted, and the loss": "预测目标与损失",
            "Samplers": "采样器",
            "Diffusion trained end to end": "端到端训练的扩散模型",
            "Bridges, flows, couplings": "桥、流、配对",
            "Guidance and inverse problems": "条件控制与逆问题",
            "Variances": "方差",
            "Likelihood": "似然",
            "Other families": "其他类别",
            "Exact targets and theory": "精确目标与理论",
            "Training": "训练",
            "Judging samples": "样本的评判",
        },
    },
}
