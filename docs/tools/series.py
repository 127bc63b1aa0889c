"""Finds the articles of Su Jianlin's series (kexue.fm) in the code, by the tags in docstrings of diffjax/:

    python docs/tools/series.py            # every article: what is here, what is not yet
    python docs/tools/series.py 9228       # one article: equation, what it says, file:line (symbol), command, measured
    python docs/tools/series.py --write    # docs/series.md and docs/zh/series.md, which tests hold to this

A tag is `kexue 9164 (6)`, equation 6 of article 9164, or `kexue 9164` where the article has no number for it. Titles,
and what each equation says in Chinese, are in docs/series.toml. It reads text alone and imports no jax.
"""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cards
import listings

ROOT = Path(__file__).resolve().parents[2]
ONE = r"(\d{3,5})(?: \((\d+(?:, \d+)*)\))?"
TAG = re.compile(rf"kexue {ONE}(?:, {ONE})*")
URL = "https://kexue.fm/archives/"
PAGES = {"en": "docs/series.md", "zh": "docs/zh/series.md"}


class Tag(NamedTuple):
    """A line of a docstring that names an equation of an article; `equation` is None where it names the article."""

    article: int
    equation: int | None
    says: str
    path: str
    line: int
    symbol: str


class Article(NamedTuple):
    """An article: its titles, its family here, whether it exists in the code, what its equations say in Chinese."""

    number: int
    zh: str
    en: str
    family: str
    here: bool
    says: dict[str, str]


class Row(NamedTuple):
    """What the index says of one tag: the tag, a command, what was measured, the card (its file's name) or None."""

    tag: Tag
    command: str
    measured: str
    card: str | None


def articles(root: Path = ROOT) -> dict[int, Article]:
    """Reads docs/series.toml: number -> article, in the order of the file."""
    table = tomllib.loads((root / "docs/series.toml").read_text())
    make = lambda number, of: Article(number, of["zh"], of["en"], of["family"], of["here"], of.get("says", {}))
    return {int(number): make(int(number), of) for number, of in table.items()}


def tags(root: Path = ROOT) -> list[Tag]:
    """Finds the tags in all docstrings of diffjax/, by article and equation, then by file and line."""
    found = [tag for path in sorted((root / "diffjax").rglob("*.py")) for tag in _of_file(path, root)]
    return sorted(found, key=lambda tag: (tag.article, tag.equation or 0, tag.path, tag.line))


def _of_file(path: Path, root: Path) -> Iterator[Tag]:
    text = path.read_text()
    if "kexue " not in text:
        return
    lines = text.splitlines()
    for symbol, node in _documented(ast.parse(text), ""):
        first = node.body[0]
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
            yield from _of_docstring(lines, first.lineno, first.end_lineno or 0, symbol, str(path.relative_to(root)))


def _documented(node: ast.AST, name: str) -> Iterator[tuple[str, ast.AST]]:
    """Walks the module, its classes and functions: (dotted name in the module, node)."""
    if getattr(node, "body", None):
        yield name or "module", node
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _documented(child, f"{name}.{child.name}".lstrip("."))


def _of_docstring(lines: list[str], first: int, last: int, symbol: str, path: str) -> Iterator[Tag]:
    own = [
        line.replace('"""', "   ") if number in (0, last - first) else line
        for number, line in enumerate(lines[first - 1 : last])
    ]
    for number, line in enumerate(own):
        for found in TAG.finditer(line):
            says = _statement(own, number, found[0])
            for article, equations in re.findall(ONE, found[0]):
                for equation in map(int, equations.split(", ")) if equations else [None]:
                    yield Tag(int(article), equation, says, path, first + number, symbol)


def _statement(lines: list[str], number: int, tag: str) -> str:
    """Gives the words around a tag without it: the sentence, with the formula it ends in; or the line of a formula."""
    indents = [len(line) - len(line.lstrip()) if line.strip() else -1 for line in lines]
    base = min((indent for indent in indents[1:] if indent >= 0), default=0)
    deep = lambda at: 0 < at < len(lines) and indents[at] > base
    item = [number]
    if deep(number):  # a formula, or an item of a list: its first line, and the lines below that are further in
        block = number
        while deep(block - 1):
            block -= 1
        while item[0] > block and indents[item[0]] > indents[block]:
            item.insert(0, item[0] - 1)
        while deep(item[-1] + 1) and indents[item[-1] + 1] > indents[item[0]]:
            item.append(item[-1] + 1)
        first, *rest = (lines[at].strip() for at in item)
        return _tidy(" ".join([_columns(first), *rest]), tag)
    while item[0] > 0 and indents[item[0] - 1] >= 0 and not deep(item[0] - 1):
        item.insert(0, item[0] - 1)
    while item[-1] + 1 < len(lines) and indents[item[-1] + 1] >= 0 and not deep(item[-1] + 1):
        item.append(item[-1] + 1)
    before = " ".join(lines[at].strip() for at in item if at < number)
    text = f"{before} \0{lines[number].strip()} " + " ".join(lines[at].strip() for at in item if at > number)
    parts = re.split(r"(?<=[.!?])(?<!\b[a-zA-Z]\.)(?<!al\.)(?<!eq\.)(?<!\.\.)\s+(?=\0?[A-Z`(\"a-z])", text)
    at = next(i for i, part in enumerate(parts) if tag in part.partition("\0")[2] or ("\0" not in part and tag in part))
    sentence = parts[at].replace("\0", "").strip()
    after = next((i for i in range(item[-1] + 1, len(lines)) if lines[i].strip()), None)
    if at == len(parts) - 1 and not sentence.endswith(".") and after is not None and deep(after):
        sentence += f" {lines[after].strip().rstrip(',')}"
    return _tidy(sentence, tag)


def _columns(line: str) -> str:
    """Writes a line whose columns stand apart by spaces as words: 'name: what, more'."""
    name, *cells = re.sub(r"[,;] {2,}", "  ", line).split("  ")
    cells = [cell.strip() for cell in cells if cell.strip()]
    joint = " " if cells and cells[0].startswith("=") else ", " if "=" in name or not cells else ": "
    return f"{name}{joint}{', '.join(cells)}".rstrip(", ")


def _tidy(text: str, tag: str) -> str:
    """Takes a tag out of the words around it where they stand without it, and spare space."""
    tag = re.escape(tag)
    for pattern in (rf"\s*\({tag}\)", rf"[;,] {tag}(?=[),;])", rf"(?<=\(){tag}[;,] ", rf"\s{tag}\s*$"):
        text = re.sub(pattern, "", text, count=1)
    return re.sub(r"\s+([,;:]|\.$)", r"\1", " ".join(text.split())).strip(" ;,")


def rows(root: Path = ROOT, language: str = "en") -> list[Row]:
    """Makes the index: a row for each tag, with the command and the measured of the card, or of docs/methods.md."""
    every = [cards.read(path) for path in cards.all_cards(root)]
    listed = dict(reversed(list(_methods(root))))
    found = tags(root)
    of_article = {tag.article: listed[tag.path] for tag in reversed(found) if tag.path in listed}
    ids = cards.code_ids(root)
    made = []
    for tag in found:
        fits = [card for card in every if tag.path in card.files or tag.article in card.articles]
        if tag.path in listed:  # a file of the tables has a card of its own, or none yet
            fits = fits if any(tag.path in card.files for card in fits) else []
        if fits:
            card = min(fits, key=lambda card: _rank(tag, card, ids))
            made.append(Row(tag, card.command, _measured(card, root, language), card.name))
        else:
            command, tests = listed.get(tag.path) or of_article.get(tag.article) or (_command([]), "")
            held = {"en": f"held by {tests}", "zh": f"由 {tests} 检验"}[language]
            made.append(Row(tag, command, held if tests else "", None))
    return made


def _rank(tag: Tag, card: cards.Card, ids: dict[str, list[str]], near: int = 25) -> tuple[int, int]:
    """Says how well a card fits a tag, 0 best: by file and article, by a line of code near it, by article, by file."""
    places = [place.rpartition(":") for one in card.ids for place in ids.get(one, [])]
    below = [int(line) - tag.line for path, _, line in places if path == tag.path and int(line) > tag.line]
    file, article, apart = tag.path in card.files, tag.article in card.articles, min(below, default=9999)
    return (0 if file and article else 1 if file and apart <= near else 2 if article else 3), apart


def _measured(card: cards.Card, root: Path, language: str) -> str:
    """Gives a card's Measured up to its first figure or test, in the language's own card where there is one."""
    other = root / "docs/zh/cards" / card.path.name
    text = (cards.read(other) if language == "zh" and other.is_file() else card).section(2)
    lines = [line.strip().removeprefix("- ") for line in text.splitlines()]
    table = [
        " ".join(line.strip("|").replace(" | ", ", ").split()).strip(", ") for line in lines if line.startswith("|")
    ]
    plain = " ".join(line for line in lines if line and not line.startswith("|"))
    found = ""
    for sentence in re.split(r"(?<=[a-z0-9)`%]\.)\s(?=[A-Z`0-9])|(?<=。)", plain):
        found = f"{found} {sentence.strip()}".strip()
        if re.search(r"\d", re.sub(r"test_\w+", "0", found)):
            break
    return f"{found} {'; '.join(table[2:])}".strip() if found.endswith((":", "：")) or not found else found


def _methods(root: Path) -> Iterator[tuple[str, tuple[str, str]]]:
    """Reads the tables of docs/methods.md: file of diffjax/ -> (command, tests)."""
    text = (root / "docs/methods.md").read_text().partition("## All methods, by family")[2].split("\n## ")[0]
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.replace("\\|", "/").strip("|").split("|")]
        if line.startswith("|") and len(cells) == 4:
            for name in re.findall(r"`([\w/]+\.py)`", cells[1]):
                ways = re.findall(r"`([^`]+)`", cells[2])
                study = [told for way in ways for told in _study(root / way)]
                command = _command([_whole(way, name, root) for way in ways])
                yield f"diffjax/{name}", (study[0] if study and command == _command([]) else command, cells[3])


def _study(folder: Path) -> list[str]:
    """Gives the commands that a study's README has, each on one line; none where it is no study."""
    readme = folder / "README.md"
    text = readme.read_text().replace("\\\n", " ") if "experiments" in folder.parts and readme.is_file() else ""
    return [" ".join(line.split("  #")[0].split()) for line in re.findall(r"python experiments/[^`\n]+", text)]


def _whole(way: str, name: str, root: Path) -> str:
    """Writes the name of a function in full: that of its file's folder before one that is short of it."""
    first = root / "diffjax" / way.partition(".")[0]
    here = first.is_dir() or first.with_suffix(".py").is_file() or not re.fullmatch(r"[a-z_]+(\.\w+)+", way)
    return way if here else f"{Path(name).parent}.{way}"


def _command(ways: list[str]) -> str:
    """Writes a command for a row's column 'config or call': a mode, a config and its fields, or a function's name."""
    main = "python -m diffjax.main"
    modes = [way for way in ways if way.startswith("--mode=")]
    configs = [way for way in ways if way.startswith("configs/")]
    fields = [way for way in ways if re.fullmatch(r"[\w.]+=[\w.]+", way)]
    calls = [way for way in ways if re.fullmatch(r"[a-z_]+(\.\w+)+", way)]
    if configs or (fields and not modes):
        return " ".join(
            [main, f"--config={(configs or ['configs/vpsde.py'])[0]}", *(f"--config.{way}" for way in fields)]
        )
    if modes:
        return f"{main} {modes[0]} --workdir=runs/..."
    return f"diffjax.{calls[0]}" if calls else f"{main} --config=configs/vpsde.py"


WORDS = {
    "en": {
        "title": "From an article to the code",
        "intro": r"""
The articles of Su Jianlin's series 生成扩散模型漫谈 and some of their neighbours on kexue.fm, by number: what their
equations say in our words, the function that computes them, a command, and what was measured.
`python docs/tools/series.py 9228` prints one article with its exact lines. The symbols are those of
[notation.md](notation.md): his $\bar\alpha_t$ is our alpha, his $\bar\beta_t$ our sigma. This page is made by
`python docs/tools/series.py --write` from tags in docstrings.""",
        "head": "article | equation | what it says | file (symbol) | command | measured",
        "later": "Not yet",
        "note": "Articles without a line of code, and the family that they would belong to.",
        "short": "article | title | family",
        "card": "card",
    },
    "zh": {
        "title": "从文章到代码",
        "intro": r"""
苏剑林的“生成扩散模型漫谈”系列，以及科学空间（kexue.fm）上的若干相关文章，按编号排列：
公式说了什么、由哪个函数计算、怎样运行、测得了什么。`python docs/tools/series.py 9228` 给出某一篇的准确行号。
记号见[记号表](notation.md)：他的 $\bar\alpha_t$ 就是这里的 alpha，他的 $\bar\beta_t$ 就是这里的 sigma。
本页由 `python docs/tools/series.py --write` 根据文档字符串中的标签生成。""",
        "head": "文章 | 公式 | 内容 | 文件（符号） | 命令 | 实测",
        "later": "尚未实现",
        "note": "代码中还没有的文章，以及它们将属于的方法类别。",
        "short": "文章 | 标题 | 类别",
        "card": "卡片",
    },
}


def page(language: str = "en", root: Path = ROOT, lines: bool = False) -> str:
    """Makes the page of the index; with `lines` files have their line numbers, which edits make stale."""
    words, made, known = WORDS[language], rows(root, language), articles(root)
    parts = [f"# {words['title']}", words["intro"]]
    for article in known.values():
        own = [row for row in made if row.tag.article == article.number]
        if own:
            title = article.zh if language == "zh" or article.zh == article.en else f"{article.en} ({article.zh})"
            parts += ["", f"## {article.number} {title}", "", *_table(words["head"])]
            parts += [_line(row, article, words, language, lines) for row in own]
    parts += ["", f"## {words['later']}", "", words["note"], "", *_table(words["short"])]
    for article in known.values():
        if not article.here:
            title = article.zh if language == "zh" else f"{article.en} ({article.zh})"
            parts.append(f"| [{article.number}]({URL}{article.number}) | {title} | {article.family} |")
    return "\n".join(parts) + "\n"


def _table(head: str) -> list[str]:
    return [f"| {head} |", "|" + "---|" * (head.count("|") + 1)]


def _line(row: Row, article: Article, words: dict[str, str], language: str, lines: bool) -> str:
    tag = row.tag
    says = article.says.get(str(tag.equation or "")) if language == "zh" else None
    place = f"`{tag.path}{f':{tag.line}' if lines else ''}` (`{tag.symbol}`)"
    card = f" [{words['card']}](cards/{row.card}.md)" if row.card else ""
    cells = (
        f"[{article.number}]({URL}{article.number})",
        f"({tag.equation})" if tag.equation else "",
        _escaped(says or tag.says),
        place,
        f"`{row.command}`",
        _escaped(row.measured, links=True) + card,
    )
    return "| " + " | ".join(cells) + " |"


def _escaped(text: str, links: bool = False) -> str:
    """Writes plain words for a cell of a Markdown table; mathematics and code in it stay as they are."""
    parts = re.split(r"(`[^`]*`|\$[^$]*\$)", text)
    plain = r"([|])" if links else r"([\\*_|\[\]])"
    words = [part if at % 2 else re.sub(plain, r"\\\1", part) for at, part in enumerate(parts)]
    return "".join(part.replace("|", "\\|") if at % 2 else part.replace("<", "&lt;") for at, part in enumerate(words))


def nearest(number: int, known: list[int], count: int = 3) -> list[int]:
    """Finds the articles of the nearest numbers."""
    return sorted(sorted(known, key=lambda other: (abs(other - number), other))[:count])


def _indented(row: Row, root: Path) -> list[str]:
    """Gives the lines of a row's command; of a card whose command is Python all lines of the block."""
    text = row.command
    if row.card and not text.startswith("python "):
        text = cards.read(root / f"docs/cards/{row.card}.md").blocks[0][1].rstrip()
    return [f"  {line}".rstrip() for line in text.splitlines()]


def told(article: Article, root: Path = ROOT) -> str:
    """Says of one article all that the index has, with lines."""
    parts = [f"{article.number} {article.en} / {article.zh}", f"{URL}{article.number}"]
    own = [row for row in rows(root) if row.tag.article == article.number]
    for row in own:
        tag = row.tag
        parts += ["", f"{f'({tag.equation}) ' if tag.equation else ''}{tag.says}"]
        parts += [f"  {tag.path}:{tag.line} ({tag.symbol})", *_indented(row, root)]
        parts += [f"  {row.measured}"] * bool(row.measured) + [f"  docs/cards/{row.card}.md"] * bool(row.card)
    return "\n".join(parts if own else [*parts, f"not yet; its family: {article.family}"])


def main(argv: list[str], root: Path = ROOT) -> int:
    """Prints an article or the list, or writes the pages; the exit status, 2 for a number that is no article here."""
    known = articles(root)
    if argv == ["--write"]:
        for language, name in PAGES.items():
            (root / name).write_text(page(language, root))
        return 0
    if not argv:
        counts = {number: len([tag for tag in tags(root) if tag.article == number]) for number in known}
        for article in known.values():
            lines = f"{counts[article.number]} lines" if article.here else "not yet"
            print(f"{article.number:>5}  {lines:>8}  {article.en} / {article.zh}")
        return 0
    text = argv[0].removeprefix(URL)
    if len(argv) > 1 or not listings.is_number(text) or int(text) not in known:
        near = ", ".join(map(str, nearest(int(text), list(known)) if listings.is_number(text) else list(known)[:3]))
        every = "python docs/tools/series.py lists all"
        print(f"error: no article {' '.join(argv)!r} here; the nearest are {near}; {every}", file=sys.stderr)
        return 2
    print(told(known[int(text)], root))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
