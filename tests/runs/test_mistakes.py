"""Mistakes that people make, as they type them: one message that says what, what was found, what was wanted and what
to type; the documented exit code; no traceback; and nothing is left behind."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from tests.runs.mistakes import (
    Mistake,
    both,
    changed,
    copied,
    cut,
    folder,
    gone,
    half_table,
    half_workbook,
    other_base,
    raw,
    replaced,
    rows_of,
    text,
    typed,
    unfinished,
    world,
)

PLAN = "plan recipe.yaml --set "
DATA = PLAN + "data.train="
NEW = "run recipe.yaml --out new --set "
GO_ON = "run --resume --out run"
CHAT = "chat run --once hi"
BINARY = bytes(range(256)) * 50
ONE_LABEL = [{"text": f"t {i}", "label": "fox"} for i in range(40)]
NO_REPLY = [{"prompt": f"t {i}", "completion": ""} for i in range(40)]
OFFLINE = (("HF_HUB_OFFLINE", "1"),)

DATA_FILES = [
    Mistake("a file that is not there", DATA + "row.jsonl", ("row.jsonl: there is no such file", "mean rows.jsonl?")),
    Mistake("it is not there for a run", NEW + "data.train=row.jsonl", ("no such file", "Did you mean rows.jsonl?")),
    Mistake("a test file that is not there", PLAN + "data.test=t.csv", ("t.csv: there is no such file",)),
    Mistake("a file below a file", DATA + "rows.jsonl/x.csv", ("rows.jsonl/x.csv: there is no such file",)),
    Mistake("an empty file", DATA + "e.jsonl", ("e.jsonl: there are no rows", "Wanted"), text("e.jsonl", "")),
    Mistake("a header alone", DATA + "e.csv", ("e.csv: there are no rows",), text("e.csv", "text,label\n")),
    Mistake("a binary file", DATA + "b.csv", ("b.csv: holds zero bytes", "Export it as CSV"), raw("b.csv", BINARY)),
    Mistake("a PDF", DATA + "b.csv", ("b.csv: is a PDF, not text",), raw("b.csv", b"%PDF-1.7 x")),
    Mistake("half a line", DATA + "r.jsonl", ("r.jsonl:1: is not JSON", "column 9"), text("r.jsonl", '{"text":"')),
    Mistake("half a JSON file", DATA + "r.json", ("r.json: is not JSON", "Wanted"), text("r.json", '[{"text":"a"},{')),
    Mistake("half a workbook", DATA + "r.xlsx", ("r.xlsx: is no Excel workbook", "or as CSV"), half_workbook),
    Mistake("half a Parquet file", DATA + "r.parquet", ("r.parquet: is not a Parquet file",), half_table),
    Mistake("a kind that is not known", DATA + "r.docx", ("'r.docx'", ".csv", ".xlsx"), raw("r.docx", b"PK\3\4")),
    Mistake("a folder without data", DATA + "d", ("d: holds no data file", ".jsonl"), folder("d")),
    Mistake("no data at all", "run", ("data.train names no file", "--data FILE")),
    Mistake("a wrong column", PLAN + "data.columns.prompt=txt", ("no column 'txt'", "text, label", "mean text?")),
    Mistake("for a run", NEW + "data.columns.label=lable", ("no column 'lable'", "text, label", "mean label?")),
    Mistake("columns with odd names", "plan --model model --data c.csv", ("'colour', 'shape'", "--set data.columns."),
            text("c.csv", "colour,shape\nred,round\n")),
    Mistake("one label only", DATA + "r.jsonl", ("at least two labels", "1 (fox)"), rows_of("r.jsonl", *ONE_LABEL)),
    Mistake("nothing to learn", DATA + "r.jsonl", ("none of its 40 rows", "r.jsonl:1", "'completion') is empty"),
            rows_of("r.jsonl", *NO_REPLY)),
    Mistake("all too long", PLAN + "data.max_tokens=4", ("none of the 74", "more than 4", "raise data.max_tokens")),
    Mistake("two rows", DATA + "r.jsonl", ("the test split is empty", "more data"),
            rows_of("r.jsonl", *ONE_LABEL[:1], {"text": "b", "label": "dog"})),
    Mistake("an encoding that is none", PLAN + "data.reading.encoding=utf9", ("'utf9'", "cp1252")),
]  # fmt: skip

RECIPES = [
    Mistake("a recipe that is not there", "run recipes.yaml", ("recipes.yaml is not there", "--data FILE")),
    Mistake("a folder as recipe", "run run", ("run is a folder", "wanted a YAML file", "--resume --out run")),
    Mistake("data as recipe", "run rows.jsonl", ("looks like data", "--data rows.jsonl")),
    Mistake("half a recipe", "plan r.yaml", ("r.yaml is not YAML", "line 2"), text("r.yaml", "model: [a\nb: c")),
    Mistake("a binary recipe", "plan r.yaml", ("r.yaml is not YAML",), raw("r.yaml", BINARY)),
    Mistake("a list as recipe", "plan r.yaml", ("the recipe is ['a']", "keys and values"), text("r.yaml", "- a")),
    Mistake("a key that is not known", PLAN + "train.epoch=1", ("unknown key train.epoch", "mean train.epochs?")),
    Mistake("another tool's key", PLAN + "learning_rate=1", ("learning_rate", "is train.lr here")),
    Mistake("a word for a number", PLAN + "train.epochs=many", ("train.epochs is 'many'", "wanted a whole number")),
    Mistake("a number below 0", PLAN + "train.epochs=-1", ("train.epochs is -1", "above 0")),
    Mistake("no such choice", PLAN + "task.name=clasify", ("task.name is 'clasify'", "Did you mean classify?")),
    Mistake("no such metric", PLAN + "task.metric=acuracy", ("task.metric is 'acuracy'", "Did you mean accuracy?")),
    Mistake("no such export", PLAN + "export=[gguf]", ("export is 'gguf'", "tunesmith export RUN --to")),
    Mistake("half a --set", PLAN + "train.epochs", ("wanted key=value", "--set train.epochs=3")),
    Mistake("no such layer", NEW + "adapt.targets=[q_prj]", ("no such layer", "q_proj", "Did you mean q_proj?")),
    Mistake("more layers than there are", NEW + "adapt.last_k=9 --set adapt.method=last_k", ("last_k is 9", "1 to 2")),
    Mistake("longer than the context", PLAN + "data.max_tokens=4096", ("max_tokens is 4096", "made for 2048")),
]  # fmt: skip

MODELS = [
    Mistake("a model that is not known", "plan --model gpt-5 --data rows.jsonl", ("gpt-5 is not known", "owner/name")),
    Mistake("nearly a name", "plan --model smolm2-135m-instruct --data rows.jsonl", ("mean smollm2-135m-instruct?",)),
    Mistake("a folder that is not there", "plan --model ./modle --data rows.jsonl", ("no folder", "mean model?")),
    Mistake("a file as model", "plan --model rows.jsonl --data rows.jsonl", ("rows.jsonl is no folder",)),
    Mistake("a run as model", "plan --model run --data rows.jsonl", ("run is a run", "run/merged")),
    Mistake("an adapter as model", "plan --model run/adapter --data rows.jsonl", ("is an adapter", "merge them first")),
    Mistake("no network", "plan --model some/model --data rows.jsonl", ("some/model", "HF_HUB_OFFLINE", "unset it"),
            environ=OFFLINE),
    Mistake("no weights", NEW + "seed=1", ("the weights in model", "no file named model.safetensors"),
            gone("model/model.safetensors")),
    Mistake("half the weights", NEW + "seed=1", ("the weights in model", "copy the folder again"),
            cut("model/model.safetensors")),
    Mistake("weights of another shape", PLAN + "seed=1", ("weights in model are not those", "another shape", "lm_head"),
            changed("model/config.json", hidden_size=32)),
    Mistake("weights that lack a layer", PLAN + "seed=1", ("not those of its config.json", "18 tensors are missing"),
            changed("model/config.json", num_hidden_layers=4)),
    Mistake("half a configuration", PLAN + "seed=1", ("the configuration in model",), cut("model/config.json")),
    Mistake("an architecture of tomorrow", PLAN + "seed=1", ("model type `foo`",),
            changed("model/config.json", model_type="foo")),
    Mistake("no tokenizer", PLAN + "seed=1", ("there is no tokenizer in model",), gone("model/tokenizer.json")),
    Mistake("half a tokenizer", PLAN + "seed=1", ("the tokenizer in model",), cut("model/tokenizer.json")),
    Mistake("half a chat template", PLAN + "seed=1", ("chat template cannot render", "endfor"),
            text("model/chat_template.jinja", "{% for m in messages %}")),
    Mistake("no room for the weights", NEW + "seed=1", ("too little memory", "0.02849 million weights", "models"),
            environ=(("TUNESMITH_MEMORY_GIB", "0.00001"),)),
    Mistake("no room to train", NEW + "seed=1", ("too little memory", "stage train", "take a smaller model"),
            environ=(("TUNESMITH_MEMORY_GIB", "0.0005"),)),
]  # fmt: skip

RUNS = [
    Mistake("a folder with another run", "run recipe.yaml --out run", ("run is not empty", "--resume", "--out")),
    Mistake("a folder with other files", "run recipe.yaml --out model", ("it holds other files", "--out")),
    Mistake("a file as run folder", "run recipe.yaml --out rows.jsonl", ("rows.jsonl is a file",)),
    Mistake("a folder below a file", "run recipe.yaml --out rows.jsonl/new", ("not a directory", "another path")),
    Mistake("the quickstart over a run", "quickstart --out run", ("run is there already", "--resume")),
    Mistake("a resume without a folder", "run recipe.yaml --resume", ("--resume needs --out",)),
    Mistake("a resume of nothing", "run --resume --out rum", ("there is no folder rum", "Did you mean run?")),
    Mistake("a resume of no run", "run --resume --out model", ("model holds no run",)),
    Mistake("a resume with another recipe", "run recipe.yaml --resume --out run --set train.lr=0.1",
            ("not the run that was started: train.lr changed", "'auto'", "0.1", "--resume --out run")),
    Mistake("a resume with other rows", GO_ON, ("not the run that was started: data.rows.jsonl changed",),
            both(unfinished, replaced("rows.jsonl", "lazy", "busy"))),
    Mistake("a resume on another base", GO_ON, ("not the run that was started: model.digest changed",),
            both(unfinished, other_base)),
    Mistake("a resume without its data", GO_ON, ("rows.jsonl: there is no such file",),
            both(unfinished, gone("rows.jsonl"))),
    Mistake("half a lock", GO_ON, ("run/lock.json is not the JSON", "cut or edited"), cut("run/lock.json")),
    Mistake("half of the base's answers", GO_ON, ("run/scores/base.json is not the JSON",),
            both(unfinished, cut("run/scores/base.json"))),
    Mistake("half a ledger", GO_ON, ("run/ledger.json", "cannot be read"), cut("run/ledger.json")),
]  # fmt: skip

USES = [
    Mistake("chat with nothing", "chat nothing --once hi", ("nothing is not known",)),
    Mistake("a slip in a run's name", "chat runs/rum --once hi", ("there is no folder runs/rum", "mean runs/run?"),
            both(folder("runs"), folder("runs/run"))),
    Mistake("chat with a folder of data", "chat d --once hi", ("d holds neither a run", "nor a model"), folder("d")),
    Mistake("an empty message", "chat run --once ' '", ("the message is empty", "--once")),
    Mistake("a third model", "chat run --model best --once hi", ("no model 'best'", "base, tuned")),
    Mistake("a run that is not finished", CHAT, ("no tuned model yet", "tunesmith run --resume --out run"), unfinished),
    Mistake("half an adapter", CHAT, ("adapter_model.safetensors is not a whole safetensors file",),
            cut("run/adapter/adapter_model.safetensors")),
    Mistake("half an adapter's facts", CHAT, ("adapter_config.json is not the JSON",),
            cut("run/adapter/adapter_config.json")),
    Mistake("half of what is served", CHAT, ("run/serving.json is not the JSON",), cut("run/serving.json")),
    Mistake("a run on another base", CHAT, ("made on a base with digest", "this base has"), other_base),
    Mistake("a run whose model is gone", CHAT, ("model model is not known",), gone("model")),
    Mistake("predict: no file", "predict run row.jsonl o.csv", ("row.jsonl: there is no such", "rows.jsonl?")),
    Mistake("predict: no run", "predict model rows.jsonl o.csv", ("model holds no run",)),
    Mistake("predict: no column", "predict run q.jsonl o.csv", ("no column 'text'", "has: q", "--prompt COLUMN"),
            text("q.jsonl", '{"q": 1}\n')),
    Mistake("predict: what is there", "predict run rows.jsonl replies.jsonl", ("replies.jsonl is there already",)),
    Mistake("predict: a kind that is not written", "predict run rows.jsonl o.xlsx", ("o.xlsx", ".csv, .tsv")),
    Mistake("predict: another one's rest", "predict run rows.jsonl o.csv", ("o.csv.partial", "--resume"),
            text("o.csv.partial", "")),
    Mistake("report: no run", "report model", ("model holds none of the files of a run",)),
    Mistake("report: half a verdict", "report run", ("run/verdict.json line", "cut or"), cut("run/verdict.json")),
    Mistake("report: half a table", "report run", ("cases.parquet is not a Parquet",), cut("run/scores/cases.parquet")),
    Mistake("export: no such kind", "export run --to onnx", ("--to onnx is not known", "gguf")),
    Mistake("export: no run", "export nope --to merged", ("there is no folder nope",)),
    Mistake("export: a folder that is taken", "export run --to merged --out model", ("--out model is taken",)),
    Mistake("export: half a table", "export run --to merged", ("cases.parquet is not a Parquet",),
            cut("run/scores/cases.parquet")),
    Mistake("export: a push without network", "export run --to adapter --push a/b --yes",
            ("HF_HUB_OFFLINE",), environ=OFFLINE),
    Mistake("serve: everybody", "serve run --host 0.0.0.0", ("--expose", "--api-key")),
    Mistake("serve: no such port", "serve run --port 99999", ("cannot listen on 127.0.0.1 port 99999", "--port")),
]  # fmt: skip

MEASURES = [
    Mistake("evaluate: nothing", "evaluate nothing --data rows.jsonl", ("nothing is not known", "owner/name")),
    Mistake("evaluate: no cases", "evaluate model", ("nothing to ask", "--data FILE", "--like RUN")),
    Mistake(
        "evaluate: no file", "evaluate model --data row.jsonl", ("row.jsonl: there is no such file", "rows.jsonl?")
    ),
    Mistake("evaluate: like what", "evaluate model --like nope", ("there is no folder nope",)),
    Mistake("evaluate: against what", "evaluate run --against nope", ("nope is not known",)),
    Mistake("evaluate: a run that is not finished", "evaluate run", ("no tuned model yet",), unfinished),
    Mistake("evaluate: no such metric", "evaluate run --metric acuracy", ("'acuracy'", "Did you mean accuracy?")),
    Mistake("evaluate: an address without a model", "evaluate http://127.0.0.1:9/v1 --like run", ("v1#NAME",)),
    Mistake(
        "evaluate: off this machine", "evaluate https://example.org/v1#m --like run", ("example.org", "--yes-send")
    ),
    Mistake("evaluate: a folder that is taken", "evaluate run --out model", ("model is not empty", "--out")),
    Mistake("gate: no run", "gate model", ("model holds no run",)),
    Mistake("gate: not finished", "gate run", ("run holds no verdict", "--resume --out run"), unfinished),
    Mistake("models: no file", "models --for row.jsonl", ("row.jsonl: there is no such", "rows.jsonl?")),
]

OTHERS = [
    Mistake("no such command", "launch", ("No such command 'launch'",)),
    Mistake("another tool's command", "finetune rows.jsonl", ("no command 'finetune'", "tunesmith run")),
    Mistake("a key as option", "run --epochs 3", ("no option --epochs", "train.epochs", "--set key=value")),
    Mistake("half a command", "predict run rows.jsonl", ("Missing argument",)),
    Mistake("init: what is there", "init rows.jsonl --yes", ("recipe.yaml is there already", "--force")),
    Mistake("init: no column", "init rows.jsonl --yes --out r.yaml --target lable", ("no column 'lable'", "label?")),
    Mistake("init: one column", "init c.csv --yes --out r.yaml", ("one column 'a'",), text("c.csv", "a\nb\nc\n")),
    Mistake("init: a folder to write", "init rows.jsonl --yes --force --out model", ("model is a folder",)),
    Mistake("init: nowhere", "init rows.jsonl --yes --out no/r.yaml", ("no folder no",)),
    Mistake("import: nothing", "import e.yml", ("e.yml holds nothing",), text("e.yml", "")),
    Mistake("import: our own", "import recipe.yaml", ("already", "tunesmith run recipe.yaml")),
    Mistake("import: whose", "import e.yml", ("cannot be told", "--from axolotl"), text("e.yml", "foo: 1")),
    Mistake("import: half", "import e.yml", ("e.yml is not YAML or JSON: line 2",), text("e.yml", "a: [b\nc: d")),
    Mistake("runs: no folder", "runs", ("runs is no folder",)),
    Mistake("runs: no such order", "runs . --sort date", ("--sort date", "when, effect")),
    Mistake("compare: one", "compare run", ("two or more folders of runs",)),
    Mistake("compare: no run", "compare run model", ("model holds none",)),
    Mistake("compare: not finished", "compare run run", ("no verdict", "--resume --out run"), unfinished),
    Mistake("fetch: nothing", "models fetch nothing", ("nothing is not known", "owner/name")),
    Mistake("fetch: no network", "models fetch a/b", ("a/b", "HF_HUB_OFFLINE"), environ=OFFLINE),
    Mistake("resize: known", "models resize model --token a --out grown", ("one token of model already",)),
    Mistake("resize: there", "models resize model --token <a> --out model", ("model is there already",)),
    Mistake("doctor: an option", "doctor --fix", ("No such option: --fix",)),
    Mistake("schema: an argument", "schema x", ("unexpected extra argument",)),
    Mistake("a shell that is not known", "completion tcsh", ("tcsh", "bash", "zsh")),
]  # fmt: skip

ALL = [*DATA_FILES, *RECIPES, *MODELS, *RUNS, *USES, *MEASURES, *OTHERS]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return world(tmp_path_factory.mktemp("world"))


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.mark.parametrize("mistake", ALL, ids=[m.name for m in ALL])
def test_a_mistake_is_one_message(
    mistake: Mistake, here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied(here, tmp_path)
    mistake.setup(tmp_path)
    monkeypatch.chdir(tmp_path)
    for name, value in mistake.environ:
        monkeypatch.setenv(name, value)
    before = files(tmp_path)
    said = typed(shlex.split(mistake.words))
    assert said.code == mistake.code, said.text
    assert [piece for piece in mistake.says if piece not in said.text] == [], said.text
    assert "Traceback" not in said.text
    assert "fault of tunesmith" not in said.text
    assert said.out == ""
    assert said.err.count("error:") + said.err.count("Usage:") == 1
    assert files(tmp_path) == before


def test_the_table_is_long_and_no_name_comes_twice() -> None:
    assert len({m.name for m in ALL}) == len(ALL) > 100
