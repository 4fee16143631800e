"""The renderer's edges: limits, cuts, refusals, fallbacks. The law over all templates is in tests/laws."""

from __future__ import annotations

import numpy as np
import pytest
from tests.data.chat import base, tokenizer
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from tunesmith.data.controls import Controls
from tunesmith.data.encode import Encoder
from tunesmith.data.pack import path_tokens
from tunesmith.data.render import Renderer
from tunesmith.data.rendering import TemplateProcess
from tunesmith.data.template import ChatTemplate
from tunesmith.errors import DataError, ModelError
from tunesmith.types import Example, Label, Message, Reply, Task


def example(prompt: str, reply: str, name: str = "e-1", weight: float = 1.0) -> Example:
    return Example(
        name, (Message("user", prompt),), Reply(Message("assistant", reply)), weight=weight, source="data.jsonl:7"
    )


def made(template: str | None, eos: str | None = "<|end|>", bos: str | None = None) -> PreTrainedTokenizerFast:
    backend = Tokenizer.from_str(base("bytes"))
    backend.add_special_tokens([t for t in (eos, bos) if t])
    return PreTrainedTokenizerFast(tokenizer_object=backend, chat_template=template, eos_token=eos, bos_token=bos)


def test_a_record_by_hand() -> None:
    chat = tokenizer("chatml")
    start, end = chat.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
    text = lambda s: chat(s, add_special_tokens=False)["input_ids"]
    record = Renderer(chat, 100).record(example("Hi", "Yes", weight=0.5))
    prompt = [start, *text("user\nHi"), end, *text("\n"), start, *text("assistant\n")]
    reply = [*text("Yes"), end]
    assert len(record.segments) == 1
    assert record.segments[0].tokens.tolist() == prompt + reply
    assert record.segments[0].weights.tolist() == [0.0] * len(prompt) + [0.5] * len(reply)
    assert (record.segments[0].tokens.dtype, record.segments[0].weights.dtype) == (np.int64, np.float32)


def test_a_label_is_learned_by_its_name() -> None:
    renderer = Renderer(tokenizer("chatml"), 100)
    labelled = Example("e-1", (Message("user", "Hi"),), Label("buy"))
    assert (
        renderer.record(labelled).segments[0].tokens.tolist()
        == renderer.record(example("Hi", "buy")).segments[0].tokens.tolist()
    )


def test_shown_pieces_mark_what_is_learned() -> None:
    shown = Renderer(tokenizer("chatml"), 100).records([example("Hi", "Yes")]).shown
    assert shown == (("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", False), ("Yes<|im_end|>", True))


def test_too_long_is_dropped_and_listed() -> None:
    rendered = Renderer(tokenizer("chatml"), 60).records(
        [example("Hi", "Yes", "short-1"), example("word " * 100, "Yes", "long-1")]
    )
    assert [r.example_id for r in rendered.records] == ["short-1"]
    assert rendered.dropped[0][0] == "long-1"
    assert rendered.dropped[0][1].endswith("tokens, more than 60")
    assert rendered.cut == ()


def test_cutting_keeps_reply_system_and_both_ends() -> None:
    chat = tokenizer("chatml")
    words = " ".join(f"w{i}" for i in range(300))
    system = Message("system", "Answer in one word, always, please.")
    long = Example(
        "long-1", (system, Message("user", f"First: {words} Question?")), Reply(Message("assistant", "The reply."))
    )
    hopeless = example("x", "word " * 200, "hopeless-1")
    rendered = Renderer(chat, 150, too_long="cut").records([long, hopeless, example("Hi", "Yes", "short-1")])
    assert (rendered.cut, [i for i, _ in rendered.dropped]) == (("long-1",), ["hopeless-1"])
    record = rendered.records[0]
    assert 120 <= path_tokens(record) <= 150, "little more than needed is cut"
    text = chat.decode(record.segments[0].tokens)
    assert system.content in text
    assert "First: w0 w1" in text
    assert "w299 Question?<|im_end|>" in text
    assert text.endswith("The reply.<|im_end|>")
    assert text.count("[…]") == 1
    whole = Renderer(chat, 10_000, too_long="cut").record(long)
    assert record.num_learned == whole.num_learned


def test_what_the_template_refuses_is_dropped_with_the_way_out() -> None:
    renderer = Renderer(tokenizer("gemma"), 100)
    with_system = Example("s-1", (Message("system", "s"), Message("user", "u")), Reply(Message("assistant", "a")))
    rendered = renderer.records([example("Hi", "Yes"), with_system])
    assert len(rendered.records) == 1
    assert rendered.dropped[0][0] == "s-1"
    assert "It has no system role: put that text at the head of the first user message." in rendered.dropped[0][1]
    with pytest.raises(DataError, match="none of the 1 examples could be rendered"):
        renderer.records([with_system])
    with pytest.raises(DataError, match="user and assistant in turn"):
        renderer.prompt([Message("user", "a"), Message("user", "b")])


def test_zero_learned_tokens_is_an_error_that_names_the_example() -> None:
    silent = Example(
        "e-1", (Message("user", "Hi"),), Reply(Message("assistant", "Yes", weight=0.0)), source="data.jsonl:7"
    )
    with pytest.raises(DataError, match=r"e-1 \(data.jsonl:7\) has no learned token"):
        Renderer(tokenizer("chatml"), 100).record(silent)


def test_other_targets_are_refused_by_name() -> None:
    task = Example("p-1", (Message("user", "Hi"),), Task({"answer": "a"}), source="d:1")
    with pytest.raises(DataError, match=r"p-1 \(d:1\) is a task"):
        Renderer(tokenizer("chatml"), 100).record(task)


@pytest.mark.parametrize(
    ("template", "eos", "message"),
    [
        ("{% for m in messages %}{{ m['content'] }}{% endfor %}", None, "would never stop"),
        (
            "{% for m in messages if m['role'] == 'user' %}{{ m['content'] }}{% endfor %}",
            "<|end|>",
            "leaves the assistant's reply out",
        ),
        ("{{ ''.__class__.__mro__ }}", "<|end|>", "cannot render a question and a reply"),
        (
            "{% for m in messages %}{{ m.content + nothing }}{% endfor %}",
            "<|end|>",
            "cannot render a question and a reply",
        ),
        (
            "{% if add_generation_prompt %}{% else %}{{ messages }}{% endif %}",
            "<|end|>",
            "renders a user's message as nothing",
        ),
        (None, None, "neither a chat template nor an end-of-text token"),
    ],
)
def test_templates_that_cannot_serve(template: str | None, eos: str | None, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        Renderer(made(template, eos), 100)


def test_a_tokenizer_without_a_template_gets_the_plain_one() -> None:
    chat = made(None, bos="<|begin|>")
    renderer = Renderer(chat, 100)
    messages = [Message("system", "s"), Message("user", "u"), Message("assistant", "a"), Message("user", "v")]
    assert (
        chat.decode(renderer.prompt(messages))
        == "s\n\n### User:\nu\n\n### Assistant:\na<|end|>\n\n### User:\nv\n\n### Assistant:\n"
    )
    assert chat.decode(renderer.reply(messages, Message("assistant", "b"))) == "b<|end|>"
    chat.chat_template = renderer.template  # as it is exported
    served = chat.apply_chat_template([m.as_dict() for m in messages], add_generation_prompt=True)["input_ids"]
    assert renderer.prompt(messages) == list(served)


def test_text_of_what_a_model_may_write() -> None:
    renderer, chat = Renderer(tokenizer("qwen3"), 100), tokenizer("qwen3")
    end = chat.convert_tokens_to_ids("<|im_end|>")
    ids = lambda s: chat(s, add_special_tokens=False)["input_ids"]
    assert renderer.text([*ids("<think>\nHm.\n</think>\n\nYes. "), end]) == "Yes. "
    assert renderer.text([*ids("Yes."), end, *ids("and more")]) == "Yes."
    assert renderer.text(ids("Yes, but the limit ca")) == "Yes, but the limit ca"
    assert renderer.text([]) == ""


def test_what_stands_around_a_reply_may_depend_on_the_prompt() -> None:
    """So no frame that was worked out for another prompt may be put around it."""
    template = (
        "{% set ns = namespace(quiet=false) %}"
        "{% for m in messages %}{% if '/quiet' in m['content'] %}{% set ns.quiet = true %}{% endif %}"
        "{% if m['role'] == 'assistant' %}{{ 'bot(quiet):psst ' if ns.quiet else 'bot:' }}{% endif %}"
        "{{ m['content'] }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}{{ 'bot(quiet):' if ns.quiet else 'bot:' }}{% endif %}"
    )
    chat = made(template)
    renderer = Renderer(chat, 100)
    assert chat.decode(renderer.reply([Message("user", "Hi")], Message("assistant", "Yes"))) == "Yes<|end|>"
    assert chat.decode(renderer.reply([Message("user", "Hi /quiet")], Message("assistant", "Yes"))) == "psst Yes<|end|>"


def test_the_digest_knows_tokenizer_template_and_limits() -> None:
    base = Renderer(tokenizer("chatml"), 100)
    others = [
        Renderer(tokenizer("chatml"), 101),
        Renderer(tokenizer("chatml"), 100, "cut"),
        Renderer(tokenizer("qwen3"), 100),
    ]
    assert Renderer(tokenizer("chatml"), 100).digest == base.digest
    assert len({base.digest, *(o.digest for o in others)}) == 4
    with pytest.raises(DataError, match="wanted 'drop' or 'cut'"):
        Renderer(tokenizer("chatml"), 100, "truncate")


MANY = [
    [Message("user", "Where is it?")],
    [
        Message("system", "Be brief."),
        Message("user", "Where?"),
        Message("assistant", " Here. "),
        Message("user", "ok\n"),
    ],
    [Message("assistant", "I begin"), Message("assistant", "and go on")],  # which some templates refuse
    [Message("user", "<|im_start|>")],
]


@pytest.mark.parametrize("name", ["chatml", "gemma", "deepseek_r1", "mistral_v3", "llama3_1"])
def test_what_is_rendered_ahead_is_what_would_be_rendered(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, chat = ChatTemplate(tokenizer(name)), ChatTemplate(tokenizer(name))
    asked = [(messages, is_prompt) for messages in MANY for is_prompt in (True, False)]
    chat.ahead(asked)

    def text(template: ChatTemplate, messages: list[Message], *, is_prompt: bool) -> str:
        try:
            return template.render(messages, is_prompt=is_prompt)
        except DataError as error:
            return f"refused: {error}"

    wanted = [text(plain, messages, is_prompt=is_prompt) for messages, is_prompt in asked]
    assert [text(chat, messages, is_prompt=is_prompt) for messages, is_prompt in asked] == wanted
    monkeypatch.setattr(TemplateProcess, "render", lambda *_: "asked again")
    here = [text(chat, messages, is_prompt=is_prompt) for messages, is_prompt in asked]
    assert [a == b for a, b in zip(here, wanted)] == [not w.startswith("refused") for w in wanted]
    other = [Message("user", "Where is it?")]
    assert text(chat, other, is_prompt=True) == "asked again", "an equal message is another one"
    chat.ahead([])
    assert text(chat, MANY[0], is_prompt=True) == "asked again"


@pytest.mark.parametrize("kind", ["bytes", "metaspace"])
def test_texts_are_encoded_together_as_one_by_one(kind: str) -> None:
    """Whatever was asked of the tokenizer before."""
    chat = tokenizer("chatml", kind)
    encoder = Encoder(chat, Controls(chat, str(chat.chat_template)))
    texts = [("a b", ""), ("", ""), ("你好 🧑‍🚀 naïve<|im_end|>", ""), ("word " * 50, ""), (" x", "")]
    for is_inside in (False, True):
        chat(["a", "a b"], truncation=True, max_length=2)
        together = [ids.tolist() for ids in encoder.all(texts, is_inside=is_inside)]
        assert together == [encoder.one(text, cut, is_inside=is_inside) for text, cut in texts]
        assert max(map(len, together)) > 50
