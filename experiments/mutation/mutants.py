"""What can be damaged in a file at one point: each mutant is a piece of the text and what stands there instead.

Kinds: an arithmetic operator (+ and -, * and /, ** to *), a comparison (its edge, or its opposite), `and` and `or`, a
sign or `not` left out, a number (an integer plus 1, a float times 1.5, 0.0 to 1.0), True and False, a function for its
neighbour (sin and cos, exp and expm1, maximum and minimum ...), the first two arguments exchanged, the branches of a
condition exchanged. Texts are left alone: strings, annotations, decorators, and what is raised.
"""

import ast
import copy
from collections.abc import Iterator
from typing import NamedTuple

BINARY = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.Pow: ast.Mult,
    ast.FloorDiv: ast.Div,
    ast.Mod: ast.FloorDiv,
}
COMPARE = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_PAIRS = "sin cos, sinh cosh, maximum minimum, max min, exp expm1, log log1p, sqrt square, sum mean, ceil floor"
_PAIRS += ", argmax argmin, any all, zeros_like ones_like, zeros ones"
NEIGHBOUR = {a: b for pair in _PAIRS.split(", ") for a, b in (pair.split(), pair.split()[::-1])}
SYMMETRIC = {"maximum", "minimum", "max", "min", "logaddexp", "isclose", "allclose", "array_equal"}  # any order is one


class Mutant(NamedTuple):
    """One point of damage: characters `start` to `end` of a file's text become `after`."""

    line: int  # from 1
    start: int
    end: int
    kind: str
    before: str
    after: str

    def applied(self, text: str) -> str:
        """Returns the damaged text of the file."""
        return f"{text[: self.start]}({self.after}){text[self.end :]}"


def changes(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """Gives the kind of each change of one node of the syntax tree, and the changed node."""

    def changed(kind: str, **fields: object) -> tuple[str, ast.AST]:
        new = copy.deepcopy(node)
        for name, value in fields.items():
            setattr(new, name, value)
        return kind, new

    match node:
        case ast.BinOp(op=op) if type(op) in BINARY:
            yield changed("arithmetic", op=BINARY[type(op)]())
        case ast.Compare(ops=[op, *more]):
            yield changed("comparison", ops=[COMPARE[type(op)](), *more])
        case ast.BoolOp(op=op):
            yield changed("logic", op=ast.Or() if isinstance(op, ast.And) else ast.And())
        case ast.UnaryOp(op=ast.USub() | ast.Not(), operand=operand):
            yield "sign", operand
        case ast.Constant(value=bool(value)):
            yield changed("truth", value=not value)
        case ast.Constant(value=int(value)):
            yield changed("number", value=value + 1)
        case ast.Constant(value=float(value)):
            yield changed("number", value=1.5 * value if value else 1.0)
        case ast.IfExp(body=body, orelse=orelse):
            yield changed("branches", body=orelse, orelse=body)
        case ast.Call(func=ast.Name(id=name)) if name in NEIGHBOUR:
            yield changed("function", func=ast.Name(NEIGHBOUR[name], ast.Load()))
        case ast.Call(func=ast.Attribute(value=owner, attr=name)) if name in NEIGHBOUR:
            yield changed("function", func=ast.Attribute(owner, NEIGHBOUR[name], ast.Load()))
        case ast.Call(func=called, args=[first, second, *more]):
            name = getattr(called, "attr", getattr(called, "id", ""))
            starred = isinstance(first, ast.Starred) or isinstance(second, ast.Starred)
            if not starred and name not in SYMMETRIC and ast.dump(first) != ast.dump(second):
                yield changed("arguments", args=[second, first, *more])


def _children(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes below that compute something: no texts, no annotations, no decorators, nothing of what is raised."""
    silent = {"annotation", "returns", "decorator_list", "type_params"}
    for name, value in ast.iter_fields(node):
        if name not in silent:
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST) and not isinstance(child, ast.Raise | ast.JoinedStr | ast.Assert):
                    yield child


def mutants(text: str) -> list[Mutant]:
    """Lists all mutants of a file's text, from the first line to the last."""
    starts = [0]  # of each line, in bytes: the syntax tree counts its columns so
    for line in text.encode().splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    place = lambda line, column: len(text.encode()[: starts[line - 1] + column].decode())

    def walk(node: ast.AST) -> Iterator[Mutant]:
        if isinstance(node, ast.expr):
            span = place(node.lineno, node.col_offset), place(node.end_lineno, node.end_col_offset)
            for kind, new in changes(node):
                yield Mutant(node.lineno, *span, kind, ast.unparse(node), ast.unparse(new))
        for child in _children(node):
            yield from walk(child)

    return sorted(walk(ast.parse(text)))
