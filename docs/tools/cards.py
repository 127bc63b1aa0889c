"""Reads the cards of docs/cards/, one a method, and finds what is wrong with them:

    python docs/tools/cards.py                      # all of them
    python docs/tools/cards.py docs/cards/ddim.md   # one, with its Chinese twin if that is there

One line for each mistake, exit status 1 where there is one. The format is in docs/tools/card_template.txt.
"""

import re
import sys
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import listings
from listings import code, commands

ROOT = Path(__file__).resolve().parents[2]
KEYS = ("title", "family", "files", "articles")
HEADINGS = {
    "en": ("Equations", "Command", "Measured", "Pitfalls", "References"),
    "zh": ("公式", "命令", "实测", "注意", "参考"),
}
ID = r"[a-z][a-z0-9_-]*\.[1-9][0-9]*"
ABBREVIATIONS = r"\b(?:e\.g|i\.e|et al|eq|eqs|cf|vs|fig|sec|no|resp)\."


class CardError(ValueError):
    """A card that cannot be read at all, in one line."""


class Card(NamedTuple):
    """A card: its front matter, its paragraph, and the text of each section in the order of the headings."""

    path: Path
    title: str
    family: str
    files: tuple[str, ...]
    articles: tuple[int, ...]
    heading: str
    says: str
    headings: tuple[str, ...]
    sections: tuple[str, ...]

    @property
    def name(self) -> str:
        """The name of its file, which its equations' ids begin with."""
        return self.path.stem

    def section(self, number: int) -> str:
        """Gives a section's text: 0 equations, 1 command, 2 measured, 3 pitfalls, 4 references; "" else."""
        return self.sections[number] if number < len(self.sections) else ""

    @property
    def equations(self) -> list[str]:
        """The displayed equations, each between $$ and $$."""
        return [" ".join(text.split()) for text in re.findall(r"\$\$(.+?)\$\$", self.section(0), re.DOTALL)]

    @property
    def ids(self) -> list[str]:
        """The ids of its equations, in their order."""
        return [found for text in self.equations for found in re.findall(r"\\tag\{([^}]*)\}", text)]

    @property
    def blocks(self) -> list[tuple[str, str]]:
        """The commands: (language, text) of each fenced block."""
        return re.findall(r"^```(\w*)\n(.*?)^```", self.section(1), re.DOTALL | re.MULTILINE)

    @property
    def command(self) -> str:
        """The first line that can be run, on one line: a shell command, or the last line of a Python block."""
        for language, text in self.blocks:
            lines = commands(text) if language == "bash" else [line for line in code(text).splitlines() if line.strip()]
            if lines:
                return lines[0] if language == "bash" else lines[-1].strip()
        return ""


def read(path: Path) -> Card:
    """Reads one card.

    Raises:
        CardError: if it has no front matter of exactly the four keys, or no title below it.
    """
    text = re.sub(r"\n(?:<!--.*?-->\n)", "\n", path.read_text())
    parts = re.match(r"---\n(.*?)\n---\n\s*# ([^\n]+)\n(.*)", text, re.DOTALL)
    if parts is None:
        raise CardError(f"{path.name}: needs front matter between two lines '---', and '# TITLE' below it.")
    front = {}
    for line in parts[1].splitlines():
        key, colon, value = line.partition(":")
        if not colon or key in front:
            raise CardError(
                f"{path.name}: the front matter's line {line!r} is no 'key: value', or the key is there twice."
            )
        front[key] = re.sub(r"\s+#.*", "", value).strip().strip("\"'")
    if tuple(front) != KEYS:
        raise CardError(
            f"{path.name}: the front matter has {', '.join(front)}; it takes {', '.join(KEYS)}, in this order."
        )
    for key in ("files", "articles"):
        if not re.fullmatch(r"\[.*\]", front[key]):
            raise CardError(f"{path.name}: {key} is {front[key]!r}; it takes a list such as [a, b] or [].")
    listed = {
        key: [item.strip() for item in front[key][1:-1].split(",") if item.strip()] for key in ("files", "articles")
    }
    if wrong := [item for item in listed["articles"] if not re.fullmatch(r"[0-9]+", item)]:
        raise CardError(f"{path.name}: articles takes numbers of kexue.fm/archives, got {wrong[0]!r}.")
    says, *rest = re.split(r"^## +(.+)$", without_code(parts[3]), flags=re.MULTILINE)
    texts = re.split("^\0.+$", _marked(parts[3], rest[::2]), flags=re.MULTILINE)[1:]
    return Card(
        path,
        front["title"],
        front["family"],
        tuple(listed["files"]),
        tuple(map(int, listed["articles"])),
        parts[2].strip(),
        says.strip(),
        tuple(heading.strip() for heading in rest[::2]),
        tuple(text.strip() for text in texts),
    )


def without_code(text: str) -> str:
    """Blanks the lines of fenced blocks, so that a comment in one is no heading; the count of lines stays."""
    blank = lambda found: "\n" * found[0].count("\n")
    return re.sub(r"^```.*?^```$", blank, text, flags=re.DOTALL | re.MULTILINE)


def _marked(text: str, headings: Iterable[str]) -> str:
    """Marks the lines of the headings with a character that no card has."""
    for heading in headings:
        text = text.replace(f"\n## {heading}", f"\n\0{heading}", 1)
    return text


def sentences(text: str) -> int:
    """Counts sentences: ends . ! ? before a space, and 。！？; not in code, mathematics, abbreviations."""
    text = re.sub(r"`[^`]*`|\$[^$]*\$", "x", text)
    text = re.sub(ABBREVIATIONS, "x", text)
    return len(re.findall(r"[.!?][)\"']?(?=\s|$)|[。！？][)」”）]?", text.strip()))


def numbers(text: str) -> Counter:
    """Counts the numbers of a text, without the commas of thousands."""
    text = re.sub(r"(?<=\d),(?=\d{3}\b)", "", text)
    return Counter(re.findall(r"\d+(?:\.\d+)?(?:e[-+]?\d+)?", text))


def code_ids(root: Path = ROOT) -> dict[str, list[str]]:
    """Finds the ids that comments of diffjax/ begin with: id -> ["diffjax/a.py:12", ...]."""
    found: dict[str, list[str]] = {}
    for path in sorted((root / "diffjax").rglob("*.py")):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            for ids in re.findall(rf"# ?((?:\({ID}\)[,; ]*)+)", line):
                for one in re.findall(ID, ids):
                    found.setdefault(one, []).append(f"{path.relative_to(root)}:{number}")
    return found


def families(root: Path = ROOT) -> list[str]:
    """Gives the families: the headings of docs/methods.md below 'All methods, by family'."""
    text = (root / "docs/methods.md").read_text().partition("## All methods, by family")[2]
    return re.findall(r"^### (.+)$", text.split("\n## ")[0], re.MULTILINE)


def table_files(root: Path = ROOT) -> list[str]:
    """Gives the files of diffjax/ that the tables of docs/methods.md name in their column 'file'."""
    rows = re.findall(
        r"^\|[^|]+\|([^|]+)\|.*\|$", (root / "docs/methods.md").read_text().replace("\\|", "/"), re.MULTILINE
    )
    return sorted({f"diffjax/{name}" for row in rows for name in re.findall(r"`([\w/]+\.py)`", row)})


def sources(root: Path = ROOT) -> str:
    """Joins what was measured: README, CHANGELOG, the pages of docs/ but the cards, the studies' READMEs."""
    places = ("README.md", "CHANGELOG.md", "docs/*.md", "experiments/**/README.md")
    return "\n".join(path.read_text() for place in places for path in sorted(root.glob(place)))


def mistakes(card: Card, root: Path = ROOT, language: str = "en") -> Iterator[str]:
    """Finds what is wrong with one card but its commands' meaning (`listings.wrong`): one line each."""
    if card.heading != card.title:
        yield f"the heading is {card.heading!r}; the title in the front matter is {card.title!r}"
    if card.headings != HEADINGS[language]:
        yield f"the headings are {', '.join(card.headings)}; they are {', '.join(HEADINGS[language])}, in this order"
    if card.family not in families(root):
        yield f"family {card.family!r} is no heading of docs/methods.md; there are {'; '.join(families(root))}"
    if not card.files:
        yield "files names no file"
    for name in card.files:
        if not name.startswith("diffjax/") or not (root / name).is_file():
            yield f"files names {name}, which is no file of diffjax/"
    if (count := sentences(card.says)) != 3 or "\n\n" in card.says:
        yield f"it says what it is in {count} sentences; it takes one paragraph of exactly three"
    yield from _wrong_equations(card, root)
    if not card.blocks or not card.command:
        yield "it has no command: a ```bash or ```python block"
    yield from _wrong_measured(card, root)
    if not 2 <= (count := len(re.findall(r"^[-*] ", card.section(3), re.MULTILINE))) <= 4:
        yield f"it has {count} pitfalls; it takes two to four lines that begin with '- '"
    yield from _wrong_references(card, root)


def _wrong_equations(card: Card, root: Path) -> Iterator[str]:
    """Finds what is wrong with the equations: ids, their order, their lines of code, a sentence for each."""
    if card.ids != [f"{card.name}.{n}" for n in range(1, len(card.equations) + 1)] or not card.ids:
        wanted = f"{card.name}.1, {card.name}.2, ..."
        yield f"the ids of its equations are {', '.join(card.ids) or 'none'}; one \\tag for each $$ ... $$: {wanted}"
    known = code_ids(root)
    for one in card.ids:
        if one not in known:
            yield f"equation {one} has no line of code: the comment '# ({one})' is nowhere in diffjax/"
    if sentences(re.sub(r"\$\$.+?\$\$", "", card.section(0), flags=re.DOTALL)) < len(card.equations):
        yield "an equation has no sentence on its terms"


def _wrong_measured(card: Card, root: Path) -> Iterator[str]:
    """Finds what Measured says and no page or test does: decimals, commits, tests."""
    text = card.section(2)
    if not re.search(r"\d|`test_\w+\.py`", text):
        yield "Measured has neither a number nor a test"
    tests = re.findall(r"test_\w+\.py", text)
    for name in tests:
        if not (root / "tests" / name).is_file():
            yield f"Measured names tests/{name}, which is not there"
    read_in = sources(root)
    for commit in set(re.findall(r"\b(?=[0-9a-f]*\d)(?=[0-9a-f]*[a-f])[0-9a-f]{7}\b", text)):
        if commit not in read_in:
            yield f"Measured names commit {commit}, which no page of docs/, README of experiments/ or CHANGELOG has"
    read_in += "".join((root / "tests" / name).read_text() for name in tests if (root / "tests" / name).is_file())
    read_in = re.sub(r"(?<=\d),(?=\d{3}\b)", "", read_in)
    for number in numbers(re.sub(r"`[^`]*`", "", text)):
        if re.search(r"[.e]", number) and not re.search(rf"(?<![\d.]){re.escape(number)}(?!\d)", read_in):
            yield f"Measured says {number}, which stands in no page of docs/, experiments/, CHANGELOG or named test"


def _wrong_references(card: Card, root: Path) -> Iterator[str]:
    """Finds articles without a link, links without an article, articles that docs/series.toml does not have."""
    text = card.section(4)
    if not re.search(r"^[-*] ", text, re.MULTILINE):
        yield "it has no reference: lines that begin with '- '"
    linked = {int(number) for number in re.findall(r"https://kexue\.fm/archives/(\d+)", text)}
    for number in sorted(linked ^ set(card.articles)):
        where = "its references do not link" if number in card.articles else "its front matter does not name"
        yield f"{where} article {number}, which the other one has (https://kexue.fm/archives/{number})"
    known = tomllib.loads((root / "docs/series.toml").read_text()) if (root / "docs/series.toml").is_file() else {}
    for number in card.articles:
        if known and str(number) not in known:
            yield f"article {number} is not in docs/series.toml"


def twin(card: Card, zh: Card) -> Iterator[str]:
    """Finds where the Chinese twin says something else: front matter but the title, equations, commands, numbers."""
    for key in ("family", "files", "articles"):
        if getattr(card, key) != getattr(zh, key):
            yield f"the twin's {key} is {getattr(zh, key)!r}, not {getattr(card, key)!r}"
    if card.equations != zh.equations:
        yield "the twin's equations differ"
    plain = lambda blocks: [
        (language, [line.rstrip() for line in code(text).splitlines()]) for language, text in blocks
    ]
    shell = lambda blocks: [commands(text) if language == "bash" else text for language, text in blocks]
    if plain(card.blocks) != plain(zh.blocks) and shell(card.blocks) != shell(zh.blocks):
        yield "the twin's commands differ"
    if (ours := numbers(card.section(2))) != (theirs := numbers(zh.section(2))):
        odd = sorted((ours - theirs) + (theirs - ours))
        yield f"the twin's Measured has other numbers: {', '.join(odd)}"
    if not re.search(r"[一-鿿]", zh.says):
        yield "the twin is not written in Chinese"


def all_cards(root: Path = ROOT) -> list[Path]:
    """Lists the cards, the English ones."""
    return sorted((root / "docs/cards").glob("*.md"))


def incomplete(root: Path = ROOT) -> Iterator[str]:
    """Finds what is missing among all cards: files of the tables, ids of the code, twins, an id in two cards."""
    cards = [read(path) for path in all_cards(root)]
    covered = {name for card in cards for name in card.files}
    yield from (f"no card has {name}, which docs/methods.md names" for name in table_files(root) if name not in covered)
    where = code_ids(root)
    owned = {one for card in cards for one in card.ids}
    yield from (f"{places[0]} has ({one}), which no card has" for one, places in where.items() if one not in owned)
    for card in cards:
        if not (root / "docs/zh/cards" / card.path.name).is_file():
            yield f"docs/zh/cards/{card.path.name} is not there"


def check(path: Path, root: Path = ROOT) -> list[str]:
    """Finds all mistakes of a card, and of its Chinese twin where that is there: 'NAME.md: what', one line each."""
    found: list[str] = []
    try:
        card = read(path)
        found += [f"{path.name}: {what}" for what in (*mistakes(card, root), *listings.wrong(card.blocks, root))]
        if (other := root / "docs/zh/cards" / path.name).is_file():
            zh = read(other)
            found += [f"zh/{path.name}: {what}" for what in (*mistakes(zh, root, "zh"), *twin(card, zh))]
    except CardError as error:
        found.append(str(error))
    return [" ".join(line.split()) for line in found]


def main(argv: list[str]) -> int:
    """Prints the mistakes of the cards that are named, or of all; the exit status."""
    sys.path.insert(0, str(ROOT))
    lines = [line for path in (map(Path, argv) if argv else all_cards()) for line in check(path)]
    lines += [] if argv else incomplete()
    print("\n".join(lines) or "nothing is wrong")
    return 1 if lines else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
