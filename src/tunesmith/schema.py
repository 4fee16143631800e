"""What each key of a recipe means, for `tunesmith init` and for editors (JSON Schema).

The words stand in one place: the comment beside each field where it is declared.
"""

from __future__ import annotations

import ast
import inspect
import io
import json
import textwrap
import tokenize
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

import yaml
from pydantic import TypeAdapter

from tunesmith.recipe import ADAPTER, Recipe, as_dataclass, known_keys, listed_in, parts_of
from tunesmith.rollouts.kinds import KINDS, Common

REWARD = "RewardPart"


def comments(kind: type) -> dict[str, str]:
    """Field -> the comment lines right above it and the one on its own lines. Fields without any are left out."""
    source = textwrap.dedent(inspect.getsource(kind))
    body = ast.parse(source).body[0]
    assert isinstance(body, ast.ClassDef)
    found = {
        token.start[0]: token.string.removeprefix("#").strip()
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    code = {line for node in body.body for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)}
    words = {}
    for node in body.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            first = node.lineno
            while first - 1 in found and first - 1 not in code:
                first -= 1
            lines = range(first, (node.end_lineno or node.lineno) + 1)
            text = " ".join(found[line] for line in lines if line in found and not found[line].startswith("fmt:"))
            if text:
                words[node.target.id] = text
    return words


def descriptions(kind: type = Recipe, prefix: str = "") -> dict[str, str]:
    """Dotted key -> what it is, for groups of keys too."""
    words = comments(kind)
    out = {}
    for name, inner in parts_of(kind).items():
        if name in words:
            out[f"{prefix}{name}"] = words[name]
        part = as_dataclass(inner)
        if part:
            out |= descriptions(part, f"{prefix}{name}.")
    return out


def commented(chosen: Mapping[str, tuple[Any, str]], often: Iterable[str], head: Iterable[str]) -> str:
    """A recipe's text: `chosen` keys -> (value, why), and the defaults of `often`, in the order of the fields."""
    words, shown = descriptions(), {*chosen, *often}
    lines = [*(f"# {line}" for line in head)]
    groups: list[str] = []
    for key in known_keys():
        if key not in shown:
            continue
        *parents, last = key.split(".")
        for depth in range(len(parents)):
            group = ".".join(parents[: depth + 1])
            if group not in groups:
                groups.append(group)
                lines += ["", f"{'  ' * depth}{parents[depth]}:  # {words[group]}"]
        indent = "  " * len(parents)
        value, why = chosen.get(key, (default_of(key), ""))
        mark = "" if key in chosen else "# "
        lines += [""] if not parents else []
        lines += textwrap.wrap(
            f"why: {why}", 118, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# "
        ) * bool(why)
        line = f"{indent}{mark}{last}: {as_yaml(value)}"
        if len(line) + len(words[key]) + 4 <= 120:
            lines.append(f"{line}  # {words[key]}")
        else:
            lines += [
                *textwrap.wrap(words[key], 118, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# "),
                line,
            ]
    return "\n".join(lines) + "\n"


def default_of(key: str) -> Any:
    value: Any = asdict(Recipe())
    for name in key.split("."):
        value = value[name]
    return value


def as_yaml(value: Any) -> str:
    """On one line."""
    if isinstance(value, str) and ("\n" in value or len(value) > 60):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(as_yaml, value))}]"
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10_000)
    return text.removesuffix("\n").removesuffix("...").strip()


def json_schema() -> dict[str, Any]:
    """JSON Schema of a recipe file (draft 2020-12): what `recipe.parse` accepts, with a description of every key."""
    schema = ADAPTER.json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "A tunesmith recipe"
    schema["$defs"][REWARD] = {"anyOf": [reward_schema(kind, options) for kind, options in KINDS.items()]}
    schema["properties"]["reward"]["items"] = {"$ref": f"#/$defs/{REWARD}"}
    describe(schema, Recipe, schema["$defs"])
    return schema


def reward_schema(kind: str, options: type[Common]) -> dict[str, Any]:
    """Of one part of a reward: the keys of its kind and no others."""
    schema = TypeAdapter(options).json_schema()
    schema["additionalProperties"] = False
    for name, words in {**comments(Common), **comments(options)}.items():
        schema["properties"][name]["description"] = words
    schema["properties"]["kind"] = {"const": kind, "description": schema.pop("description")}
    if "parts" in schema["properties"]:
        schema["properties"]["parts"]["items"] = {"$ref": f"#/$defs/{REWARD}"}
    return schema


def describe(record: dict[str, Any], kind: type, defs: dict[str, Any]) -> None:
    """Add to the schema of one dataclass what pydantic does not know: the words, that no other key is allowed, and that
    one text may stand for a list of one and null for a group that is left out."""
    words = comments(kind)
    record["additionalProperties"] = False
    record.pop("description", None)
    for name, inner in parts_of(kind).items():
        found = record["properties"][name]
        part = as_dataclass(inner)
        if part:
            describe(defs[part.__name__], part, defs)
            found = {"anyOf": [{"$ref": f"#/$defs/{part.__name__}"}, {"type": "null"}]}
        else:
            options = found.get("anyOf", [found])
            array = next((o for o in options if o.get("type") == "array"), None)
            if array is not None:
                rest = {k: v for k, v in found.items() if k in ("default", "title")}
                plain = [{k: v for k, v in o.items() if k not in rest} for o in options]
                if each := listed_in(inner):
                    describe(defs[each.__name__], each, defs)
                found = {"anyOf": [*plain, array["items"]], **rest}
        if name in words:
            found["description"] = words[name]
        record["properties"][name] = found
