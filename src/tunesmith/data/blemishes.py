"""One pass over the rows for what each shows by itself: replies that say nothing, refuse or stop in the middle,
personal data and secrets, control tokens, writing. What is common to many is decided behind the pass.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from tunesmith.data import alike, languages, markers, personal, replies
from tunesmith.data.cut_off import Endings
from tunesmith.data.finding import SHOWN, Finding, Row, excerpt, finding, replies_of, texts_of
from tunesmith.data.progress import Step, counted, untold
from tunesmith.data.stored import Chosen
from tunesmith.data.tally import MOST_VALUES, Tally
from tunesmith.data.traits import masked, normalised
from tunesmith.types import Example, Label, Reply

USUAL_FRAC = 0.9  # of the long replies, that end with a mark: where so many do, one that does not was cut
SAME_LENGTH = 5  # long replies of just the greatest length, half of them without an end: a tool cut them there
BOILERPLATE_FRAC, BOILERPLATE_ROWS = 0.05, 20
RARE_FRAC = 0.05  # rows in another writing, or with a late system turn, are a finding where they are fewer
MAIN_FRAC = 0.8  # of the prompts, or of the replies, in one writing: in a mixture of many none is odd
LATIN_FRAC = 0.8  # of the letters of a text in latin writing
CHARS_READ = 400  # of the prompt, and of the reply, to tell their writing
MENDED_FRAC = 0.05  # of the replies, from which on a refusal, or a mark alone, may be what is taught
HEADS = ("system", "developer")
WRITINGS = ("LATIN", "CYRILLIC", "GREEK", "ARABIC", "HEBREW", "DEVANAGARI", "BENGALI", "TAMIL", "THAI", "HANGUL", "CJK",
            "HIRAGANA", "KATAKANA", "ETHIOPIC", "GEORGIAN", "ARMENIAN")  # fmt: skip
PERSONAL = {
    "private_key": "private keys", "api_token": "keys or tokens of a service", "password": "a password in an address",
    "card_number": "card numbers (the check digit is right)", "iban": "bank accounts (IBAN with right check digits)",
    "social_security_number": "numbers of the form of a US social security number", "email": "e-mail addresses",
    "phone": "phone numbers",
}  # fmt: skip
LEARNED = "a model can learn them by heart and say them to anybody"
MASKED = "put a placeholder in their place; take a key out of service as well"
KEPT = "decide row by row: a public contact may be what is to be learned; else drop these rows"


@dataclass(slots=True)
class Blemishes:
    """What the pass has counted so far. `drop`: kinds of findings whose rows are all wanted."""

    drop: Collection[str] = ()
    num: int = 0
    num_replies: int = 0  # that are text, not labels
    tallies: dict[str, Tally] = field(default_factory=dict)
    writings: dict[tuple[str, str], Tally] = field(default_factory=dict)  # of what is asked, and of what is answered
    num_long: int = 0
    num_open: int = 0  # of these, that end without a mark
    endings: Endings = field(default_factory=Endings)  # of the others
    longest: int = 0
    at_longest: Tally = field(default_factory=Tally)  # of no row: none is as short
    num_ended: int = 0  # of these
    # of each row, of how its reply begins and ends; empty where it has none, or is of one sentence
    edges: dict[str, alike.Digests] = field(default_factory=lambda: {e: alike.Digests() for e in ("begin", "end")})

    def made(self, kind: str) -> Tally:
        return Tally(every=[] if kind in self.drop else None)

    def tally(self, kind: str) -> Tally:
        return self.tallies.setdefault(kind, self.made(kind))

    def see(self, example: Example) -> None:
        self.num += 1
        kinds: dict[str, tuple[str, int, list[str]]] = {}
        for _, text in texts_of(example):
            for kind, begin, end in personal.spans(text):
                kinds.setdefault(kind, (text, begin, []))[2].append(text[begin:end])
            for kind, found in (("control_tokens", markers.control(text)), ("hidden_characters", markers.hidden(text))):
                if found:
                    kinds.setdefault(kind, (text, found.start(), []))[2].append(found[0])
        late = next((m for k, m in enumerate(example.prompt) if m.role in HEADS and late_head(example, k)), None)
        if late is not None:
            self.tally("late_system").add(example, late.content)
        for kind, (text, at, values) in kinds.items():
            tally = self.tally(kind)
            tally.add(example, text, at, repr(values[0]) if kind == "control_tokens" else "")
            if len(tally.values) < MOST_VALUES:
                tally.values.update(map(alike.digest, values))
        asked, answered = both_sides(example)
        writing = writing_of(asked), "" if languages.is_asked_for(example) else writing_of(answered)
        self.writings.setdefault(writing, self.made("other_writing")).add(example, f"{asked} {answered}".strip())
        there: dict[str, str] = {}
        if not isinstance(example.target, Label) and not example.is_text:
            for reply in replies_of(example)[:1]:
                self.reply(example, reply)
                there = dict(replies.edges(reply))
        for where, digests in self.edges.items():
            said = alike.digest(masked(normalised(there[where]))) if where in there else bytes(alike.BYTES)
            digests.append(said)

    def reply(self, example: Example, reply: str) -> None:
        self.num_replies += 1
        if replies.is_empty(reply) and not calls(example):
            self.tally("empty_replies").add(example, reply or "(nothing)")
        elif isinstance(example.target, Reply) and (found := replies.refusal(reply)):  # of a pair it may be preferred
            self.tally("refused_replies").add(example, reply, found.start())
        if replies.is_fenced_open(reply):
            self.tally("open_code").add(example, reply, max(0, len(reply) - 80))
        elif replies.is_long(reply):
            self.num_long += 1
            if replies.ends(reply):
                self.endings.learn(reply)
            else:
                self.num_open += 1
        if len(reply) >= self.longest and replies.is_long(reply):
            if len(reply) > self.longest:
                self.longest, self.at_longest, self.num_ended = len(reply), self.made("same_length"), 0
            self.at_longest.add(example, reply, max(0, len(reply) - 80))
            self.num_ended += replies.ends(reply)


def late_head(example: Example, at: int) -> bool:
    """Whether others have spoken before this turn."""
    return any(message.role not in HEADS for message in example.prompt[:at])


def calls(example: Example) -> bool:
    """Whether the reply is a call of a function, which says nothing besides."""
    return isinstance(example.target, Reply) and bool(example.target.message.extra)


def both_sides(example: Example) -> tuple[str, str]:
    """The beginnings of what is asked and of what is answered. A label is in no writing, nor what is said to all."""
    asked = "".join(m.content[:CHARS_READ] for m in example.prompt if m.role not in HEADS)
    answered = "" if isinstance(example.target, Label) else "".join(r[:CHARS_READ] for r in replies_of(example))
    return asked[:CHARS_READ], answered[:CHARS_READ]


def writing_of(text: str) -> str:
    """The one that most letters are of; "" without letters. Names stand in latin letters in any writing, so that a text
    of which a part is in another one is in that."""
    if text.isascii():
        return "latin" if any(map(str.isalpha, text)) else ""
    counts = Counter(unicodedata.name(c, "?").split()[0] for c in text if c.isalpha())
    counts = Counter({name: num for name, num in counts.items() if name in WRITINGS})
    if counts["LATIN"] < LATIN_FRAC * counts.total():
        del counts["LATIN"]
    name = counts.most_common(1)[0][0] if counts else ""
    return {"HIRAGANA": "japanese", "KATAKANA": "japanese", "CJK": "chinese or japanese"}.get(name, name.lower())


def blemishes(examples: Sequence[Example], step: Step = untold, drop: Collection[str] = ()) -> list[Finding]:
    """Of all rows of a file."""
    seen = Blemishes(drop)
    for example in counted(examples, len(examples), "rows examined", step):
        seen.see(example)
    return [
        *_replies(seen),
        *_cut(seen, examples),
        *_personal(seen),
        *_injected(seen),
        *_boilerplate(seen, examples),
        *_writings(seen),
    ]


def told(kind: str, tally: Tally, of: int, *words: str) -> Finding:
    """`words`: what it is, why it hurts, what mends it."""
    made = finding(kind, tally.count, of, tally.rows, words)
    return made if tally.every is None else replace(made, every=lambda: tally.every or ())


def dropping(kind: str, seen: Blemishes) -> str:
    """What mends such replies: where they are many, they may be wanted."""
    few = seen.tallies[kind].count < MENDED_FRAC * seen.num_replies
    return "drop them" if few else "so many may be what is to be taught; else drop them"


def _replies(seen: Blemishes) -> Iterator[Finding]:
    num, at = seen.num_replies, seen.tallies
    if "empty_replies" in at:
        yield told("empty_replies", at["empty_replies"], num, "replies say nothing",
                   "the model learns to say nothing", dropping("empty_replies", seen))  # fmt: skip
    if "refused_replies" in at:
        yield told("refused_replies", at["refused_replies"], num, "replies refuse, or say that they are a model",
                   "the model learns to refuse what it could answer", dropping("refused_replies", seen))  # fmt: skip
    if "open_code" in at:
        yield told("open_code", at["open_code"], num, "replies open a block of code and never close it",
                   "they were cut, and the model learns to stop there",
                   "write them again, or drop them")  # fmt: skip
    if seen.at_longest.count >= max(SAME_LENGTH, 2 * seen.num_ended):
        yield told("same_length", seen.at_longest, num,
                   f"replies have just {seen.longest:,} characters, and none has more", "a tool cut them there",
                   "export them again without a limit, or drop them")  # fmt: skip


def _cut(seen: Blemishes, examples: Sequence[Example]) -> Iterator[Finding]:
    """Long replies that stop in the middle, where nearly all others end with a mark."""
    if not 0 < seen.num_open <= (1 - USUAL_FRAC) * seen.num_long:
        return
    cut = seen.made("cut_replies")
    for example in examples:
        if isinstance(example.target, Label) or example.is_text:
            continue
        for reply in replies_of(example)[:1]:
            is_open = replies.is_long(reply) and not replies.ends(reply) and not replies.is_fenced_open(reply)
            if is_open and seen.endings.is_cut(reply):
                cut.add(example, reply, max(0, len(reply) - 80))
    if cut.count:
        yield told(
            "cut_replies", cut, seen.num_replies,
            "long replies stop behind a word that no sentence ends with, or within one, where nearly all others end "
            "with a mark", "they were cut, and the model learns to stop in the middle",
            "look at their ends, and write them again, or drop them",
        )  # fmt: skip


def _personal(seen: Blemishes) -> Iterator[Finding]:
    for kind, name in PERSONAL.items():
        if kind in seen.tallies:
            tally = seen.tallies[kind]
            distinct = f"{len(tally.values):,}{'+' if len(tally.values) >= MOST_VALUES else ''} different"
            mend = MASKED if kind in personal.SAFE else KEPT
            yield told(kind, tally, seen.num, f"rows hold {name} ({distinct})", LEARNED, mend)


def _injected(seen: Blemishes) -> Iterator[Finding]:
    if "control_tokens" in seen.tallies:
        yield told(
            "control_tokens", seen.tallies["control_tokens"], seen.num,
            "rows hold the turn markers or control tokens of a chat template in their text",
            "tunesmith learns them as plain text, other tools as turns: whoever writes them speaks for the model",
            "cut such rows into turns (`data.columns.transcripts`), or drop them",
        )  # fmt: skip
    late = seen.tallies.get("late_system")
    if late and late.count < RARE_FRAC * seen.num:
        yield told(
            "late_system", late, seen.num, "rows have a system turn behind another turn, where nearly all have none",
            "a user's text with turn markers in it, once it is cut into turns, gives the model orders in this way",
            "look at who wrote these turns, or drop the rows",
        )  # fmt: skip
    if "hidden_characters" in seen.tallies:
        yield told(
            "hidden_characters", seen.tallies["hidden_characters"], seen.num,
            "rows hold characters that nobody sees (of direction, of tags, of no width between letters)",
            "they break words into other tokens, and can hide what a row says",
            "take them out, or drop the rows",
        )  # fmt: skip


def _boilerplate(seen: Blemishes, examples: Sequence[Example]) -> Iterator[Finding]:
    """Sentences that many replies begin or end with."""
    for where, digests in seen.edges.items():
        some = digests.all()
        least = max(BOILERPLATE_ROWS, BOILERPLATE_FRAC * seen.num_replies)
        counts: list[tuple[int, bytes]] = []
        for index, begins in alike.runs(some):
            sizes = np.diff([*begins, len(index)])
            counts += [(int(sizes[k]), some[index[begins[k]]]) for k in np.flatnonzero(sizes >= least)]
        common = sorted((c for c in counts if c[1] != b""), reverse=True)
        if not common:
            continue
        rows = []
        for num, name in common[:SHOWN]:
            example = examples[int(np.flatnonzero(some == name)[0])]
            said = dict(replies.edges(replies_of(example)[0]))[where]
            rows.append(Row(example.source, excerpt(said), f"{num:,} replies"))
        made = finding(f"same_{where}", sum(n for n, _ in common), seen.num_replies, rows, (
            f"replies {where} with a sentence that {int(np.ceil(least)):,} or more share ({len(common)} of these)",
            "the model learns to say it always, and the score counts it as right",
            "take the sentence out of these replies, unless it is wanted in every answer"))  # fmt: skip
        names = np.array([name for _, name in common], alike.DTYPE)
        yield replace(made, every=partial(_sources, examples, np.flatnonzero(np.isin(some, names))))


def _sources(examples: Sequence[Example], numbers: np.ndarray) -> Iterator[str]:
    return (example.source for example in Chosen(examples, numbers))


def _writings(seen: Blemishes) -> Iterator[Finding]:
    """Rows that ask, or answer, in another writing than nearly all do: a translation is in two, and is none."""
    counts: tuple[Counter[str], Counter[str]] = Counter(), Counter()
    for names, tally in seen.writings.items():
        for name, of_side in zip(names, counts):
            of_side[name] += tally.count * bool(name)
    for (asked, answered), tally in sorted(seen.writings.items(), key=lambda item: -item[1].count):
        if any(map(is_odd, (asked, answered), counts)):
            one = asked == answered or not (asked and answered)
            how = f"written in {asked or answered}" if one else f"asked in {asked} and answered in {answered}"
            yield told(
                "other_writing", tally, seen.num, f"rows are mostly {how} letters",
                "too few to learn a language from, and often a mistake",
                "add more of them, or drop them",
            )  # fmt: skip


def is_odd(name: str, counts: Counter[str]) -> bool:
    """Whether few are in this writing, and nearly all in one. Japanese without kana looks like Chinese."""
    [(main, most)], total = counts.most_common(1) or [("", 0)], counts.total()
    is_kin = (name, main) == ("chinese or japanese", "japanese")
    return bool(name) and counts[name] < RARE_FRAC * total and most >= MAIN_FRAC * total and not is_kin
