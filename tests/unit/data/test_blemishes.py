"""What can be seen in one row: each planted fault is found where it stands, and look-alikes are left alone."""

from __future__ import annotations

import random

import pytest

from tunesmith.data import markers, personal, replies
from tunesmith.data.blemishes import blemishes, writing_of
from tunesmith.data.cut_off import Endings
from tunesmith.data.finding import excerpt, replies_of
from tunesmith.types import Example, Label, Message, Reply

TOKENS = (
    *("hf_" + "a1" * 12, "sk-" + "b2" * 12, "gsk_" + "c3" * 12, "ghp_" + "d4" * 12, "github_pat_" + "e5" * 12),
    *(
        "glpat-" + "f6" * 12,
        "xoxb-" + "123456789012",
        "AKIA" + "ABCDEFGH12345678",
        "AIza" + "g7" * 18,
        "npm_" + "h8" * 12,
    ),
    *("ya29." + "i9" * 12, "pypi-" + "j1" * 12, "dckr_pat_" + "k2" * 12, "SG." + "l3" * 10 + "." + "m4" * 10),
    *(
        "sk_live_" + "n5" * 12,
        "r8_" + "o6" * 12,
        "api_org_" + "p7" * 12,
        "eyJ" + "q8" * 6 + ".eyJ" + "r9" * 6 + "." + "s1" * 6,
    ),
)
KEY = "-----BEGIN RSA PRIVATE KEY-----\nMIIB\nabc\n-----END RSA PRIVATE KEY-----"


def example(reply: str, prompt: str = "what is it?", line: int = 1) -> Example:
    return Example(
        f"{line}-1", (Message("user", prompt),), Reply(Message("assistant", reply)), source=f"rows.jsonl:{line}"
    )


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("email", "write to anna.berg@mail.shop.se today"),
        ("phone", "call +49 30 1234 5678 or come"),
        ("phone", "call (212) 555-0147 or come"),
        ("phone", "call 212-555-0147"),
        ("card_number", "paid with 4111 1111 1111 1111."),
        ("card_number", "paid with 378282246310005."),
        ("iban", "to DE89 3704 0044 0532 0130 00, please"),
        ("iban", "to GB82WEST12345698765432, please"),
        ("social_security_number", "hers is 123-45-6789."),
        ("private_key", f"it is\n{KEY}\nkeep it"),
        ("password", "at https://me:hunter2@host.org/x"),
        *[("api_token", f"the key is {token}.") for token in TOKENS],
    ],
)
def test_personal_data_is_found_and_nothing_of_it_is_left(kind: str, text: str) -> None:
    [(found, begin, end)] = personal.spans(text)
    assert found == kind
    assert text[begin:end] not in personal.masked(text)
    assert personal.masked(text) == f"{text[:begin]}[{kind.upper()}]{text[end:]}"
    assert personal.spans(personal.masked(text)) == []


@pytest.mark.parametrize(
    "text",
    [
        "paid with 4111 1111 1111 1112",  # the check digit is wrong
        "to DE88 3704 0044 0532 0130 00",  # the same of an account
        "order 1000200030004, 12.05.2024, 3.141592653589793",
        "in 1990-2000 there were 1,000,000 of 25-30-4000 kinds",
        "write to name@example.com",
        "646615806005 + 4111111111111111 = The result",
        "472547338\n0534 929 1234 ----",
        "the sum is 123 456 789",
        "call {{phone number}} or sk-learn",
        "ISBN 978-3-16-148410-0",
    ],
)
def test_other_numbers_and_names_are_no_personal_data(text: str) -> None:
    assert personal.spans(text) == []


@pytest.mark.parametrize(
    ("text", "is_refusal"),
    [
        ("I'm sorry, but as an AI language model I cannot do it.", True),
        ("As a large language model, I have no opinion.", True),
        ("I cannot assist with that request.", True),
        ("I'm sorry, but I can't help with this.", True),
        ("I'm sorry that your parcel is late. It comes tomorrow.", False),
        ("Unfortunately, the shop is closed on Sunday.", False),
        ("As an AI assistant, I'd be happy to help you plan it.", False),
        ("An AI language model is a program that predicts text.", False),
        ("I can't remember the number, but the door is open.", False),
    ],
)
def test_a_refusal_is_told_from_an_apology(text: str, is_refusal: bool) -> None:
    assert (replies.refusal(text) is not None) == is_refusal


def test_a_reply_that_says_nothing() -> None:
    """`None` and `No` are answers; mutant: a list of words that holds them."""
    texts = ("", " \n", "N/A", "---", "0", "no", "None", "是", "👍", ") ]", "+")
    assert [text for text in texts if replies.is_empty(text)] == ["", " \n", "N/A", "---"]


@pytest.mark.parametrize("text", ["hi <|im_start|>system", "[INST] do it [/INST]", "<start_of_turn>user", "a </s> b",
                                  "### Response:\nfine", "<｜User｜>do it"])  # fmt: skip
def test_markers_of_templates(text: str) -> None:
    assert markers.control(text) is not None


@pytest.mark.parametrize("text", ["a < b | c > d", "<s>struck</s> out", "### Response times are short", "[1] INST",
                                  "use <|x|> here", "if a<b and c>d:"])  # fmt: skip
def test_other_marks_are_none(text: str) -> None:
    assert markers.control(text) is None


def test_characters_that_nobody_sees() -> None:
    assert markers.hidden("pay\u202eyap") is not None
    assert markers.hidden("pass\u200bword") is not None
    assert markers.hidden("👩\u200d💻 می\u200cخواهم") is None  # joiners that these need


def clean(num: int) -> list[Example]:
    rng = random.Random(1)
    words = [
        f"{a}{b}" for a in ("lo", "ka", "mi", "ru", "te", "so") for b in ("ran", "vel", "dor", "nis", "pal", "gum")
    ]
    made = []
    for line in range(1, num + 1):
        said = [" ".join(rng.choices(words, k=9)).capitalize() + "." for _ in range(3)]
        made.append(example(" ".join(said), " ".join(rng.choices(words, k=6)), line))
    return made


def test_clean_rows_have_no_finding() -> None:
    assert blemishes(clean(1000)) == []


def test_planted_faults_are_counted_where_they_stand() -> None:
    rows = clean(1000)
    whole = replies_of(rows[700])[0]
    for at, (reply, prompt) in enumerate(
        [
            ("As an AI language model, I cannot say.", "so?"),
            ("...", "so?"),
            ("```python\nx = 1\n", "so?"),
            (whole[: whole.rindex(" ") + 3], "so?"),  # within the last word
            ("fine.", "mail a.b@c.org and d.e@f.org"),
            ("fine.", f"key {TOKENS[0]}"),
            ("fine.", "<|im_start|>system"),
            ("хорошо, всё сделано.", "сколько это стоит?"),
        ]
    ):
        rows[100 * at] = example(reply, prompt, 100 * at + 1)
    found = {f.kind: f for f in blemishes(rows)}
    assert {kind: (f.count, f.rows[0].source) for kind, f in found.items()} == {
        kind: (1, f"rows.jsonl:{100 * at + 1}")
        for at, kind in enumerate(
            (
                "refused_replies",
                "empty_replies",
                "open_code",
                "cut_replies",
                "email",
                "api_token",
                "control_tokens",
                "other_writing",
            )
        )
    }
    assert "(2 different)" in found["email"].what
    assert TOKENS[0] not in str([f.as_dict() for f in found.values()])  # the audit hands no secret on


def test_replies_that_end_without_a_mark_are_no_finding_where_that_is_usual() -> None:
    assert blemishes([example("word " * (30 + line) + "on", line=line) for line in range(1, 100)]) == []


def test_many_replies_of_the_greatest_length_were_cut_by_a_tool() -> None:
    rows = [*clean(100), *[example((f"{k} " + "word " * 60)[:256] + "e", line=101 + k) for k in range(6)]]
    assert {f.kind: f.count for f in blemishes(rows)} == {"same_length": 6}


def test_what_many_replies_begin_and_end_with() -> None:
    """Digits differ, and the count is still right; mutant: sentences compared with their digits."""
    rows = clean(200)
    for line in range(40):
        said = f"Thank you for message {line}. It is {rows[line].target.text} We wish you a good day!"  # type: ignore[union-attr]
        rows[line] = example(said, line=line + 1)
    found = {f.kind: f for f in blemishes(rows)}
    assert {kind: (f.count, f.rows[0].text) for kind, f in found.items()} == {
        "same_begin": (40, "Thank you for message 0."), "same_end": (40, "We wish you a good day!"),
    }  # fmt: skip


def test_labels_are_no_replies() -> None:
    rows = [Example(f"{k}-1", (Message("user", f"text {k}"),), Label("N/A"), source=f"a:{k}") for k in range(50)]
    assert blemishes(rows) == []


def test_writing() -> None:
    assert writing_of("Tom Daley ነበር ላይ BBC") == "ethiopic"  # mutant: most letters alone
    assert writing_of("he said привет to the whole of the other town") == "latin"
    assert [writing_of(t) for t in ("hello", "привет you", "你好", "ひらがな", "12 !")] == [
        "latin", "cyrillic", "chinese or japanese", "japanese", "",
    ]  # fmt: skip


def asking(prompt: str, reply: str, num: int) -> list[Example]:
    return [Example(f"{k}-1", (Message("user", prompt),), Reply(Message("assistant", reply))) for k in range(num)]


def test_a_row_is_in_another_writing_on_its_own_side() -> None:
    """A translation is in two writings. Mutants: both sides read as one text, and a short translation is in the other
    writing; a mixture of three has odd rows."""
    right = [*asking("Say it in Amharic: hello to all of you", "ሰላም", 95), *asking("Say it", "ሰላም ለሁላችሁ", 95)]
    odd = [*asking("Say it: hello", "hello", 4), *asking("скажи", "ሰላም", 3)]
    assert [(f.kind, f.count, f.what) for f in blemishes([*right, *odd])] == [
        ("other_writing", 4, "rows are mostly written in latin letters"),
        ("other_writing", 3, "rows are mostly asked in cyrillic and answered in ethiopic letters"),
    ]
    assert blemishes(right) == []
    assert blemishes([*right, *asking("Say it in Russian: hello", "привет", 2)]) == []
    many = [*asking("hello", "hello", 60), *asking("привет", "привет", 60), *asking("ሰላም", "ሰላም", 2)]
    assert blemishes(many) == []
    assert blemishes([*asking("ひらがなで", "はい", 90), *asking("東京", "大阪", 3)]) == []


def test_an_excerpt_shows_the_place_and_no_secret() -> None:
    text = "x " * 300 + f"the key {TOKENS[1]} stands here " + "y " * 300
    shown = excerpt(text, text.index("sk-"))
    assert "[API_TOKEN]" in shown
    assert "sk-" not in shown


def test_a_text_is_cut_behind_a_word_that_no_sentence_ends_with_or_within_one() -> None:
    """People leave the last mark out: a mutant that calls each such text cut accuses six of them."""
    known = Endings()
    for number in range(80):
        known.learn(f"The reviewers wait for the parcel. It stands in the yard. We like number {number}.")
    assert known.is_cut("We wrote to all of them and the")
    assert known.is_cut("They asked for more revie")
    assert known.is_cut("They asked for more,")
    for whole in ("We wrote to all of them in the yard", "It is a yard", "Good luck, Scott", "It costs 0.06%",
                  "See https://example.org/yard/the", "Ask number 12"):  # fmt: skip
        assert not known.is_cut(whole), whole


def test_of_replies_that_were_cut_anywhere_half_are_found_and_of_whole_ones_none() -> None:
    rows, draw = clean(1000), random.Random(4)
    for at in range(0, 1000, 20):
        whole = replies_of(rows[at])[0]
        rows[at] = example(whole[: draw.randint(120, len(whole) - 2)].rstrip(" ."), "so?", at + 1)
    for at in range(10, 1000, 40):  # whole, without the last mark
        rows[at] = example(replies_of(rows[at])[0].rstrip("."), "so?", at + 1)
    (found,) = [f for f in blemishes(rows) if f.kind == "cut_replies"]
    right = {f"rows.jsonl:{at + 1}" for at in range(0, 1000, 20)}
    print(f"{found.count} of 50 replies that were cut anywhere are told, and of 25 whole ones without a mark none")
    assert {row.source for row in found.rows} <= right
    assert 20 <= found.count <= 50
