"""Finds the articles of Su Jianlin's series (kexue.fm) in the code, by the tags in docstrings of diffjax/:

    python docs/tools/series.py            # every article: what is here, what is not yet
    python docs/tools/series.py 9228       # one article: equation, what it says, file:line (symbol), command, measured
    python docs/tools/series.py 9228 --lang=zh    # in Chinese; without --lang in the language of LANG, English else
    python docs/tools/series.py --write    # docs/series.md and docs/zh/series.md, which tests hold to this

A tag is `kexue 9164 (6)`, equation 6 of article 9164, or `kexue 9164` where the article has no number for it. Titles,
what each equation says in Chinese, and which card's command is its own where several have its file, are in
docs/series.toml. It reads text alone and imports no jax.
"""

import ast
import os
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import cards
import listings
from series_words import WORDS

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
    """An article: titles, family, whether the code has it; by equation its words in Chinese, its card and command."""

    number: int
    zh: str
    en: str
    family: str
    here: bool
    says: dict[str, str]
    cards: dict[str, tuple[str, int]]


class Row(NamedTuple):
    """What the index says of one tag: the tag, a shell command ("": the card has Python), measured, the card's name."""

    tag: Tag
    command: str
    measured: str
    card: str | None


def articles(root: Path = ROOT) -> dict[int, Article]:
    """Reads docs/series.toml: number -> article, in the order of the file."""
    table = tomllib.loads((root / "docs/series.toml").read_text())
    return {int(number): _article(int(number), of) for number, of in table.items()}


def _article(number: int, of: dict) -> Article:
    whole = {key: {"zh": says} if isinstance(says, str) else says for key, says in of.get("says", {}).items()}
    named = {key: (one["card"], one.get("command", 1)) for key, one in whole.items() if "card" in one}
    says = {key: one["zh"] for key, one in whole.items()}
    return Article(number, of["zh"], of["en"], of["family"], of["here"], says, named)


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
    text = re.sub(r"\s+([,;:]|\.$)", r"\1", " ".join(text.split()))
    return re.sub(r"[,;:]+\.$", ".", text).strip(" ;,")


def rows(root: Path = ROOT, language: str = "en") -> list[Row]:
    """Makes the index: a row for each tag, with a command and the measured of a card that lists the tag's file.

    Where several do it is the one that docs/series.toml names for the equation, or else the one that fits best.
    """
    every, known, ids = [cards.read(path) for path in cards.all_cards(root)], articles(root), cards.code_ids(root)
    made = []
    for tag in tags(root):
        named, number = (
            known[tag.article].cards.get(str(tag.equation or ""), ("", 1)) if tag.article in known else ("", 1)
        )
        fits = [card for card in every if tag.path in card.files]
        own = [card for card in fits if card.name == named]
        card = min(own or fits, key=lambda card: _rank(tag, card, ids), default=None)
        if card is None:
            made.append(Row(tag, "", "", None))
        else:
            command = (shell(card)[(number if own else 1) - 1 :] or [""])[0]
            made.append(Row(tag, command, _measured(card, root, language), card.name))
    return made


def shell(card: cards.Card) -> list[str]:
    """Gives a card's shell commands, each on one line; none where it has a block of Python."""
    return [line for name, text in card.blocks if name == "bash" for line in listings.commands(text)]


def _rank(tag: Tag, card: cards.Card, ids: dict[str, list[str]], near: int = 25) -> tuple[int, int]:
    """Says how well a card of a tag's file fits it, 0 best: by article, by a line of code near it, by file."""
    places = [place.rpartition(":") for one in card.ids for place in ids.get(one, [])]
    below = [int(line) - tag.line for path, _, line in places if path == tag.path and int(line) > tag.line]
    apart = min(below, default=9999)
    return (0 if tag.article in card.articles else 1 if apart <= near else 2), apart


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


def page(language: str = "en", root: Path = ROOT, lines: bool = False) -> str:
    """Makes the page of the index; with `lines` files are links to their lines, which edits make stale."""
    words, made, known = WORDS[language], rows(root, language), articles(root)
    parts = [f"# {words['title']}", words["intro"]]
    for article in known.values():
        own = [row for row in made if row.tag.article == article.number]
        if own:
            parts += ["", f"## {_linked(article)} {_title(article, language)}", "", *_table(words["head"])]
            parts += [_line(row, article, language, lines) for row in own]
    parts += ["", f"## {words['later']}", "", words["note"], "", *_table(words["short"])]
    for article in known.values():
        if not article.here:
            family = words["families"].get(article.family, article.family)
            parts.append(f"| {_linked(article)} | {_title(article, language)} | {family} |")
    return "\n".join(parts) + "\n"


def _linked(article: Article) -> str:
    return f"[{article.number}]({URL}{article.number})"


def _title(article: Article, language: str) -> str:
    return article.zh if language == "zh" else f"{article.en} ({article.zh})"


def _table(head: str) -> list[str]:
    return [f"| {head} |", "|" + "---|" * (head.count("|") + 1)]


def _line(row: Row, article: Article, language: str, lines: bool) -> str:
    tag, words = row.tag, WORDS[language]
    up = "../" * PAGES[language].count("/")
    place = f"[`{tag.path}:{tag.line}`]({up}{tag.path}#L{tag.line})" if lines else f"`{tag.path}`"
    card = f"cards/{row.card}.md"
    block = f"[python]({card}#{words['command']})" if row.card else ""
    cells = (
        f"({tag.equation})" if tag.equation else "",
        _escaped(_says(row, article, language)),
        place if tag.symbol == "module" else f"{place} (`{tag.symbol}`)",
        f"`{row.command}`" if row.command else block,
        _escaped(row.measured, links=True) + (f" [{words['card']}]({card})" if row.card else ""),
    )
    return "| " + " | ".join(cells) + " |"


def _says(row: Row, article: Article, language: str) -> str:
    """Gives what an equation says: in Chinese by docs/series.toml, else by the docstring."""
    chinese = article.says.get(str(row.tag.equation or "")) if language == "zh" else None
    return chinese or row.tag.says


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
    block = cards.read(root / f"docs/cards/{row.card}.md").blocks[0][1].rstrip() if row.card else ""
    return [f"  {line}".rstrip() for line in (row.command or block).splitlines()]


def told(article: Article, root: Path = ROOT, language: str = "en") -> str:
    """Says of one article all that the index has, with lines."""
    words = WORDS[language]
    parts = [f"{article.number} {_both(article, language)}", f"{URL}{article.number}"]
    own = [row for row in rows(root, language) if row.tag.article == article.number]
    for row in own:
        tag = row.tag
        parts += ["", f"{f'({tag.equation}) ' if tag.equation else ''}{_says(row, article, language)}"]
        symbol = "" if tag.symbol == "module" else f" ({tag.symbol})"
        parts += [f"  {tag.path}:{tag.line}{symbol}", *_indented(row, root)]
        card = PAGES[language].replace("series.md", f"cards/{row.card}.md")
        parts += [f"  {row.measured}"] * bool(row.measured) + [f"  {card}"] * bool(row.card)
    family = words["families"].get(article.family, article.family)
    return "\n".join(parts if own else [*parts, words["absent"].format(family)])


def _both(article: Article, language: str) -> str:
    return article.zh if language == "zh" else f"{article.en} / {article.zh}"


def listed(root: Path = ROOT, language: str = "en") -> str:
    """Lists the articles: number, how many lines of docstrings name it, title."""
    words, numbers = WORDS[language], [tag.article for tag in tags(root)]
    count = lambda article: words["lines"].format(numbers.count(article.number)) if article.here else words["none"]
    every = articles(root).values()
    return "\n".join(f"{article.number:>5}  {count(article):>8}  {_both(article, language)}" for article in every)


def spoken(environ: Mapping[str, str]) -> str:
    """Finds the reader's language, zh or en, as programs do: by LC_ALL, LC_MESSAGES or LANG."""
    said = next((environ[name] for name in ("LC_ALL", "LC_MESSAGES", "LANG") if environ.get(name)), "")
    return "zh" if said.startswith("zh") else "en"


def main(argv: list[str], root: Path = ROOT) -> int:
    """Prints an article or the list, or writes the pages; the exit status, 2 for what is no article or language."""
    asked = [word.removeprefix("--lang=") for word in argv if word.startswith("--lang=")]
    argv = [word for word in argv if not word.startswith("--lang=")]
    language = asked[-1] if asked else spoken(os.environ)
    if language not in PAGES:
        print(f"error: --lang={language}; it takes {' or '.join(PAGES)}", file=sys.stderr)
        return 2
    if {"-h", "--help"} & set(argv):
        print(__doc__.strip())
        return 0
    if argv == ["--write"]:
        for name, path in PAGES.items():
            (root / path).write_text(page(name, root))
        return 0
    if not argv:
        print(listed(root, language))
        return 0
    known = articles(root)
    text = argv[0].removeprefix(URL)
    if len(argv) > 1 or not listings.is_number(text) or int(text) not in known:
        near = ", ".join(map(str, nearest(int(text), list(known)) if listings.is_number(text) else list(known)[:3]))
        every = "python docs/tools/series.py lists all"
        print(f"error: no article {' '.join(argv)!r} here; the nearest are {near}; {every}", file=sys.stderr)
        return 2
    print(told(known[int(text)], root, language))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
