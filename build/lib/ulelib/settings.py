"""Settings: frozen dataclasses that are checked when they are made, and their canonical text.

A spec is made of nothing but settings: numbers, texts, tuples and other settings. So it can be
written as one canonical JSON text, whose hash is the key of what is computed from it (`key_of`),
and read back (`read`); it can be pickled and sent to another machine; and it holds no function.

`@settings` makes such a dataclass. Every field is checked against its annotation, and the error
names the field: `Recipe.momentum`. `@checked` does the same for the arguments of a function. The
names below say the bounds that come up again and again.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
import json
from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeVar

from pydantic import ConfigDict, Field, ValidationError, validate_call
from pydantic.dataclasses import dataclass as checked_dataclass
from typing_extensions import dataclass_transform

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])
CHECKS = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
def settings(cls: type[T]) -> type[T]:
    """Class decorator: a frozen dataclass whose fields are checked, without conversions.

    `True` is no number and `"3"` no count; NaN and infinities are refused. The error is a
    ValueError that names the class, the field, the bound and what was given.
    """
    if hasattr(cls, "immaterial"):
        raise TypeError(f"{cls.__name__}.immaterial has no effect any more: name it not_in_key()")
    made: Any = checked_dataclass(frozen=True, config=CHECKS)(cls)
    initialise, fields = made.__init__, [field.name for field in dataclasses.fields(made)]

    @functools.wraps(initialise)
    def init(self: Any, *values: Any, **named: Any) -> None:
        try:
            initialise(self, *values, **named)
        except ValidationError as error:  # its own text is many lines with a web address each
            refused = [_refusal(cls.__name__, fields, one) for one in error.errors()]
            raise ValueError("; ".join(refused)) from None

    made.__init__ = init
    return made  # type: ignore[no-any-return]


def checked(function: F) -> F:
    """Decorator: a function whose arguments are checked against its annotations, as settings are.

    The function of an `Op` that has bounds: `jpeg.quality is 101: input should be ...`.
    """
    strict = validate_call(config=CHECKS)(function)
    known = list(inspect.signature(function).parameters)

    @functools.wraps(function)
    def call(*values: Any, **named: Any) -> Any:
        try:
            return strict(*values, **named)
        except ValidationError as error:
            refused = [_refusal(function.__name__.strip("_"), known, one) for one in error.errors()]
            raise ValueError("; ".join(refused)) from None

    return call  # type: ignore[return-value]


def _refusal(what: str, fields: list[str], error: Any) -> str:
    """One refused field: `Recipe.momentum is 5: input should be less than 1`."""
    first, *within = error["loc"] or ("",)
    if isinstance(first, int):  # given by its place
        if first >= len(fields):
            return f"{what} takes {len(fields)} values, not {first + 1} or more"
        first = fields[first]
    place = ".".join(map(str, (what, first, *within)))
    if error["type"] == "value_error":  # raised by the class itself; it names the field
        return str(error["ctx"]["error"])
    said = error["msg"][0].lower() + error["msg"][1:]
    return f"{place} is {error['input']!r:.200}: {said}"


# Whole numbers have an upper bound, too: beyond it a loop would never end, or a tensor never fit.
Count = Annotated[int, Field(ge=1, le=10_000_000)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Share = Annotated[float, Field(ge=0, le=1)]
Radius = Annotated[float, Field(gt=0, le=1)]  # in units of the pixel range; 8 gray levels: 8 / 255
Positive = Annotated[float, Field(gt=0, le=1e6)]
NotNegative = Annotated[float, Field(ge=0, le=1e6)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]

Value = bool | int | float | str | None | tuple[Any, ...]


@settings
class Op:
    """A named function of the library and its options: a view, a network, a way to mix.

    Attributes:
        name: a key of the table in which the function is looked up, e.g. `views.VIEWS`.
        options: (name, value) pairs in alphabetical order; `op` makes them.
    """

    name: str
    options: tuple[tuple[str, Any], ...] = ()

    def __post_init__(self) -> None:
        for name, value in self.options:
            if name == "op":  # the name of the function stands under that word in the key
                raise ValueError(f'{self.name}: no option can be called "op"')
            try:
                canonical(value)
                hash(value)
            except (TypeError, ValueError) as error:
                raise ValueError(
                    f"{self.name}: {name} is {value!r}, neither finite number, text nor tuple"
                ) from error

    def __str__(self) -> str:
        given = ", ".join(f"{name} {value}" for name, value in self.options)
        return f"{self.name} ({given})" if given else self.name


def op(name: str, **options: Value) -> Op:
    """`op("crop_flip", padding=4)`, `op("convnet", stem=16, widths=(32, 64, 128))`."""
    return Op(name, tuple(sorted(options.items())))


def look_up(
    table: Mapping[str, Callable[..., T]], wanted: Op, what: str, given: int = 0
) -> Callable[..., T]:
    """`table[wanted.name]` with the options filled in.

    Args:
        table: functions by name.
        wanted: one of them.
        what: the table's kind, for the error: "view", "network".
        given: how many of its arguments, the first, are the caller's and so no options.

    Raises:
        ValueError: no such name, or an option that the function does not take.
    """
    if wanted.name not in table:
        raise ValueError(f"{what} {wanted.name!r}; choose from {sorted(table)}")
    function, options = table[wanted.name], dict(wanted.options)
    known = list(inspect.signature(function).parameters)[given:]
    if unknown := sorted(set(options) - set(known)):
        raise ValueError(f"{what} {wanted.name!r} has no option {unknown}; it takes {known}")
    return lambda *arguments: function(*arguments, **options)


def described(spec: Any, keyed: bool = False) -> Any:
    """A spec as plain JSON data; every settings object says its type.

    Args:
        spec: settings, or what they are made of.
        keyed: only what belongs to the key, see `key_of`.
    """
    if isinstance(spec, Op):
        return {"op": spec.name, **{name: described(value) for name, value in spec.options}}
    if dataclasses.is_dataclass(spec) and not isinstance(spec, type):
        outside = spec.not_in_key() if keyed and hasattr(spec, "not_in_key") else ()
        return {"type": type(spec).__name__} | {
            field.name: described(getattr(spec, field.name), keyed)
            for field in dataclasses.fields(spec)
            if field.name not in outside
        }
    if isinstance(spec, tuple | list):
        return [described(item, keyed) for item in spec]
    if spec is None or isinstance(spec, bool | int | float | str):
        return spec
    raise TypeError(f"{spec!r} has no canonical text: a spec is made of settings")


def read(plain: Any, classes: Mapping[str, type]) -> Any:
    """The spec that `described` wrote as plain data. Fields that are missing have their default:
    older code did not know them.

    Args:
        plain: JSON data.
        classes: settings by the name that stands under "type".

    Raises:
        UnknownType: settings that are not among `classes`.
        ValueError: an unknown field, or a value out of its range; names it.
    """
    if isinstance(plain, list):
        return tuple(read(item, classes) for item in plain)
    if not isinstance(plain, dict):
        return plain
    plain = dict(plain)
    if "op" in plain:
        name = plain.pop("op")
        return op(name, **{option: read(value, classes) for option, value in plain.items()})
    kind = plain.pop("type", None)
    if not isinstance(kind, str) or kind not in classes:
        raise UnknownType(f"type {kind!r:.100}; choose from {sorted(classes)}")
    return classes[kind](**{name: read(value, classes) for name, value in plain.items()})


class UnknownType(ValueError):
    """Plain data of settings that are not among the given classes: of another version, perhaps."""


def at_default(spec: Any, *names: str) -> frozenset[str]:
    """Those of a spec's fields that have their default.

    For `not_in_key`: a field that is younger than the first results stays out of the key while it
    has its default, so that what was computed before there was a choice stays valid.
    """
    defaults = {field.name: field.default for field in dataclasses.fields(spec)}
    return frozenset(name for name in names if getattr(spec, name) == defaults[name])


def canonical(spec: Any) -> str:
    """What belongs to the key of a spec, as one canonical JSON text."""
    plain = described(spec, keyed=True)
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False)


def key_of(spec: Any) -> str:
    """The first 16 hex digits of SHA-256 of the canonical text.

    All fields belong to it but those that the class's `not_in_key()` names: fields that cannot
    change a result, and younger ones at their default (`at_default`).
    """
    return hashlib.sha256(canonical(spec).encode()).hexdigest()[:16]
