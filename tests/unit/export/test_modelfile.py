"""Ollama's TEMPLATE: what it renders is what the chat template renders, or it is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from tests.data import chat

from tunesmith.data.template import ChatTemplate
from tunesmith.errors import ModelError
from tunesmith.export import go_template, modelfile
from tunesmith.export.modelfile import as_ollama, frame_of, ollama_template, write_modelfile
from tunesmith.types import Message

SAID = ("chatml", "smollm2", "qwen2_5", "llama3_1", "llama2", "gemma", "gemma3", "mistral_v3", "phi3", "phi4")
TURNS = [
    Message("system", "Answer with one word.\nNo more."),
    Message("user", "Is a {fox} red?"),
    Message("assistant", "Yes."),
    Message("user", "And a dog?"),
]


def renderer(family: str) -> modelfile.Render:
    template = ChatTemplate(chat.tokenizer(family))
    return lambda turns, is_prompt: template.render(turns, is_prompt=is_prompt)


@pytest.mark.parametrize("family", SAID)
def test_known_kinds_are_said_in_go(family: str) -> None:
    render = renderer(family)
    template = ollama_template(render, "")
    for turns in ([TURNS[1]], TURNS[1:]) if family == "gemma" else ([TURNS[1]], TURNS[1:], TURNS[:2], TURNS):
        assert go_template.render(template, as_ollama(turns)) == render(turns, True)


@pytest.mark.parametrize("family", [f for f in chat.FAMILIES if f not in SAID])
def test_every_other_template_of_the_tests_is_said_too(family: str) -> None:
    render = renderer(family)
    assert go_template.render(ollama_template(render, ""), as_ollama(TURNS)) == render(TURNS, True)


def test_chatml_by_hand() -> None:
    assert ollama_template(renderer("chatml"), "") == (
        "{{ if .System }}<|im_start|>system\n{{ .System }}<|im_end|>\n{{ else }}{{ end }}"
        '{{ range $i, $_ := .Messages }}{{ if eq .Role "user" }}<|im_start|>user\n{{ .Content }}<|im_end|>\n'
        '{{ else if eq .Role "assistant" }}<|im_start|>assistant\n{{ .Content }}<|im_end|>\n{{ end }}{{ end }}'
        "<|im_start|>assistant\n"
    )


def test_a_token_that_llamacpp_adds_is_not_written_twice() -> None:
    template = ollama_template(renderer("llama3_1"), "<|begin_of_text|>")
    assert "<|begin_of_text|>" not in template
    with pytest.raises(ModelError, match="puts '<s>' before a prompt"):
        ollama_template(renderer("chatml"), "<s>")


MUTANTS = {"user": ("<|im_start|>human\n", "<|im_end|>\n"), "assistant": ("<|im_start|>assistant\n", ""), "asking": ""}


@pytest.mark.parametrize("part", MUTANTS)
def test_a_wrong_frame_is_noticed(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modelfile, "frame_of", lambda render: replace(frame_of(render), **{part: MUTANTS[part]}))
    with pytest.raises(ModelError, match="comes out as another text"):
        ollama_template(renderer("chatml"), "")


def test_templates_that_do_more_are_refused() -> None:
    def counting(turns: Sequence[Message], is_prompt: bool) -> str:
        return "".join(f"[{i} {m.role}] {m.content}\n" for i, m in enumerate(turns)) + ("[bot] " if is_prompt else "")

    def shouting(turns: Sequence[Message], is_prompt: bool) -> str:
        return "".join(f"[{m.role}] {m.content.upper()}\n" for m in turns)

    for render in (counting, shouting):
        with pytest.raises(ModelError, match="cannot be said"):
            ollama_template(render, "")


def test_what_go_would_read_as_an_action_is_quoted() -> None:
    written = go_template.literal("a {{ b }} c")
    assert go_template.render(written, {}) == "a {{ b }} c"
    assert go_template.render("{{ if .A }}x{{ else if .B }}y{{ else }}z{{ end }}", {"A": "", "B": "1"}) == "y"


def test_the_modelfile(tmp_path: Path) -> None:
    path = tmp_path / "Modelfile"
    write_modelfile(path, "m.gguf", "{{ .Prompt }}", "Be brief.\nTwo lines.", ["<|im_end|>", "<|eot|>"], 100_000)
    assert path.read_text() == (
        'FROM ./m.gguf\nTEMPLATE """{{ .Prompt }}"""\nSYSTEM """Be brief.\nTwo lines."""\nPARAMETER stop "<|im_end|>"\n'
        'PARAMETER stop "<|eot|>"\nPARAMETER temperature 0\nPARAMETER repeat_penalty 1\nPARAMETER num_ctx 8192\n'
    )
    with pytest.raises(ModelError, match="cannot say"):
        write_modelfile(path, "m.gguf", "x", 'say """', [], None)


GO = """package main
import ("encoding/json"; "os"; "text/template")
func main() {
  var in struct{ Template string; Data map[string]any }
  if err := json.NewDecoder(os.Stdin).Decode(&in); err != nil { panic(err) }
  if err := template.Must(template.New("").Parse(in.Template)).Execute(os.Stdout, in.Data); err != nil { panic(err) }
}
"""


@pytest.mark.skipif(shutil.which("go") is None, reason="go is not installed")
@pytest.mark.parametrize("family", SAID)
def test_go_itself_renders_the_same(family: str, tmp_path: Path) -> None:
    (tmp_path / "main.go").write_text(GO)
    template = ollama_template(renderer(family), "")
    turns = TURNS[1:] if family == "gemma" else TURNS
    said = json.dumps({"Template": template, "Data": as_ollama(turns)})
    done = subprocess.run(
        ["go", "run", "main.go"], cwd=tmp_path, input=said, capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout == renderer(family)(turns, True)
