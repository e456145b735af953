"""Pickles read as data: nothing that a file names is imported or called.

A pickle is a program for a machine with a stack, and Python's own unpickler lets it
call anything that can be imported. The machine here knows only the instructions that
weight files need, and a name stands for a value or a function of the caller's table.
"""

import dataclasses
import os
import pickletools
import types
from collections.abc import Callable, Mapping
from typing import IO, Any

# Far more than any weight file has; bounds the memory that one-byte instructions take.
MAX_INSTRUCTIONS = 5_000_000
# Copies that functions of the table may make: honest files need each byte once or
# twice, but a pickle can pass one long string to a function again and again.
MAX_COPIES_PER_BYTE = 4
MAX_FREE_COPIES = 10_000_000
MAX_KEY_LENGTH = 1000

_UNSET = object()
_LITERALS = frozenset(
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING "
    "SHORT_BINSTRING UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINBYTES "
    "SHORT_BINBYTES BINBYTES8 BYTEARRAY8".split()
)
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_CONTAINERS = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set}
_STACK_OPCODES = frozenset(
    "BINPUT LONG_BINPUT PUT MEMOIZE BINGET LONG_BINGET GET MARK POP POP_MARK "
    "DUP".split()
)
_ITEM_OPCODES = frozenset(
    "TUPLE TUPLE1 TUPLE2 TUPLE3 LIST APPEND APPENDS DICT SETITEM SETITEMS ADDITEMS "
    "FROZENSET".split()
)
_OBJECT_OPCODES = frozenset("GLOBAL STACK_GLOBAL REDUCE NEWOBJ BUILD BINPERSID".split())
_NOTHING_TO_DO = frozenset("PROTO FRAME STOP".split())


class Pending:
    """What a function of the table returns for an object whose state follows (BUILD).

    Attributes:
      finish: state -> value.
      value: what the object is so far; without it, an object that never gets its state
        is an error.
    """

    def __init__(self, finish: Callable[[Any], Any], *, value: Any = _UNSET) -> None:
        self.finish = finish
        self.value = value


@dataclasses.dataclass(frozen=True)
class _Constructor:
    """A function of the table, on the stack. Only these can be called."""

    name: str
    make: Callable[..., Any]


def read(
    file: IO[bytes],
    table: Mapping[str, Any],
    *,
    name: str,
    persistent: Callable[[Any], Any] | None = None,
) -> Any:
    """Reads the pickle at the file's position and leaves the file just behind it.

    Args:
      file: seekable.
      table: "module.name" -> what stands for it: a function, called where the pickle
        calls that name, or a value that is not callable. Everything else is refused.
      name: what errors call the file.
      persistent: persistent id -> value; without it, ids are refused.

    Returns:
      None, booleans, numbers, text, bytes, tuples, lists, dicts, sets and what the
      table's functions and values and `persistent` give. May hold itself. Text of
      Python 2 is decoded as Latin-1.

    Raises:
      ValueError: if the pickle is damaged, names or does anything that is not allowed,
        or takes more memory than its size explains.
    """
    start = file.tell()
    position: int | None = start
    end = file.seek(0, os.SEEK_END)
    file.seek(start)
    max_copies = MAX_COPIES_PER_BYTE * (end - start) + MAX_FREE_COPIES
    machine = _Machine(table, persistent, max_copies=max_copies)
    instructions = pickletools.genops(_bounded(file, end))
    try:
        for count, (opcode, argument, offset) in enumerate(instructions):
            position = offset
            if count == MAX_INSTRUCTIONS:
                raise ValueError(
                    f"more than {MAX_INSTRUCTIONS} instructions, which no weight file "
                    "needs"
                )
            machine.run(opcode.name, argument)
        return machine.result()
    except ValueError as error:
        raise ValueError(f"{name}, byte {position}: {str(error)[:500]}") from error
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        MemoryError,
        RecursionError,
        TypeError,
    ) as error:
        raise ValueError(
            f"{name}, byte {position}: not a sound pickle "
            f"({type(error).__name__}: {str(error)[:500]}); fetch the file again."
        ) from error


def _bounded(file: IO[bytes], end: int) -> Any:
    """The file, of which no more is read than it has, whatever a pickle declares."""
    return types.SimpleNamespace(
        read=lambda count: file.read(min(count, end - file.tell())),
        readline=file.readline,
        tell=file.tell,
    )


def checked_key(key: Any) -> Any:
    """The key of a dictionary or member of a set, if it is a plain one.

    Hashing runs over all that a key holds, however deep, so only scalars, text and
    short flat tuples of them are allowed.

    Raises:
      ValueError: if it is not.
    """
    parts = key if type(key) is tuple and len(key) <= 16 else (key,)
    for part in parts:
        kind = type(part)
        is_plain = (
            part is None
            or kind in (bool, float)
            or (kind in (str, bytes) and len(part) <= MAX_KEY_LENGTH)
            or (kind is int and part.bit_length() < 64)
        )
        if not is_plain:
            raise ValueError(
                f"refuses a {kind.__name__} as a key; keys are numbers, text of at "
                f"most {MAX_KEY_LENGTH} characters, or short tuples of them"
            )
    return key


def _settled(value: Any) -> Any:
    """The value itself, for what may still wait for its state."""
    if isinstance(value, Pending):
        if value.value is _UNSET:
            raise ValueError("an object is used before its state is given")
        return value.value
    return value


def _num_copied(value: Any) -> int:
    """Items and characters that a function may copy, in a value or a tuple's parts."""
    sized = (str, bytes, bytearray, list, tuple, dict, set, frozenset)
    parts = value if isinstance(value, tuple) else (value,)
    return sum(len(part) for part in parts if isinstance(part, sized))


class _Machine:
    """The stack, the memo, and a method for each group of instructions."""

    def __init__(
        self,
        table: Mapping[str, Any],
        persistent: Callable[[Any], Any] | None,
        *,
        max_copies: int,
    ) -> None:
        self._table = table
        self._persistent = persistent
        self._copies_left = max_copies
        self._stack: list[Any] = []
        self._below_marks: list[list[Any]] = []  # the stack below each open mark
        self._memo: dict[int, Any] = {}

    def run(self, opcode: str, argument: Any) -> None:
        """Runs one instruction."""
        if opcode in _LITERALS:
            self._stack.append(argument)
        elif opcode in _CONSTANTS:
            self._stack.append(_CONSTANTS[opcode])
        elif opcode in _CONTAINERS:
            self._stack.append(_CONTAINERS[opcode]())
        elif opcode in _STACK_OPCODES:
            self._run_on_stack(opcode, argument)
        elif opcode in _ITEM_OPCODES:
            self._run_on_items(opcode)
        elif opcode in _OBJECT_OPCODES:
            self._run_on_objects(opcode, argument)
        elif opcode not in _NOTHING_TO_DO:
            raise ValueError(
                f"refuses the instruction {opcode}; a weight file does not need it"
            )

    def _run_on_stack(self, opcode: str, argument: Any) -> None:
        """Moves values between the stack and the memo, or over a mark."""
        match opcode:
            case "BINPUT" | "LONG_BINPUT" | "PUT":
                self._memo[argument] = self._stack[-1]
            case "MEMOIZE":
                self._memo[len(self._memo)] = self._stack[-1]
            case "BINGET" | "LONG_BINGET" | "GET":
                self._stack.append(self._memo[argument])
            case "MARK":
                self._below_marks.append(self._stack)
                self._stack = []
            case "POP" if self._stack:
                self._stack.pop()
            case "POP" | "POP_MARK":
                self._stack = self._below_marks.pop()
            case "DUP":
                self._stack.append(self._stack[-1])

    def _run_on_items(self, opcode: str) -> None:
        """Makes a container of items, or adds items to one."""
        match opcode:
            case "TUPLE":
                items = self._pop_to_mark()
                self._stack.append(tuple(items))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                items = [self._pop() for _ in range(int(opcode[-1]))]
                self._stack.append(tuple(reversed(items)))
            case "LIST":
                items = self._pop_to_mark()
                self._stack.append(items)
            case "APPEND":
                item = self._pop()
                self._top(list, opcode).append(item)
            case "APPENDS":
                items = self._pop_to_mark()
                self._top(list, opcode).extend(items)
            case "DICT":
                items = self._pop_to_mark()
                self._stack.append(_set_items({}, items))
            case "SETITEM":
                items = [self._pop(), self._pop()]
                _set_items(self._top(dict, opcode), items[::-1])
            case "SETITEMS":
                items = self._pop_to_mark()
                _set_items(self._top(dict, opcode), items)
            case "ADDITEMS":
                items = self._pop_to_mark()
                self._top(set, opcode).update(map(checked_key, items))
            case "FROZENSET":
                items = self._pop_to_mark()
                self._stack.append(frozenset(map(checked_key, items)))

    def _run_on_objects(self, opcode: str, argument: Any) -> None:
        """Looks a name up, or makes an object by what a name stands for."""
        match opcode:
            case "GLOBAL":
                module, _, attribute = argument.partition(" ")
                self._stack.append(self._look_up(module, attribute))
            case "STACK_GLOBAL":
                attribute, module = self._pop(), self._pop()
                self._stack.append(self._look_up(module, attribute))
            case "REDUCE" | "NEWOBJ":
                arguments, constructor = self._pop(), self._pop()
                self._stack.append(self._call(constructor, arguments))
            case "BUILD":
                self._build(self._pop())
            case "BINPERSID":
                self._stack.append(self._load(self._pop()))

    def result(self) -> Any:
        """What is left when the pickle has ended."""
        if self._below_marks or len(self._stack) != 1:
            raise ValueError("the pickle ends with other than one value on its stack")
        return self._pop()

    def _pop(self) -> Any:
        return _settled(self._stack.pop())

    def _pop_to_mark(self) -> list[Any]:
        items = [_settled(value) for value in self._stack]
        self._stack = self._below_marks.pop()
        return items

    def _top(self, kind: type, opcode: str) -> Any:
        value = _settled(self._stack[-1])
        if type(value) is not kind:
            raise ValueError(f"refuses {opcode} on a {type(value).__name__}")
        return value

    def _look_up(self, module: Any, attribute: Any) -> Any:
        if not isinstance(module, str) or not isinstance(attribute, str):
            raise ValueError("refuses to import what is not named by text")
        name = f"{module}.{attribute}"
        # Python would look a dotted attribute up piece by piece: a way around a table.
        if "." in attribute or name not in self._table:
            shown = name if name.isprintable() else ascii(name)
            raise ValueError(
                f"refuses to run {shown[:200]}; a weight file holds tensors and "
                "containers only. Of a model that was saved whole, save its "
                "state_dict() with PyTorch and read that."
            )
        known = self._table[name]
        return _Constructor(name, known) if callable(known) else known

    def _call(self, constructor: Any, arguments: Any) -> Any:
        if not isinstance(constructor, _Constructor) or type(arguments) is not tuple:
            raise ValueError(f"refuses to call a {type(constructor).__name__}")
        self._charge(arguments)
        return constructor.make(*arguments)

    def _build(self, state: Any) -> None:
        target = self._stack[-1]
        if not isinstance(target, Pending):
            raise ValueError(f"refuses to set the state of a {type(target).__name__}")
        self._charge(state)
        target.value = target.finish(state)

    def _load(self, persistent_id: Any) -> Any:
        if self._persistent is None:
            raise ValueError("refuses persistent ids; this format has none")
        return self._persistent(persistent_id)

    def _charge(self, value: Any) -> None:
        self._copies_left -= _num_copied(value)
        if self._copies_left < 0:
            raise ValueError("the pickle copies far more than the file holds")


def _set_items(target: dict[Any, Any], items: list[Any]) -> dict[Any, Any]:
    """Sets the items of an alternating list of keys and values."""
    if len(items) % 2:
        raise ValueError("a key without a value")
    for key, value in zip(items[::2], items[1::2], strict=True):
        target[checked_key(key)] = value
    return target
