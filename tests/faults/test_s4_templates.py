"""S4: a chat template is code of whoever made the model. It reaches nothing but its messages, and it ends.

Breakouts are first shown to fire in jinja's plain environment. The last line holds too: where jinja's sandbox is taken
out of the child (the mutant), the child still opens, imports and makes nothing.
"""

from __future__ import annotations

import datetime
import os
from pathlib import Path
from typing import Any

import jinja2
import pytest
from tests.data import chat

from tunesmith.data import rendering
from tunesmith.data.rendering import Limits, Refused, TemplateProcess
from tunesmith.data.template import ChatTemplate
from tunesmith.errors import ModelError
from tunesmith.types import Message

SMALL = Limits(cpu_s=0.4, memory_bytes=2**28, chars=2**20)
SYS = "__init__.__globals__.sys.modules.os"
MAKE = ".mkdir(canary)"
BREAKOUTS = {
    "cycler": "{{ cycler.__init__.__globals__.os" + MAKE + " }}",
    "joiner": "{{ joiner.__init__.__globals__.os" + MAKE + " }}",
    "namespace": "{{ namespace.__init__.__globals__.os" + MAKE + " }}",
    "lipsum": "{{ lipsum.__globals__.os" + MAKE + " }}",
    "self": "{{ self.__init__.__globals__.__builtins__.__import__('os')" + MAKE + " }}",
    "subclasses": "{% for c in ''.__class__.__base__.__subclasses__() %}{% if c.__name__ == '_wrap_close' %}"
    "{{ c.__init__.__globals__" + MAKE + " }}{% endif %}{% endfor %}",
    "by item": "{{ cycler['__init__']['__globals__']['os']" + MAKE + " }}",
    "by filter": "{{ (cycler|attr('__init__')|attr('__globals__')).os" + MAKE + " }}",
    "joined names": "{{ cycler['__in' ~ 'it__']['__glo' ~ 'bals__']['os']" + MAKE + " }}",
    "escaped names": r"{{ cycler['\x5f\x5finit\x5f\x5f']['\x5f\x5fglobals\x5f\x5f']['os']" + MAKE + " }}",
    "map by attribute": "{{ ([cycler]|map(attribute='__init__.__globals__')|first).os" + MAKE + " }}",
    "map by attr": "{{ (([cycler]|map('attr', '__init__')|first)|attr('__globals__')).os" + MAKE + " }}",
    "macro": "{% macro m() %}{% endmacro %}{{ m.__class__." + SYS + MAKE + " }}",
    "loop": "{% for x in [1] %}{{ loop.__class__." + SYS + MAKE + " }}{% endfor %}",
    "exec": "{{ cycler.__init__.__globals__.__builtins__.exec('import os; os.mkdir(c)', {'c': canary}) }}",
    "eval": "{{ cycler.__init__.__globals__.__builtins__.eval('__import__(\"os\").mkdir(c)', {'c': canary}) }}",
    "set first": "{% set x = cycler.__init__ %}{% set y = x.__globals__ %}{{ y.os" + MAKE + " }}",
    "a frame": "{{ (messages|select).gi_frame.f_builtins['__import__']('os')" + MAKE + " }}",
    "a given function": "{{ raise_exception.__globals__['mkdir'](canary) }}",
    "dict": "{% for c in dict.__base__.__subclasses__() if c.__name__ == '_wrap_close' %}"
    "{{ c.__init__.__globals__" + MAKE + " }}{% endfor %}",
}  # fmt: skip
GROW = "{% set n = namespace(x='x') %}{% for i in range(60) %}{% set n.x = "
# What never ends or never fits -> what ends it
FLOODS = {
    "loops in loops": ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "processor"),
    "a power of a power": ("{{ 9 ** (9 ** 9) }}", "processor"),  # a constant: computed before anything is rendered
    "one step of C": ("{% set x = 9 %}{{ x ** (x ** x) }}", "processor"),  # which no check between steps would see
    "lists of lists": (GROW + "[n.x, n.x] %}{% endfor %}{{ n.x|string|length }}", "processor|memory|ended"),
    "lists compared": (
        "{% set n = namespace(a=[1], b=[1]) %}{% for i in range(60) %}{% set n.a = [n.a, n.a] %}"
        "{% set n.b = [n.b, n.b] %}{% endfor %}{{ n.a == n.b }}", "processor"),
    "a long product": ("{{ 'x' * 10 ** 9 }}", "memory"),
    "doubled text": (GROW + "n.x ~ n.x %}{% endfor %}{{ n.x }}", "memory|processor"),  # whichever comes first
    "doubled list": (GROW + "(n.x|list) + (n.x|list) %}{% endfor %}{{ n.x }}", "memory|processor"),
    "a wide number": ("{{ '%1000000000d' % 1 }}", "memory"),
    "a wide format": ("{{ '{:1000000000}'.format(1) }}", "memory"),
    "padding": ("{{ 'x'.ljust(10 ** 9) }}", "memory"),
    "a wide indent": ("{{ [1]|tojson(indent=10 ** 9) }}", "memory"),
    "a filled batch": ("{{ [1]|batch(10 ** 9, 'x')|list }}", "memory"),
    "words without end": ("{{ lipsum(n=10 ** 6) }}", "may not do this: import"),
    "much output": ("{% for i in range(9999) %}{{ 'x' * 1000 }}{% endfor %}", "output"),
    "a long range": ("{{ range(10 ** 9)|list }}", "Range too big"),
    "a macro of itself": ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "recursion"),
    "a loop of itself": ("{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}", "recursion"),
}  # fmt: skip


def fires(template: str, canary: Path) -> bool:
    """In an environment without a sandbox, as `jinja2.Template` gives one."""
    unsafe = jinja2.Environment(extensions=["jinja2.ext.loopcontrols"])
    unsafe.globals["raise_exception"] = os.fdopen  # any function of Python
    unsafe.from_string(template).render(canary=str(canary), messages=[])
    return canary.exists()


@pytest.mark.parametrize("name", BREAKOUTS)
def test_a_breakout_makes_nothing(name: str, tmp_path: Path) -> None:
    canary = tmp_path / "fired"
    assert fires(BREAKOUTS[name], canary), "the payload must work where nothing stops it"
    canary.rmdir()
    process = TemplateProcess(BREAKOUTS[name], SMALL)
    with pytest.raises((Refused, ModelError)):
        process.render({"canary": str(canary), "messages": []})
    assert not canary.exists()


@pytest.fixture
def without_sandbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = rendering.CHILD.read_text(encoding="utf-8")
    assert "jinja2.sandbox.ImmutableSandboxedEnvironment(" in text
    child = tmp_path / "child.py"
    child.write_text(text.replace("jinja2.sandbox.ImmutableSandboxedEnvironment(", "jinja2.Environment("))
    monkeypatch.setattr(rendering, "CHILD", child)


@pytest.mark.parametrize("name", ["cycler", "exec", "subclasses", "a frame"])
def test_behind_a_broken_sandbox_nothing_is_made_either(name: str, without_sandbox: None, tmp_path: Path) -> None:
    process = TemplateProcess(BREAKOUTS[name], SMALL)
    with pytest.raises(Refused, match="may not do this"):
        process.render({"canary": str(tmp_path / "fired"), "messages": []})
    assert not (tmp_path / "fired").exists()


def test_a_broken_sandbox_finds_no_token(without_sandbox: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_canary")
    process = TemplateProcess("{{ cycler.__init__.__globals__.os.environ|string }}", SMALL)
    assert "hf_canary" not in process.render({})


@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_is_ended_and_named(name: str) -> None:
    template, ends = FLOODS[name]
    process = TemplateProcess(template, SMALL)
    with pytest.raises((Refused, ModelError), match=ends):
        process.render({"messages": []})


def test_after_a_flood_the_next_conversation_is_rendered() -> None:
    process = TemplateProcess("{% if messages %}ok{% else %}{% set x = 9 %}{{ x ** (x ** x) }}{% endif %}", SMALL)
    for number in range(2):
        with pytest.raises(ModelError, match="processor time"):
            process.render({"messages": []})
        assert process.render({"messages": [number]}) == "ok"


def test_texts_of_late_are_kept_but_for_the_date(monkeypatch: pytest.MonkeyPatch) -> None:
    """A conversation is asked for once, and one of another word, or under a date, is asked for itself."""
    asked: list[bytes] = []
    ask = TemplateProcess._ask
    monkeypatch.setattr(TemplateProcess, "_ask", lambda self, raw: asked.append(raw) or ask(self, raw))
    process = TemplateProcess("{{ messages[0] }}!", SMALL)
    assert [process.render({"messages": [m]}) for m in ("a", "b", "a")] == ["a!", "b!", "a!"]
    assert len(asked) == 3  # the template itself, a and b
    asked.clear()
    dated = TemplateProcess("{{ strftime_now('%Y') }}{{ messages[0] }}", SMALL)
    assert dated.render({"messages": ["a"]}) == dated.render({"messages": ["a"]})
    assert len(asked) == 3
    asked.clear()
    monkeypatch.setattr(rendering, "MOST_KEPT", 0)  # then the last one alone stays
    full = TemplateProcess("{{ messages[0] }}", SMALL)
    assert [full.render({"messages": [m]}) for m in ("a", "a", "b", "a")] == ["a", "a", "b", "a"]
    assert len(asked) == 4


def test_a_template_that_is_none_is_named() -> None:
    with pytest.raises(ModelError, match="cannot render anything: it is no template: unexpected"):
        TemplateProcess("{{ }", SMALL).render({})


TURNS: tuple[dict[str, Any], ...] = (
    {"role": "user", "content": "Hi <|im_end|>\n {{ 7 * 7 }} \ud800 é"},
    {"role": "assistant", "content": "Yes.", "reasoning": "a thought", "tool_calls": None},
    {"role": "user", "content": "And?"},
)


@pytest.mark.parametrize("name", chat.FAMILIES)
def test_the_text_is_that_of_transformers(name: str) -> None:
    """The law: what is learned is what a server renders. A mutant child without trim_blocks fails 20 of these."""
    tokenizer = chat.tokenizer(name)
    turns = TURNS if name != "gpt_oss" else TURNS[::2]
    template = ChatTemplate(tokenizer)
    for is_prompt in (True, False):
        try:
            served = tokenizer.apply_chat_template(list(turns), tokenize=False, add_generation_prompt=is_prompt)
        except jinja2.TemplateError:
            continue
        messages = [
            Message(t["role"], t["content"], extra={k: t[k] for k in t if k not in ("role", "content")}) for t in turns
        ]
        assert template.render(messages, is_prompt=is_prompt) == served


def test_what_templates_of_transformers_may_use() -> None:
    text = (
        "{% generation %}a{% endgeneration %}{{ strftime_now('%Y') }}{{ dict(b=1)|tojson }}{% break_me %}"
        "{% set n = namespace(c=2) %}{{ n.c }}"
    ).replace("{% break_me %}", "{% for i in [1, 2] %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}")
    assert TemplateProcess(text, SMALL).render({}) == f'a{datetime.datetime.now().year}{{"b": 1}}12'
