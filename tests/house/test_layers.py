"""Imports point up the list of layers only. Folders on one line do not import each other."""

from __future__ import annotations

import ast

import pytest
from tests.house.source import PACKAGE, Source, at, functions, package

SERVICES = (
    *("recipe", "plan", "build", "folder", "answered", "rows_out", "stopping", "evaluate", "guards", "teach", "watch"),
    *("opened", "measured", "judged", "preferences", "run", "deliver", "quickstart", "init", "fit", "schema"),
    *("power", "contaminated", "toxic_model", "target_inputs"),
    *("spellings", "importing", "runs", "doctor", "compared", "calibrate", "predict", "best_of", "predict_file", "api"),
    *("gates", "openings", "seeds", "explain", "explained", "understanding", "candidates", "ranked", "room"),
    *("robustness", "footprint", "fitted", "pace", "harness", "limits", "method", "replay", "looks", "settled"),
    *("questions", "answerers", "evaluated", "evaluations", "blind", "sealed", "verified", "reproduced"),
    *("rehearse", "exported", "reports", "resumed", "sizes", "deaths", "by_heart", "distilled"),
    *("prompt_rows", "samplers", "both_orders", "choosers", "prefer", "selection", "row_scores", "sources", "mixed"),
    *("pair_sheet", "label_sheet", "novel", "synthetic_kinds", "synthesise"),
    *("trial", "space", "study", "sweep", "rate_range", "curve", "rungs", "side_by_side", "nested"),
    *("causes", "beside", "graded"),
    *("lineage", "recorded", "heritage", "against_parent", "long_context"),
    *("speeds", "unasked", "played", "reference", "feedback", "rewarded", "reward", "episodic"),
    *("classes", "probing", "class_export", "masked_export", "score_export", "crew", "parallel"),
)
LAYERS = (
    ("types", "roles", "errors", "files", "places", "offline", "plain_yaml", "secret", "exits"),
    ("data", "models", "store"),
    ("objectives", "regularisers", "generate"),
    ("engine", "evals"),
    ("rollouts",),
    ("report", "export", "trackers"),
    SERVICES,
    ("launch", "serve", "web", "cli"),
    ("__main__",),
)
LAYER = {part: number for number, parts in enumerate(LAYERS) for part in parts}
SINGLE_FILES = {*LAYERS[0], *SERVICES}  # files, not folders: those of one line may know each other
# Each of these has one file that wraps it, so that the rest of the package runs without it.
HEAVY = (
    *("vllm", "ray", "fastapi", "bitsandbytes", "llama_cpp", "liger_kernel", "torchao", "sacrebleu", "rouge_score"),
    *("tensorboard", "wandb", "mlflow", "trackio", "lm_eval", "optuna", "reasoning_gym", "llguidance"),
    *("py3langid", "profanity_check"),
)


def imported(source: Source, node: ast.AST) -> list[str]:
    """Dotted names that one statement or call imports; relative imports are resolved."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        if node.level == 0:
            stem = node.module or ""
        else:
            is_folder = source.path.endswith("__init__.py")
            parts = source.module.split(".")
            parts = parts[: len(parts) - node.level + (1 if is_folder else 0)]
            stem = ".".join([*parts, *([node.module] if node.module else [])])
        return [f"{stem}.{alias.name}" for alias in node.names]
    if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
        return [fixed_name(node.args[0])] if node.args else []
    return []


def fixed_name(name: ast.expr) -> str:
    """What is fixed of a module's name: f"tunesmith.{x}" is tunesmith. What is wholly computed may be ours too."""
    if isinstance(name, ast.Constant):
        return str(name.value)
    text = ast.unparse(name)
    return PACKAGE if PACKAGE in text or not isinstance(name, ast.JoinedStr) else text


def own_part(name: str) -> str | None:
    """tunesmith.data.split -> data; None for other packages and for the package itself."""
    parts = name.split(".")
    return parts[1] if parts[0] == PACKAGE and len(parts) > 1 else None


def wrong_imports(source: Source) -> list[str]:
    """Imports that point down the list or across a line, and parts that stand in no layer."""
    here = own_part(source.module)
    if here is None:
        return []
    if here not in LAYER:
        return [f"{source.path}: {here} stands in no layer of DESIGN"]
    found = []
    for node in ast.walk(source.tree):
        for part in filter(None, map(own_part, imported(source, node))):
            if part not in LAYER:
                found.append(at(source, node, f"imports {part}, which stands in no layer"))
            elif LAYER[part] > LAYER[here]:
                found.append(at(source, node, f"{here} (layer {LAYER[here]}) imports {part} (layer {LAYER[part]})"))
            elif LAYER[part] == LAYER[here] and part != here and not {part, here} <= SINGLE_FILES:
                found.append(at(source, node, f"{here} and {part} stand on one line and must not know each other"))
    return list(dict.fromkeys(found))


def hidden_imports(source: Source) -> list[str]:
    """Functions that import our own package when they are called: `path function`."""
    found = set()
    for function in functions(source.tree):
        for node in ast.walk(function):
            if any(name.split(".")[0] == PACKAGE for name in imported(source, node)):
                found.add(f"{source.path} {function.name}")
    return sorted(found)


def wrappers(sources: list[Source]) -> dict[str, set[str]]:
    """Heavy package -> the files that import it."""
    found: dict[str, set[str]] = {}
    for source in sources:
        for node in ast.walk(source.tree):
            for name in imported(source, node):
                if name.split(".")[0] in HEAVY:
                    found.setdefault(name.split(".")[0], set()).add(source.path)
    return found


def test_imports_point_up() -> None:
    assert [line for source in package() for line in wrong_imports(source)] == []


def test_only_the_lazy_loader_imports_inside_a_function() -> None:
    hidden = [line for source in package() for line in hidden_imports(source)]
    lazy = f"src/{PACKAGE}/__init__.py __getattr__"  # PEP 562: `import tunesmith` must be light
    hidden = [line for line in hidden if line != lazy]
    assert [line for line in hidden if not line.startswith(f"src/{PACKAGE}/cli/")] == []
    assert len(hidden) <= 1, "one lazy loader is enough"


def test_heavy_packages_have_one_wrapper() -> None:
    assert {name: files for name, files in wrappers(package()).items() if len(files) > 1} == {}


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("data/split.py", "from tunesmith.models import load"),  # across
        ("data/split.py", "from tunesmith import store"),
        ("data/split.py", "from ..engine.loop import train"),  # down, relative
        ("types.py", "import tunesmith.data.pack"),
        ("evals/score.py", "from tunesmith.engine import session"),
        ("engine/loop.py", "from tunesmith.recipe import Recipe"),
        ("engine/loop.py", "if TYPE_CHECKING:\n    from tunesmith.run import run"),
        ("report/html.py", "def f():\n    import importlib\n    importlib.import_module('tunesmith.run')"),
        ("utils.py", "x = 1"),  # in no layer
        ("data/split.py", "from tunesmith.helpers import x"),
    ],
)
def test_mutant_wrong_import_is_found(path: str, text: str) -> None:
    assert wrong_imports(Source(f"src/tunesmith/{path}", text))


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (
            "data/split.py",
            "from tunesmith.types import Example\nfrom . import pack\nfrom tunesmith.data.render import x",
        ),
        ("roles.py", "from tunesmith.types import Forest"),
        ("run.py", "from tunesmith.plan import plan\nfrom tunesmith.evals import score"),
        ("cli/main.py", "from tunesmith.run import run"),
        ("data/__init__.py", "from .split import split"),
    ],
)
def test_right_import_is_left_alone(path: str, text: str) -> None:
    assert wrong_imports(Source(f"src/tunesmith/{path}", text)) == []


@pytest.mark.parametrize(
    "text",
    [
        "def f():\n    from tunesmith.types import Forest",
        "class A:\n    def f(self):\n        if x:\n            from . import pack",
        "async def f():\n    import tunesmith.data",
        "def f(name):\n    return import_module(f'tunesmith.{name}')",
        "def f(name):\n    return importlib.import_module(name)",
    ],
)
def test_mutant_hidden_import_is_found(text: str) -> None:
    assert hidden_imports(Source("src/tunesmith/data/split.py", text))
    assert hidden_imports(Source("src/tunesmith/data/split.py", "import tunesmith\ndef f():\n    import json")) == []


def test_mutant_second_wrapper_is_found() -> None:
    one = Source("src/tunesmith/generate/vllm.py", "def f():\n    import vllm.engine")
    two = Source("src/tunesmith/evals/score.py", "from vllm import LLM")
    assert wrappers([one]) == {"vllm": {one.path}}
    assert wrappers([one, two]) == {"vllm": {one.path, two.path}}
