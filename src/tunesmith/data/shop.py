"""The inbox of a made-up shop: the data of `tunesmith quickstart`.

Customers' messages, each to be turned into one line of JSON for an agent: intent, order number, product, urgency, and
what was asked. Nobody wrote these messages: they are put together from the phrasings in `shop.json`, which were written
for this project, and any report on them has to say so.

What decides the reply is held out: a phrasing (intent, asked) or a remark on urgency that is used in test stands in
neither train nor dev, and which is which depends on the text alone, not on the seed. Greetings, moods, asides and
sign-offs decide nothing and are shared.
"""

from __future__ import annotations

import json
import random
import re
from dataclasses import asdict, dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

KEYS = ("intent", "order", "product", "urgency", "asked")
SPLITS = ("train", "dev", "test")
SHARE_FRAC = {"dev": 0.08, "test": 0.18}  # of the messages; train has the rest
MIN_WORDS, MAX_WORDS = 10, 60

# How often a message names its order; who asks before buying has none.
ORDER_FRAC = {"question": 0.15, "discount": 0.55, "complaint": 0.65}
ORDER_FRAC_ELSE = 0.85
UNNAMED_FRAC = 0.1  # "the thing I ordered": no product in the reply


@dataclass(frozen=True, slots=True)
class Row:
    """One message and its reply. `group` is the phrasing, which stands in one split only."""

    prompt: str
    completion: str
    group: str
    split: str


@dataclass(frozen=True, slots=True)
class Phrasing:
    id: str  # intent/asked/number
    intent: str
    asked: str
    text: str  # {slot}, [one|of these]
    split: str


@cache
def texts() -> dict[str, Any]:
    """The hand-written parts, as they stand in shop.json. Not to be changed by the caller."""
    return json.loads(resources.files("tunesmith.data").joinpath("shop.json").read_text(encoding="utf-8"))


def phrasings() -> list[Phrasing]:
    """All phrasings with their split: of each (intent, asked) two are for test and one for dev."""
    found = []
    for intent, by_asked in texts()["phrasings"].items():
        for asked, lines in by_asked.items():
            order = sorted(range(len(lines)), key=lambda i: random.Random(f"split {lines[i]}").random())
            split = {i: "test" if rank < 2 else "dev" if rank == 2 else "train" for rank, i in enumerate(order)}
            stem = f"{intent}/{asked.replace(' ', '_')}"
            found += [Phrasing(f"{stem}/{i}", intent, asked, line, split[i]) for i, line in enumerate(lines)]
    return found


def urgency_remarks(level: str, split: str) -> list[str]:
    """The remarks that say `level`: one in five is for test, one in ten for dev."""
    lines = texts()["urgency"][level]
    order = sorted(lines, key=lambda line: random.Random(f"split {line}").random())
    num_test, num_dev = len(lines) // 5, max(1, len(lines) // 10)
    start, stop = {
        "test": (0, num_test),
        "dev": (num_test, num_test + num_dev),
        "train": (num_test + num_dev, len(order)),
    }[split]
    return order[start:stop]


def instruction() -> str:
    """The system prompt that base and tuned model both get: the keys and their closed sets of values."""
    by_intent = texts()["phrasings"]
    asked = list(dict.fromkeys(asked for by_asked in by_intent.values() for asked in by_asked))
    return (
        "Answer with one line of JSON.\n"
        f"intent: {', '.join(by_intent)}\n"
        "order, product: as written or null\n"
        "urgency: high, normal, low\n"
        f"asked: {', '.join(asked)}"
    )


INSTRUCTION = instruction()


def choose_options(text: str, rng: random.Random) -> str:
    """`[a|b]` becomes a or b."""
    return re.sub(r"\[([^\[\]]*\|[^\[\]]*)\]", lambda match: rng.choice(match[1].split("|")), text)


def garble(text: str, rng: random.Random, rate_frac: float) -> str:
    """Misspells `rate_frac` of the words; slots in braces stay as they are."""
    known = texts()["misspelled"]

    def one(match: re.Match[str]) -> str:
        word = match[0]
        if word.startswith("{") or rng.random() >= rate_frac:
            return word
        if word in known:
            return known[word]
        if len(word) < 5:
            return word
        at = rng.randrange(1, len(word) - 2)
        return rng.choice(
            (
                word[:at] + word[at + 1] + word[at] + word[at + 2 :],  # two letters swapped
                word[:at] + word[at + 1 :],  # one left out
                word[:at] + word[at] + word[at:],  # one doubled
            )
        )

    return re.sub(r"\{\w+\}|[A-Za-z']+", one, text)


def restyle(text: str, rng: random.Random) -> str:
    """The same text as typed by one of several people: careful, hasty on a phone, fond of exclamation marks."""
    style = rng.choices(("careful", "typos", "lower", "bare", "loud"), (52, 20, 12, 8, 8))[0]
    if style == "typos":
        return garble(text, rng, 0.18)
    if style in ("lower", "bare"):
        text = text.lower()  # slots have lower-case names
    if style == "bare":
        text = garble(re.sub(r"[,;:](?=\s)|[.!]+(?=\s|$)", "", text), rng, 0.06)
    if style == "loud":
        text = re.sub(r"\.(?=\s|$)", lambda _: rng.choice(("!", "!!", ".", "!!!")), text)
    return text


def make_order(rng: random.Random) -> str:
    return re.sub("#", lambda _: str(rng.randrange(10)), rng.choice(texts()["order_formats"]))


def choose_product(slot: str, rng: random.Random) -> str:
    parts = texts()
    return rng.choice([name for kind in parts["kinds"][slot] for name in parts["products"][kind]])


def fill(text: str, order: str | None, product: str | None, rng: random.Random) -> str:
    """Puts values into the slots. An unnamed product is spoken of as "the item"; {other} is some other product."""
    parts = texts()

    def value(match: re.Match[str]) -> str:
        slot = match[1]
        if slot == "order":
            assert order is not None
            return order
        if slot == "ord":
            return ""
        if slot == "name":
            return rng.choice(parts["names"])
        if slot == "other":
            return rng.choice([name for names in parts["products"].values() for name in names if name != product])
        if slot in parts["kinds"]:
            return product or rng.choice(parts["unnamed"].get(slot, parts["unnamed"]["any"]))
        return rng.choice(parts["slots"][slot])

    return re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", re.sub(r"\{(\w+)\}", value, text))


def compose(phrasing: Phrasing, has_order: bool, urgency: str, rng: random.Random) -> str:
    """One message with its slots still open, in its writer's style."""
    parts = texts()
    core = choose_options(phrasing.text, rng)
    before: list[str] = []
    after: list[str] = []
    if rng.random() < 0.25:
        before.append(rng.choice(parts["moods"]))
    if has_order:
        if "{ord}" in core and rng.random() < 0.7:
            core = core.replace("{ord}", rng.choice(parts["order_inline"]))
        elif rng.random() < 0.4:
            before.append(rng.choice(parts["order_before"]))
        else:
            after.append(rng.choice(parts["order_after"]))
    if rng.random() < 0.15:
        after.append(rng.choice(parts["asides"]))
    if urgency != "normal":
        place = before if rng.random() < 0.2 else after
        place.insert(rng.randrange(len(place) + 1), rng.choice(urgency_remarks(urgency, phrasing.split)))
    if after and core[-1].isalnum():
        core += rng.choice((".", "...", ",", " -"))
    body = restyle(" ".join([*before, core, *after]), rng)
    greeting = [rng.choice(parts["greetings"])] if rng.random() < 0.6 else []
    signoff = [rng.choice(parts["signoffs"])] if rng.random() < 0.6 else []
    return rng.choice((" ", " ", "\n")).join([*greeting, body, *signoff])


def make_row(phrasing: Phrasing, rng: random.Random) -> Row:
    """One message of this phrasing, with its reply."""
    kinds = texts()["kinds"]
    slot = next((s for s in re.findall(r"\{(\w+)\}", phrasing.text) if s in kinds), None)
    is_named = slot is not None and ("{other}" in phrasing.text or rng.random() >= UNNAMED_FRAC)
    product = choose_product(slot, rng) if slot and is_named else None
    order = make_order(rng) if rng.random() < ORDER_FRAC.get(phrasing.intent, ORDER_FRAC_ELSE) else None
    urgency = rng.choices(("high", "normal", "low"), (33, 45, 22))[0]
    while True:
        message = fill(compose(phrasing, order is not None, urgency, rng), order, product, rng)
        if MIN_WORDS <= len(message.split()) <= MAX_WORDS:
            break
    values = (phrasing.intent, order, product, urgency, phrasing.asked)
    reply = json.dumps(dict(zip(KEYS, values, strict=True)), separators=(",", ":"), ensure_ascii=False)
    return Row(message, reply, phrasing.id, phrasing.split)


def inbox(seed: int = 0, num_messages: int = 2000) -> list[Row]:
    """`num_messages` different messages, in a random order; within a split all phrasings are equally frequent."""
    rng = random.Random(f"shop {seed}")
    num_rows = {split: round(frac * num_messages) for split, frac in SHARE_FRAC.items()}
    num_rows["train"] = num_messages - sum(num_rows.values())
    rows: dict[str, Row] = {}  # by message
    for split in SPLITS:
        turn = [p for p in phrasings() if p.split == split]
        goal = len(rows) + num_rows[split]
        while len(rows) < goal:
            rng.shuffle(turn)
            for phrasing in turn[: goal - len(rows)]:
                row = make_row(phrasing, rng)
                while row.prompt in rows:
                    row = make_row(phrasing, rng)
                rows[row.prompt] = row
    shuffled = list(rows.values())
    rng.shuffle(shuffled)
    return shuffled


def write(folder: Path, seed: int = 0, num_messages: int = 2000) -> dict[str, Path]:
    """Writes train.jsonl, dev.jsonl and test.jsonl; columns prompt, completion, group. Returns their paths."""
    rows = inbox(seed, num_messages)
    folder.mkdir(parents=True, exist_ok=True)
    paths = {split: folder / f"{split}.jsonl" for split in SPLITS}
    for split, path in paths.items():
        kept = [{k: v for k, v in asdict(row).items() if k != "split"} for row in rows if row.split == split]
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept), encoding="utf-8")
    return paths
