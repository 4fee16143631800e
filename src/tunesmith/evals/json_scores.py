"""Scores of replies that are JSON objects. A reply is right or wrong as a program would read it: no fences, no text
around it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NoReturn

from tunesmith.errors import DataError, InputError
from tunesmith.evals.text import as_text


def refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")  # NaN and Infinity, which Python's parser would let through


def parsed(given: object) -> dict[str, Any] | None:
    """The JSON object that a text is, or None: what does not parse is a wrong answer, and scored as such."""
    try:
        value = json.loads(as_text(given), parse_constant=refuse)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def wanted(reference: object) -> dict[str, Any]:
    value = parsed(reference)
    if value is None:
        raise DataError(
            f"the reference {as_text(reference)[:60]!r} is not a JSON object, which the json metrics compare with; "
            "mend the row, or choose exact_match or token_f1 as the metric."
        )
    return value


def same(a: Any, b: Any) -> bool:
    """Equal as JSON: true is not 1, 1 is 1.0, the order of keys does not matter and that of lists does."""
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b))
    return bool(a == b)


def valid(output: object, reference: object) -> float:
    """1 where the output is a JSON object, whatever is in it."""
    return float(parsed(output) is not None)


def exact(output: object, reference: object) -> float:
    """1 where the output is the reference's object: all its fields and no other."""
    right, got = wanted(reference), parsed(output)
    return float(got is not None and same(got, right))


def fields(output: object, reference: object) -> float:
    """Share of the reference's fields that the output has with an equal value; 0 when it is no JSON object.

    Fields that the output invents do not count; `exact` sees them. A reference without fields: 1 for an empty object,
    else 0.
    """
    right, got = wanted(reference), parsed(output)
    if got is None:
        return 0.0
    if not right:
        return float(not got)
    return sum(key in got and same(got[key], value) for key, value in right.items()) / len(right)


def leaves(value: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Path -> value of all fields, those of nested objects by themselves; a list is one value, and so is an empty
    object."""
    if not isinstance(value, dict) or (path and not value):
        return {path: value}
    return {at: leaf for key, inner in value.items() for at, leaf in leaves(inner, (*path, key)).items()}


def field_f1(output: object, reference: object) -> float:
    """F1 of the fields, those of nested objects one by one: a field that is missing, wrong or invented costs. Two
    objects without fields: 1; an output that is no JSON object: 0."""
    right, got = leaves(wanted(reference)), parsed(output)
    if got is None:
        return 0.0
    given = leaves(got)
    if not right and not given:
        return 1.0
    return 2 * sum(at in given and same(given[at], v) for at, v in right.items()) / (len(right) + len(given))


def any_json(text: str) -> tuple[Any, bool]:
    """(value, whether the text is JSON at all)."""
    try:
        return json.loads(text, parse_constant=refuse), True
    except (ValueError, RecursionError):
        return None, False


class Schema:
    """A JSON schema, checked itself first. What it refers to must stand in it: nothing is fetched."""

    def __init__(self, schema: Mapping[str, Any] | bool, name: str) -> None:
        try:
            from jsonschema.exceptions import SchemaError
            from jsonschema.validators import validator_for
            from jsonschema_specifications import REGISTRY
        except ImportError as error:
            raise InputError(
                "the metric json_schema needs the jsonschema package: pip install 'tunesmith[jsonschema]'"
            ) from error
        if not isinstance(schema, (Mapping, bool)):
            raise InputError(f"the JSON schema {name} is {schema!r:.60}; wanted an object")
        kind = validator_for(schema)
        try:
            kind.check_schema(schema)
        except SchemaError as error:
            where = "/".join(map(str, error.absolute_path)) or "its top"
            raise InputError(f"the JSON schema {name} is not one, at {where}: {error.message}") from error
        self.name, self.validator = name, kind(schema, registry=REGISTRY)

    def valid(self, output: object) -> float:
        """1 where the output is JSON, of whatever kind, that the schema takes."""
        value, is_json = any_json(as_text(output))
        if not is_json:
            return 0.0
        try:
            return float(self.validator.is_valid(value))
        except RecursionError:
            return 0.0
        except Exception as error:  # a reference is looked up when it is met first
            if type(error).__module__.split(".")[0] not in ("referencing", "jsonschema"):
                raise
            raise InputError(
                f"the JSON schema {self.name} refers to what is not in it ({error}); nothing is fetched from "
                "elsewhere: put it under $defs."
            ) from error
