"""The source text of code that is in no file of this library, such as a notebook's cells: by it a method is known."""

import dataclasses
import dis
import inspect
import re
from types import CodeType, FunctionType

PLAIN = bool | int | float | str | tuple | list | dict | None  # what a constant is


def written(value: object, seen: frozenset[int] = frozenset()) -> str | list:
    """Text of a function or class and of what it uses of the module that it stands in, nested; of a value its repr.

    Equal for equal text on every machine: comments count, places in memory do not. A function without text, from
    `exec`, is told by its byte code, which differs between versions of Python.
    """
    if id(value) in seen:
        return "as above"
    seen |= {id(value)}
    if isinstance(value, type):
        return [_base(value, base, seen) for base in value.__bases__] + _members(value, seen)
    function = inspect.unwrap(value) if callable(value) else value
    if not isinstance(function, FunctionType):
        return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))
    return [_text(function), *([name, written(used, seen)] for name, used in _used(function))]


def _base(value: type, base: type, seen: frozenset[int]) -> str | list:
    return written(base, seen) if base.__module__ == value.__module__ else base.__qualname__


def _members(value: type, seen: frozenset[int]) -> list:
    """A class's fields, constants and functions; not what `dataclass` and the like generated."""
    fields = dataclasses.fields(value) if dataclasses.is_dataclass(value) else ()
    out: list = [[f.name, str(f.type), written(f.default, seen), written(f.default_factory, seen)] for f in fields]
    for name, member in vars(value).items():
        function = getattr(member, "fget", None) or getattr(member, "__func__", member)
        if isinstance(function, FunctionType) and inspect.unwrap(function).__code__.co_filename != "<string>":
            out.append([name, written(function, seen)])
        elif not name.startswith("__") and isinstance(member, PLAIN):
            out.append([name, written(member, seen)])
    return out


def _used(function: FunctionType) -> list[tuple[str, object]]:
    """What a function reads from around it: functions and classes of its own module, constants, enclosed values."""
    around = {name: function.__globals__[name] for name in _read(function.__code__) if name in function.__globals__}
    own = {
        name: value
        for name, value in around.items()
        if isinstance(value, PLAIN) or getattr(value, "__module__", None) == function.__module__
    }
    return sorted((own | dict(inspect.getclosurevars(function).nonlocals)).items())


def _read(code: CodeType) -> set[str]:
    """Names of the module that a function's code, with the functions inside it, reads."""
    inner = [_read(const) for const in code.co_consts if isinstance(const, CodeType)]
    return {i.argval for i in dis.get_instructions(code) if i.opname == "LOAD_GLOBAL"}.union(*inner)


def _text(function: FunctionType) -> str:
    try:
        return inspect.getsource(function).strip()
    except (OSError, TypeError):
        return f"{function.__code__.co_code.hex()} {function.__code__.co_names} {function.__defaults__}"
