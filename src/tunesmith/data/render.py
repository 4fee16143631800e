"""Examples to tokens and weights: the only place where a chat template meets a tokenizer.

Each learned turn is rendered in the context in which it will be served: the prompt is tokenised as served, the reply
alone. The turns of a conversation are paths of one tree that share their common token prefix.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice, pairwise, takewhile
from typing import Any, TypeVar

import numpy as np

from tunesmith.data.controls import Controls
from tunesmith.data.encode import Encoder
from tunesmith.data.frame import PROBE, Frame
from tunesmith.data.outcomes import Outcome, Rendered, gathered, outcomes_of_bytes, outcomes_to_bytes
from tunesmith.data.pack import path_tokens
from tunesmith.data.plain_text import PlainText
from tunesmith.data.records import four_of, to_bytes
from tunesmith.data.spread import cores, spread
from tunesmith.data.template import ChatTemplate
from tunesmith.data.tree import apart, branches, merge
from tunesmith.data.turns import Learned, learned_of
from tunesmith.errors import DataError, ModelError
from tunesmith.types import Example, Message, Pair, Ranked, Record

CHUNK = 256  # examples whose texts are tokenised in one call
LEAST_SPREAD = 2048  # examples that are worth processes of their own
CUT_MARK = " […] "  # shown to the model where the middle of a long text was taken out
MAX_CUTS = 12
BYTE = re.compile("<0x[0-9A-F]{2}>")  # a token that is one byte of a character


Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class _Turn:
    """One learned reply as text. Texts hold `cut` characters where they are cut before they are tokenised."""

    prompt: str
    reply: str
    cut: str
    weight: float


class Renderer:
    """`max_tokens`: the longest context, reply included; longer examples are dropped, or the longest text of their
    prompt is cut. `layout`: of the model; an encoder-decoder reads the prompt apart from the reply.
    """

    labels: tuple[str, ...] = ()  # where an answer is the number of one
    several: tuple[str, ...] = ()  # those of which an answer may be several at once, each a question by itself

    def __init__(self, tokenizer: Any, max_tokens: int, too_long: str = "drop", layout: str = "forest") -> None:
        if too_long not in ("drop", "cut"):
            raise DataError(f"too_long is {too_long!r}; wanted 'drop' or 'cut'.")
        self._tokenizer, self._max_tokens, self._too_long = tokenizer, max_tokens, too_long
        self.is_apart = layout == "seq2seq"
        self._chat = ChatTemplate(tokenizer, layout)
        self.template = self._chat.text  # frozen: exported with the artifact
        self._controls = Controls(tokenizer, self.template)
        self._encoder = Encoder(tokenizer, self._controls)
        self._frame = Frame(tokenizer, self._chat, self._controls)
        self.end_id = self._frame.end_id
        self.plain = PlainText(tokenizer, self._encoder, self._controls, max_tokens)
        self._expected: dict[tuple[object, ...], int] = {}
        eos = tokenizer.eos_token_id
        self.stop_ids: tuple[int, ...] = tuple(
            dict.fromkeys([self._frame.end_id, *([] if eos is None else [int(eos)])])
        )
        found = self.reply([Message("user", "x")], Message("assistant", "x"))
        if not found or found[-1] != self._frame.end_id:
            raise ModelError(
                f"the end of turn {self._frame.end_text!r} is not one token of the tokenizer. Use the model's own "
                "tokenizer."
            )

    # What generation and scoring need

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Token ids as served: up to where the model goes on."""
        text, cut, _ = self._prompt_text(messages)
        return self._encoder.one(text, cut)

    def reply(self, prompt_messages: Sequence[Message], message: Message) -> list[int]:
        """Token ids of a reply behind that prompt, with its end of turn."""
        turn = self._turn([*prompt_messages, message], len(prompt_messages), 1.0)
        return self._encoder.one(turn.reply, turn.cut, is_inside=not self.is_apart)

    def behind(self, said: Sequence[Message], then: Sequence[Message], is_ended: bool) -> list[int]:
        """Token ids that the template puts between the last of these turns and where the model goes on behind `then`.
        `is_ended`: the end of that turn stands there; else it is among them."""
        num = sum(m.content.count(PROBE) for m in said[:-1])
        text, cut, _ = self._prompt_text([*said[:-1], replace(said[-1], content=PROBE), *then])
        _, end, rest = text.split(PROBE, num + 1)[-1].partition(self._frame.end_text)
        if not end:
            raise DataError("the model's chat template writes no end of turn behind a reply that others follow.")
        return self._encoder.one(end + rest, cut, is_inside=True)[is_ended:]  # a text is read by what it stands behind

    def choice(self, prompt_messages: Sequence[Message], label: str) -> list[int]:
        """Token ids by which a label is scored behind that prompt: those of the reply that is its name."""
        return self.reply(prompt_messages, Message("assistant", label))

    def ways_on(self, prompt_messages: Sequence[Message], before: str, ways: Sequence[str]) -> list[list[int]]:
        """Token ids of replies that begin with `before` and go on with each of `ways`, without what would follow."""
        turn = self._turn([*prompt_messages, Message("assistant", before + ways[0])], len(prompt_messages), 1.0)
        at = turn.reply.find(before + ways[0])
        if at >= 0:  # the template writes a content as it is, and is asked once
            texts = [(turn.reply[:at] + before + way, turn.cut) for way in ways]
            return [ids.tolist() for ids in self._encoder.all(texts, is_inside=not self.is_apart)]
        whole = [self.reply(prompt_messages, Message("assistant", before + way)) for way in ways]
        return [list(takewhile(lambda i: i not in self.stop_ids, ids)) for ids in whole]

    def text(self, reply_tokens: Sequence[int]) -> str:
        """The content of a reply: up to the first stop token, without the frame that the template puts around a
        content.
        """
        ids = [int(i) for i in reply_tokens]
        end = next((n for n, i in enumerate(ids) if i in self.stop_ids), len(ids))
        ids = ids[:end]
        marker, lead = self._frame_marker
        begin = self._content_at(ids)
        if begin is None and marker in ids:
            begin = len(ids) - ids[::-1].index(marker)
        elif begin is None:
            begin, lead = 0, ""
        text = self._plain(ids[begin:]).removeprefix(lead)
        text = text.removesuffix(self._frame.suffix) if end < len(reply_tokens) else text
        return text.strip() if self._frame.trims else text

    def settled(self, reply_tokens: Sequence[int]) -> str:
        """The beginning of `text` that no further token can change: as far as an unfinished reply can be shown."""
        ids = [int(i) for i in reply_tokens]
        begin = self._content_at(ids)
        if begin is None:
            return ""
        while len(ids) > begin and BYTE.fullmatch(str(self._tokenizer.convert_ids_to_tokens(ids[-1]))):
            ids.pop()  # one wrong byte makes a whole run of byte tokens unreadable
        text, (_, lead) = self._plain(ids[begin:]), self._frame_marker
        if lead.startswith(text):
            return ""
        text = text.removeprefix(lead)
        text = text[: len(text) - begun(text, [self._frame.suffix], whole=True)]
        text = text.rstrip("\ufffd")  # half a character
        return text.strip() if self._frame.trims else text

    def _plain(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def _content_at(self, ids: list[int]) -> int | None:
        """Where the content begins: behind the first marker with the header that the template gives a content (GPT-OSS
        writes "final" before it, and another word before its thoughts). None where it has not begun."""
        marker, _ = self._frame_marker
        if marker is None:
            return 0
        return next((n + 1 for n, i in enumerate(ids) if i == marker and self._is_header(ids[:n])), None)

    def _is_header(self, before: list[int]) -> bool:
        if not self._frame_header:
            return True
        text = str(self._tokenizer.decode(before, skip_special_tokens=False, clean_up_tokenization_spaces=False))
        last = self._controls.last_in(text)
        return (text[last.end() :] if last else text).strip() == self._frame_header

    @cached_property
    def _frame_header(self) -> str:
        """What stands between the last two control tokens that the template writes before a content."""
        last = self._controls.last_in(self._frame.prefix)
        before = self._frame.prefix[: last.start()] if last else ""
        first = self._controls.last_in(before)
        return (before[first.end() :] if first else before).strip()

    @cached_property
    def _frame_marker(self) -> tuple[int | None, str]:
        """The last control id that the template writes before a content, and the text between the two."""
        last = self._controls.last_in(self._frame.prefix)
        if last is None:
            return None, self._frame.prefix
        return int(self._tokenizer.convert_tokens_to_ids(last.group())), self._frame.prefix[last.end() :]

    @cached_property
    def digest(self) -> str:
        """Of all that decides the tokens: tokenizer, template, labels, limits."""
        fast = self._tokenizer.is_fast
        words = (
            self._tokenizer.backend_tokenizer.to_str() if fast else repr(sorted(self._tokenizer.get_vocab().items()))
        )
        special = json.dumps(self._tokenizer.special_tokens_map, sort_keys=True, default=str)  # templates write them
        said = [words, special, self.template, *self.labels, str(self._max_tokens), self._too_long]
        return hashlib.sha256("\0".join(said).encode()).hexdigest()

    # Examples to records

    def redrawn(self, record: Record, epoch: int) -> Record:
        """The record as an epoch has it: the same in each, where nothing is drawn."""
        return record

    def record(self, example: Example) -> Record:
        """The example as a tree, however long it is. DataError names the example where it cannot be rendered."""
        turns = self._turns(example, learned_of(example))
        return self._joined(example, turns, self._paths(turns))

    def records(self, examples: Iterable[Example], progress: Callable[[int], None] | None = None) -> Rendered:
        """All examples, in order; a plain text as its pieces. What the template refuses and what is too long is dropped
        with the reason. `progress` is told how many are done. Many are rendered on all cores."""
        return gathered(self._found(examples), self.pieces, progress)

    def _found(self, examples: Iterable[Example]) -> Iterator[Iterable[Outcome]]:
        """What became of each, by chunks."""
        if not isinstance(examples, Sequence) or len(examples) < LEAST_SPREAD or cores() == 1:
            stream = iter(examples)
            while chunk := list(islice(stream, CHUNK)):
                yield self._outcomes(chunk)
            return
        num = -(-len(examples) // CHUNK)
        make = lambda n: outcomes_to_bytes(self._outcomes(list(examples[n * CHUNK : (n + 1) * CHUNK])))
        yield from map(outcomes_of_bytes, spread(make, num, cores()))

    def _outcomes(self, chunk: Sequence[Example]) -> Iterator[Outcome]:
        for example, found, reason in self._each(chunk):
            is_cut = False
            length = path_tokens(found[0]) if found else 0  # no piece of a text is too long
            if length > self._max_tokens:
                short = self._shortened(example) if self._too_long == "cut" else None
                is_cut = short is not None
                found, reason = () if short is None else (short,), f"{length} tokens, more than {self._max_tokens}"
            rows = [(to_bytes(record), four_of(record)) for record in found]
            yield Outcome(example.id, "" if rows else reason, is_cut, isinstance(example.target, (Pair, Ranked)), rows)

    def pieces(self, record: Record) -> tuple[tuple[str, bool], ...]:
        """The longest path of a record as text, cut where it changes between context and learned."""
        path = _longest_path(record)
        tokens = np.concatenate([record.segments[i].tokens for i in path])
        learned = np.concatenate([record.segments[i].weights for i in path]) != 0
        edges = [0, *(np.flatnonzero(learned[1:] != learned[:-1]) + 1), len(tokens)]
        decode = self._tokenizer.decode
        return tuple(
            (str(decode(tokens[a:b].tolist(), clean_up_tokenization_spaces=False)), bool(learned[a]))
            for a, b in pairwise(edges)
        )

    def _each(self, examples: Sequence[Example]) -> Iterator[tuple[Example, tuple[Record, ...], str]]:
        """Each example of a chunk with its records, or with none and the reason."""
        learned: list[list[Learned] | str] = [said(lambda: learned_of(example)) for example in examples]  # noqa: B023
        asked = [turn for found in learned if isinstance(found, list) for turn in found]
        if asked:  # of plain texts nothing is, and what reads only these has no template
            self._chat.ahead([r for before, at, _ in asked for r in ((before[:at], True), (before[: at + 1], False))])
        turns: list[list[_Turn] | str] = [
            found if isinstance(found, str) else said(lambda: self._turns(example, found))  # noqa: B023
            for example, found in zip(examples, learned)
        ]
        if asked:
            self._chat.ahead([])
        paths = iter(self._paths([turn for found in turns if isinstance(found, list) for turn in found]))
        for example, found in zip(examples, turns):
            if isinstance(found, str):
                yield example, (), found
            else:
                yield example, *self._made(example, found, [next(paths) for _ in found])

    def _made(
        self, example: Example, turns: list[_Turn], paths: list[tuple[np.ndarray, np.ndarray]]
    ) -> tuple[tuple[Record, ...], str]:
        """Its records, of a plain text its pieces; or none and the reason."""
        try:
            return (self._joined(example, turns, paths),) if turns else self.plain.records(example), ""
        except DataError as error:
            return (), str(error)

    def _turns(self, example: Example, learned: Sequence[Learned]) -> list[_Turn]:
        try:
            return [self._turn(*turn) for turn in learned]
        except DataError as error:
            raise DataError(f"example {example.id} ({example.source}): {error}") from error

    def _joined(self, example: Example, turns: list[_Turn], paths: list[tuple[np.ndarray, np.ndarray]]) -> Record:
        weighed = [(ids, w * np.float32(turn.weight)) for turn, (ids, w) in zip(turns, paths)]
        laid = branches if isinstance(example.target, (Pair, Ranked)) else apart if self.is_apart else merge
        record = Record(example.id, laid(weighed))
        if record.num_learned == 0:
            raise DataError(
                f"example {example.id} ({example.source}) has no learned token after rendering. Look at its reply."
            )
        return record

    def _paths(self, turns: list[_Turn]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Tokens and 0/1 weights of each turn."""
        prompts = self._encoder.all([(t.prompt, t.cut) for t in turns])
        replies = self._encoder.all([(t.reply, t.cut) for t in turns], is_inside=not self.is_apart)
        return [
            (np.concatenate([p, r]), np.concatenate([np.zeros(len(p), np.float32), np.ones(len(r), np.float32)]))
            for p, r in zip(prompts, replies)
        ]

    def _turn(self, messages: Sequence[Message], at: int, weight: float) -> _Turn:
        """The assistant turn `messages[at]` behind the prompt that the messages before it make."""
        prompt, _, edges = self._prompt_text(messages[:at])
        shielded, cut = self._controls.shield(messages[: at + 1], edges=edges)
        if cut:  # the reply may have needed the cut character, or another one
            prompt = self._chat.render(shielded[:at], is_prompt=True)
        reply = self._frame.reply(shielded[:at], prompt, shielded[at])
        if messages[at].extra.get("tool_calls") and not reply.removesuffix(self._frame.end_text).strip():
            raise DataError(  # else silence would be learned
                "the model's chat template writes nothing of the tool call that is to be learned. Use a model whose "
                "template knows tools, or give that turn weight 0."
            )
        return _Turn(prompt, reply, cut, weight)

    def _prompt_text(self, messages: Sequence[Message]) -> tuple[str, str, bool]:
        """The served text, its cut character, and whether texts were cut at their edges."""
        if not messages:
            raise DataError("the prompt has no message; a reply is learned behind a prompt.")
        shielded, cut = self._controls.shield(messages)
        text = self._chat.render(shielded, is_prompt=True)
        if not text:
            raise DataError("the model's chat template renders the prompt as nothing.")
        count = self._controls.count_in(text)
        if count == self._expected_count(messages):
            return text, cut, False
        # Either the template looks at the content, or parts of a control token in two texts have met
        edged, edge_cut = self._controls.shield(messages, edges=True)
        safe = self._chat.render(edged, is_prompt=True)
        return (safe, edge_cut, True) if self._controls.count_in(safe) < count else (text, cut, False)

    def _expected_count(self, messages: Sequence[Message]) -> int | None:
        """Control tokens that the template writes for neutral texts in the same roles; None where a turn has more than
        text.
        """
        if any(m.extra for m in messages):
            return None
        shape = tuple((m.role, bool(m.content.strip())) for m in messages)
        if shape not in self._expected:
            neutral = [replace(m, content="x" if m.content.strip() else m.content) for m in messages]
            self._expected[shape] = self._controls.count_in(self._chat.render(neutral, is_prompt=True))
        return self._expected[shape]

    def _shortened(self, example: Example) -> Record | None:
        """The example with the middle of its prompt's longest text taken out until it fits; None where that is not
        enough.

        The reply and the system prompt stay whole; both ends of a text stay, since the instruction is at one of them.
        """
        for _ in range(MAX_CUTS):
            record = self.record(example)
            excess = path_tokens(record) - self._max_tokens
            if excess <= 0:
                return record
            open_to = [i for i, m in enumerate(example.prompt) if m.role not in ("system", "developer", "assistant")]
            longest = max(open_to, key=lambda i: len(example.prompt[i].content), default=None)
            if longest is None:
                return None
            message = example.prompt[longest]
            core = message.content.replace(CUT_MARK, "")
            tokens = len(self._encoder.one(core, "")) or 1
            keep = len(core) - int(np.ceil((excess + 4) * len(core) / tokens))
            if keep < 2:
                return None
            middle = message.content.find(CUT_MARK)
            head = min(keep // 2 + keep % 2, middle) if middle >= 0 else keep // 2 + keep % 2
            short = core[:head] + CUT_MARK + core[len(core) - (keep - head) :]
            prompt = (*example.prompt[:longest], replace(message, content=short), *example.prompt[longest + 1 :])
            example = replace(example, prompt=prompt)
        return None


def said(work: Callable[[], Found]) -> Found | str:
    """What it gives, or the reason why it cannot."""
    try:
        return work()
    except DataError as error:
        return str(error)


def _longest_path(record: Record) -> list[int]:
    """Indices of the segments from the root to the farthest leaf."""
    ends: list[int] = []
    for segment in record.segments:
        ends.append((ends[segment.parent] if segment.parent >= 0 else 0) + len(segment.tokens))
    path = [int(np.argmax(ends))]
    while record.segments[path[-1]].parent >= 0:
        path.append(record.segments[path[-1]].parent)
    return path[::-1]


def begun(text: str, endings: Sequence[str], *, whole: bool = False) -> int:
    """Characters at the end of a text that may be the beginning of one of `endings`, or all of it where `whole`."""
    longest = 0
    for ending in endings:
        most = min(len(ending) - (not whole), len(text))
        longest = max(longest, next((n for n in range(most, 0, -1) if text.endswith(ending[:n])), 0))
    return longest
