"""Data in a pickle, read and not run: containers, numbers and texts, and no call but those that a reader is given.

A pickle is a program for a stack machine (Python's `pickletools` lists the instructions), and `pickle` runs whatever
it names. `load` is another machine: it knows the instructions that build data, a name stands for itself until it is
called, and a call is looked up in a table of the reader's own functions. What is not in the table is refused by name.
No array is sized by a number that the file merely claims, so that a short file cannot ask for much memory.
"""

import pickletools
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, NamedTuple

CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
VALUES = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
VALUES |= {"SHORT_BINSTRING", "BINSTRING", "SHORT_BINBYTES", "BINBYTES"}  # texts of Python 2, bytes
TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
STORES, FETCHES = {"BINPUT", "LONG_BINPUT", "PUT"}, {"BINGET", "LONG_BINGET", "GET"}


class Name(NamedTuple):
    """A global that a pickle names, such as "collections.OrderedDict"; nothing is imported for it."""

    text: str


class Built:
    """What a reader's function makes of a call, where the pickle goes on to give the object its state."""

    def build(self, state: Any) -> None:
        """Takes the state; raises a ValueError, a clause, for one that the reader has no use for."""


def load(
    stream: BinaryIO,
    where: str,
    calls: Mapping[str, Callable[..., Any]],
    names: frozenset[str] = frozenset(),
    persistent: Callable[[Any], Any] | None = None,
) -> Any:
    """Reads the next pickle of a stream, and leaves the stream behind it.

    Args:
        where: the pickle is, to begin a message with.
        calls: name -> the function of ours that is called in its place, with the pickle's positional arguments.
        names: further names that may stand in the data, each as a `Name`.
        persistent: what a persistent id stands for; None: there are none.

    Raises:
        ValueError: for a name that is in neither, an instruction that does not build data, a damaged pickle.
    """
    machine = _Machine(where, calls, names, persistent)
    try:
        for code, value, _ in pickletools.genops(stream):
            if code.name == "STOP":
                return machine.end()
            machine.do(code.name, value)
    except UnicodeError as error:
        raise ValueError(f"{where} is damaged: a text in it is no UTF-8.") from error
    except (ValueError, OverflowError) as error:
        raise error if str(error).startswith(where) else ValueError(f"{where} is damaged: {error}.") from error
    raise ValueError(f"{where} is damaged: it has no end.")


class _Machine:
    """The stack, its marks and the memo of one pickle."""

    def __init__(self, where: str, calls: Any, names: frozenset[str], persistent: Any):
        self.where, self.calls, self.names, self.persistent = where, calls, names, persistent
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def do(self, code: str, value: Any) -> None:
        """Carries one instruction of a pickle out on the stack."""
        stack = self.stack
        if code in VALUES:
            stack.append(value)
        elif code in CONSTANTS:
            stack.append(CONSTANTS[code])
        elif code in STORES:
            self.memo[value] = self.top()
        elif code == "MEMOIZE":
            self.memo[len(self.memo)] = self.top()
        elif code in FETCHES:
            if value not in self.memo:
                self.damaged(f"entry {value} of its memo is read and was never written")
            stack.append(self.memo[value])
        elif code == "MARK":
            self.marks.append(len(stack))
        elif code in TUPLES:
            stack.append(tuple(self.pop() for _ in range(TUPLES[code]))[::-1])
        elif code == "TUPLE":
            stack.append(tuple(self.above()))
        elif code in ("EMPTY_DICT", "EMPTY_LIST"):
            stack.append({} if code == "EMPTY_DICT" else [])
        elif code in ("SETITEM", "SETITEMS"):
            items = self.above() if code == "SETITEMS" else [self.pop(), self.pop()][::-1]
            self.set_items(self.top(dict), items)
        elif code in ("APPEND", "APPENDS"):
            items = self.above() if code == "APPENDS" else [self.pop()]
            self.top(list).extend(items)
        elif code == "GLOBAL":
            stack.append(self.named(value.replace(" ", ".", 1)))
        elif code == "STACK_GLOBAL":
            member, module = self.pop(str), self.pop(str)
            stack.append(self.named(f"{module}.{member}"))
        elif code == "REDUCE":
            arguments, name = self.pop(tuple), self.pop(Name)
            stack.append(self.call(name.text, arguments))
        elif code == "BINPERSID":
            stack.append(self.reference(self.pop()))
        elif code == "BUILD":
            state = self.pop()
            if isinstance(self.top(), Built):
                self.top().build(state)
            else:  # attributes of a dict, such as torch's versions of modules: left out
                self.top(dict)
        elif code not in ("PROTO", "FRAME"):
            raise ValueError(f"{self.where}: the instruction {code} is refused, since it builds no plain data.")

    def end(self) -> Any:
        """Gives what the pickle holds."""
        found = self.pop()
        if self.stack or self.marks:
            self.damaged("more than one object is left at its end")
        return found

    def top(self, kind: type = object) -> Any:
        """Looks at the top of the stack, which is of this type."""
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            self.damaged("an instruction finds no object to work on")
        if not isinstance(self.stack[-1], kind):
            self.damaged(f"a {type(self.stack[-1]).__name__} stands where a {kind.__name__} is expected")
        return self.stack[-1]

    def pop(self, kind: type = object) -> Any:
        """Takes the top of the stack, which is of this type."""
        self.top(kind)
        return self.stack.pop()

    def above(self) -> list[Any]:
        """Takes all that stands above the last mark."""
        if not self.marks:
            self.damaged("an instruction finds no mark")
        start = self.marks.pop()
        found, self.stack[start:] = self.stack[start:], []
        return found

    def set_items(self, table: dict[Any, Any], items: list[Any]) -> None:
        """Puts keys and values, in turn, into a dict."""
        if len(items) % 2 or not all(isinstance(key, str | bytes | int | float | None) for key in items[::2]):
            self.damaged("an entry of a dict has no value, or a key that is neither text nor number")
        table.update(zip(items[::2], items[1::2]))

    def named(self, text: str) -> Name:
        """Makes the name that stands for a global."""
        if text not in self.calls and text not in self.names:
            known = ", ".join(sorted(self.calls)) or "no name"
            raise ValueError(f"{self.where}: {text[:80]!r} is refused, since nothing is run; it may call {known}.")
        return Name(text)

    def call(self, text: str, arguments: tuple[Any, ...]) -> Any:
        """Calls the reader's function of a name."""
        if text not in self.calls:
            raise ValueError(f"{self.where}: {text!r} is called, expected a name alone.")
        try:
            return self.calls[text](*arguments)
        except TypeError as error:
            raise ValueError(
                f"{self.where}: {text} is called with {len(arguments)} arguments it does not take."
            ) from error

    def reference(self, found: Any) -> Any:
        """Gives what a persistent id stands for."""
        if self.persistent is None:
            raise ValueError(f"{self.where}: a persistent id is refused; expected none here.")
        return self.persistent(found)

    def damaged(self, why: str) -> None:
        """Raises the error of a damaged pickle."""
        raise ValueError(f"{self.where} is damaged: {why}.")
