"""A file to a recipe: looks at the rows, proposes every choice with its reason, asks at most six questions.

What stands here only proposes. Reading the file is `data.ingest`'s, and the recipe decides what a run does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from tunesmith.data import ingest
from tunesmith.data.advice import column_notes, rows_notes, understood
from tunesmith.data.columns import Columns
from tunesmith.data.fill import is_template, names_in
from tunesmith.data.infer import infer
from tunesmith.data.located import find_splits
from tunesmith.data.profile import Column, Table, look
from tunesmith.errors import DataError, InputError, ModelError, did_you_mean
from tunesmith.evals.tasks import KINDS, WRITTEN, answer_text
from tunesmith.fit import Machine, Sizes, machine, minutes, sizes, whole_s, within
from tunesmith.models.catalogue import EMBEDDED
from tunesmith.models.here import Here, models_here, named
from tunesmith.recipe import Recipe, parse, place
from tunesmith.schema import commented
from tunesmith.types import Example

MOST_QUESTIONS = 6
MINUTES = 60  # that a run may take where nobody says otherwise
NONE = "none"
LABEL_NAMES = (
    "label", "labels", "class", "category", "intent", "sentiment", "topic", "type", "department", "queue", "team",
    "tag", "priority", "status", "rating", "kategorie", "abteilung", "klasse", "thema", "categorie", "categoria",
)  # fmt: skip
REPLY_NAMES = (
    "completion", "response", "reply", "answer", "output", "summary", "target", "translation", "solution", "resolution",
    "result", "sql", "query", "code", "antwort", "réponse", "respuesta", "risposta", "zusammenfassung",
)  # fmt: skip
GROUP_NAMES = (
    "customer", "client", "user", "account", "author", "patient", "company", "organisation", "organization", "person",
    "thread", "ticket", "conversation", "session", "case", "document", "doc", "article", "page", "url", "email",
    "kunde", "family", "group", "subject_id", "focus", "title",
)  # fmt: skip
OFTEN = (
    "task.instruction", "task.metric", "task.smallest_that_matters", "data.too_long", "adapt.method", "adapt.rank",
    "train.lr", "train.epochs", "train.max_updates", "train.micro_tokens", "evals.max_cases", "evals.few_shot",
    "evals.max_new_tokens", "evals.rows", "precision", "seed", "export",
)  # fmt: skip
TURNS = ("messages", "conversation", "role", "content", "time")
KEPT = (*TURNS, "prompt", "text", "reply", "label", "mark", "chosen", "rejected", "ranked", "scores", "system", "group")


@dataclass(frozen=True, slots=True)
class Question:
    text: str
    default: str
    choices: tuple[tuple[str, str], ...] = ()  # (answer, what it means); empty: free text
    wrong: Callable[[str], str | None] = lambda answer: None  # what is wrong with an answer, for a person


@dataclass(slots=True)
class Interview:
    """Asks until MOST_QUESTIONS were asked; what is not asked is what was proposed. `ask` None: nobody is there."""

    ask: Callable[[Question, int], str] | None = None
    num_asked: int = 0

    def answer(self, question: Question, said: str | None) -> str:
        if said is not None:
            complaint = question.wrong(said)
            if complaint:
                raise InputError(complaint)
            return said
        if self.ask is None or self.num_asked >= MOST_QUESTIONS:
            return question.default
        self.num_asked += 1
        return self.ask(question, self.num_asked)


@dataclass(frozen=True, slots=True)
class Wish:
    """What was said instead of asked; None: to be proposed."""

    data: str | None = None
    target: str | None = None
    prompt: tuple[str, ...] | None = None
    task: str | None = None
    group: str | None = None
    model: str | None = None
    minutes: float | None = None


@dataclass(slots=True)
class Proposal:
    chosen: dict[str, tuple[Any, str]] = field(default_factory=dict)  # dotted key -> (value, why)
    notes: list[str] = field(default_factory=list)  # what a person should know before the run, in sentences
    understood: str = ""  # one sentence
    example: Example | None = None
    model_is_here: bool = True

    @property
    def answer(self) -> str:
        """What is learned of the example."""
        return answer_text(self.example) if self.example else ""


def propose(wish: Wish, ask: Callable[[Question, int], str] | None = None) -> Proposal:
    """Every choice that a recipe for this file needs. Raises InputError where the file cannot be learned from."""
    talk, made = Interview(ask), Proposal()
    name = talk.answer(Question("Which file holds your examples?", "", wrong=no_file), wish.data)
    if not name:
        raise InputError("which file? `tunesmith init FILE`: CSV, Excel, JSON, JSONL, Parquet, plain text; or a folder")
    files = find_splits(name)
    table = look(files["train"])
    columns = choose_columns(wish, name, table, talk)
    read = ingest.read(files["train"], columns)
    columns = choose_group(wish, table, talk, read.columns, made)
    made.chosen["data.train"] = ([name], splits_why(files))
    for part in KEPT:
        value = getattr(columns, part)
        if value is not None:
            made.chosen[f"data.columns.{part}"] = (list(value) if isinstance(value, tuple) else value, "")
    task, why = choose_task(wish, talk, read)
    made.chosen["task.name"] = (task, why)
    made.example = read.examples[0]
    made.understood = understood(columns, read, task)
    made.notes += [*read.notices, *rows_notes(read, has_test="test" in files), *column_notes(columns, table)]
    choose_model(wish, talk, made, Sizes.of(read, given=tuple(files)))
    return made


def no_file(name: str) -> str | None:
    try:
        find_splits(name)
    except DataError as error:
        return str(error)
    return None


def splits_why(files: Mapping[str, list[Path]]) -> str:
    given = [part for part in ("dev", "test") if part in files]
    return f"its {' and '.join(given)} files are used as such" if given else ""


def choose_columns(wish: Wish, name: str, table: Table, talk: Interview) -> Columns:
    """What the model is given and what it has to give back."""
    if not table.columns:
        raise DataError(
            f"{name}: there are no rows. Wanted: a line with the names of columns, then one example per row."
        )
    if wish.task == "pretrain" and wish.target:
        return Columns(text=wish.target)
    if len(table.columns) == 1 and known_columns(table) is None:
        raise DataError(
            f"{name}: has the one column {next(iter(table.columns))!r}. Wanted: one more, since a model learns from "
            "what it is given and what it should give back; or plain text, with --task pretrain and --target"
        )
    known = known_columns(table)
    if wish.target is None and known is not None:
        if known.facts is not None:
            raise InputError("the rows hold prompts for a grader and no answers; `--target COLUMN` learns one column")
        whole = known.messages or known.conversation or known.text or known.chosen or known.ranked or known.mark
        if whole or (known.label and table[known.label].nested):
            return known
    guess = (known and (known.label or known.reply)) or guess_target(table)
    choices = tuple((name, column.words) for name, column in table.columns.items() if not column.nested)
    target = talk.answer(
        Question("What should the model give back? Name the column.", guess, choices, wrong_column(table)), wish.target
    )
    usual = known.prompt if known and known.prompt and target == guess else None
    given = list(usual or guess_prompt(table, target))
    if wish.prompt is not None:
        given = list(wish.prompt)
    elif len(table.columns) > 2:
        text = "What is it given? One column, several with commas, or a text such as 'Subject: {subject} {body}'."
        answer = talk.answer(Question(text, ", ".join(given), (), wrong_prompt(table)), None)
        given = [answer] if is_template(answer) else [part.strip() for part in answer.split(",")]
    if not given or target in [n for g in given for n in names_in(g)]:
        raise InputError(f"no column is left to learn {target!r} from: give one with `--prompt COLUMN`")
    is_label = wish.task in ("classify", "multilabel") or (wish.task in (None, "auto") and table[target].is_label)
    return Columns(prompt=tuple(given), label=target if is_label else None, reply=None if is_label else target)


def wrong_column(table: Table) -> Callable[[str], str | None]:
    def wrong(name: str) -> str | None:
        return None if name in table.columns else table.lacks(name)

    return wrong


def wrong_prompt(table: Table) -> Callable[[str], str | None]:
    def wrong(answer: str) -> str | None:
        parts = [answer] if is_template(answer) else [p.strip() for p in answer.split(",")]
        missing = [name for part in parts for name in names_in(part) if name not in table.columns]
        return table.lacks(missing[0]) if missing else None

    return wrong


def known_columns(table: Table) -> Columns | None:
    """What the names alone say; None where they are none that are known."""
    try:
        return infer(list(table.columns), Columns(), table.sample)
    except DataError:
        return None


def guess_target(table: Table) -> str:
    """By its name, else the only column of labels, else the last column of text."""
    usable = [c for c in table.columns.values() if not c.nested and not c.is_id and c.filled]
    for names, fits in ((LABEL_NAMES, lambda c: c.is_label), (REPLY_NAMES, lambda c: not c.is_amount)):
        for name in names:
            found = next((c for c in usable if name in words_of(c.name) and fits(c)), None)
            if found is not None:
                return found.name
    labels = [c for c in usable if c.is_label and not names_a_group(c)]
    texts = [c for c in usable if c.is_text]
    if len(texts) > 1 and not labels:
        return texts[-1].name
    return (labels or usable or list(table.columns.values()))[-1].name


def guess_prompt(table: Table, target: str) -> list[str]:
    """The texts that stand beside the target; several become a template that keeps their names."""
    others = [c for c in table.columns.values() if c.name != target and not c.nested]
    before = [c for c in others if list(table.columns).index(c.name) < list(table.columns).index(target)]
    texts = [c.name for c in others if c.is_text]
    if not texts:
        texts = [c.name for c in (before or others) if not c.is_id and not c.is_label][:1] or [
            c.name for c in others[:1]
        ]
    if len(texts) > 1 and not any("{" in t or "}" in t for t in texts):
        return ["\n".join(f"{t}: {{{t}}}" for t in texts)]
    return texts


def words_of(name: str) -> list[str]:
    """customerId, customer-id and Customer ID hold the words customer and id; the whole name counts too."""
    spaced = "".join(f" {c}" if c.isupper() and name[i - 1 : i].islower() else c for i, c in enumerate(name))
    plain = "".join(c if c.isalnum() else " " for c in spaced).lower()
    return [*plain.split(), plain.strip().replace(" ", "_")]


def choose_group(wish: Wish, table: Table, talk: Interview, columns: Columns, made: Proposal) -> Columns:
    """The columns with the one whose rows must not be divided between training and test."""
    repeated = [c for c in table.columns.values() if c.name not in columns.used() and c.repeats]
    named = [c for c in repeated if names_a_group(c)]
    spare = named + [c for c in repeated if c not in named and not c.is_label and c.number_frac < 0.95]
    if wish.group is None and (columns.group is not None or not spare):
        return columns
    choices = ((NONE, "every row stands for itself"), *((c.name, c.words) for c in spare))
    default = named[0].name if named else NONE
    text = "Do rows belong together, such as those of one customer? They then go to training or to the test as a whole."
    answer = talk.answer(Question(text, default, choices, wrong_group(table)), wish.group)
    if answer != NONE:
        made.notes.append(f"rows with the same {answer!r} stay together, so that the test holds only new ones")
    elif wish.group is None:
        made.notes.append(
            f"{spare[0].name!r} repeats ({spare[0].distinct} values in {spare[0].filled} rows): if rows that share one "
            f"belong together, say `--group {spare[0].name}`, else the test looks better than it is"
        )
    return replace(columns, group=None if answer == NONE else answer)


def names_a_group(column: Column) -> bool:
    return bool(set(words_of(column.name)) & set(GROUP_NAMES))


def wrong_group(table: Table) -> Callable[[str], str | None]:
    return lambda name: None if name == NONE else wrong_column(table)(name)


def choose_task(wish: Wish, talk: Interview, read: ingest.Ingested) -> tuple[str, str]:
    found, why = ingest.task_of(read.columns, read)
    choices = tuple((name, KINDS[name].about) for name in WRITTEN)
    if found != "generate" and wish.task is None:
        return found, why

    def wrong(name: str) -> str | None:
        if name not in KINDS:
            return f"no task {name!r}; wanted one of {', '.join(KINDS)}"
        if (name == "pretrain") == (read.columns.text is None):
            return f"{name} is not for these rows: pretrain learns one column of texts (--target), others learn answers"
        return None if name != "classify" or read.columns.label else "classify needs a column of labels as its target"

    answer = talk.answer(Question("What is it for?", found, choices, wrong), wish.task)
    return answer, why if answer == found else "as you said"


def choose_model(wish: Wish, talk: Interview, made: Proposal, data: Sizes) -> None:
    """The largest model that is here, fits into memory and can be tuned in the time; and what the time allows."""
    where, found = machine(), models_here()
    fitting = [m for m in found if m.need_gib(where.bytes_each) <= where.free_gib]
    quick = [m for m in fitting if whole_s(where, m, data) <= 60 * (wish.minutes or MINUTES)]
    default = [Recipe().model, *(m.name for m in quick or fitting[:1] or found[:1])][-1]
    choices = tuple((m.name, model_words(m, where.bytes_each)) for m in found)
    question = Question("Which model?", default, choices, wrong_model)
    said = wish.model if wish.model or len(found) > 1 else default
    name = talk.answer(question, said)
    model = named(name)
    if model is None:
        made.model_is_here = False
        made.chosen["model"] = (name, "small enough for any machine" if name == Recipe().model else "as you said")
        made.notes.append(f"the model is not on this machine yet: `tunesmith models fetch {name}`")
    else:
        need = model.need_gib(where.bytes_each)
        only = len(found) == 1 and name == found[0].name
        why = "the only one on this machine" if only else "the largest that fits" if name == default else "as you said"
        made.chosen["model"] = (name, f"{why}; wants about {need:.1f} of the {where.free_gib:.1f} GiB that are free")
        if need > where.free_gib:
            made.notes.append(f"{name} wants about {need:.1f} GiB of memory, {where.free_gib:.1f} GiB are free")
    for key, value, why in sizes(data, model):
        made.chosen[key] = (value, why)
    most = made.chosen["data.max_tokens"][0]
    too_long = sum(tokens > most for tokens in data.tokens)
    if too_long:
        made.notes.append(
            f"{too_long} of {data.num} examples may have more than {most} tokens: they are left out, unless "
            "data.too_long is cut"
        )
    if model is not None:
        choose_time(wish, talk, made, where, model, data)


def model_words(model: Here, bytes_each: int) -> str:
    return f"{model.num_weights / 1e6:.0f} million weights, wants about {model.need_gib(bytes_each):.0f} GiB of memory"


def wrong_model(name: str) -> str | None:
    """A hub name that is not here yet is none of ours to judge."""
    try:
        found = named(name)
    except ModelError as error:
        return str(error)
    is_hub = name.count("/") == 1 and not name.startswith((".", "/", "~"))
    return (
        None
        if found or is_hub or name in EMBEDDED
        else f"no model {name!r}: wanted a known name, a folder or owner/name.{did_you_mean(name, EMBEDDED)}"
    )


def choose_time(wish: Wish, talk: Interview, made: Proposal, where: Machine, model: Here, data: Sizes) -> None:
    """What is left out where a run with everything would take longer than it may."""
    whole = whole_s(where, model, data)
    default = wish.minutes or max(1, min(MINUTES, round(whole / 60 + 0.5)))
    text = (
        f"How many minutes may it take? By a rough guess a run with everything takes {minutes(whole)} on this machine."
    )
    said = None if wish.minutes is None else f"{wish.minutes:g}"
    limit_s = 60 * float(talk.answer(Question(text, f"{default:g}", (), wrong_minutes), said))
    for key, value, why in within(where, model, data, limit_s):
        made.chosen[key] = (value, why)


def wrong_minutes(answer: str) -> str | None:
    try:
        return None if float(answer) > 0 else f"{answer} minutes; wanted a number above 0"
    except ValueError:
        return f"{answer!r} is no number of minutes, such as 60"


def settings(made: Proposal) -> dict[str, Any]:
    """Keys and values as a recipe has them."""
    found: dict[str, Any] = {}
    for key, (value, _) in made.chosen.items():
        place(found, key, value)
    return found


def recipe_text(made: Proposal, file: str) -> str:
    """The recipe as it is written: every chosen key with what it is and why, and the keys that people change often."""
    head = [
        f"Made by `tunesmith init`. Run it: tunesmith run {file}",
        f"{made.understood}.",
        "Lines such as `# rank: 16` are defaults: take away the mark to change them.",
        "For completion in an editor: `tunesmith schema > recipe.schema.json`, and this as the first line:",
        "    `# yaml-language-server: $schema=recipe.schema.json`",
    ]
    text = commented(made.chosen, OFTEN, head)
    assert parse(yaml.safe_load(text)) == parse(settings(made)), "the comments must not change the recipe"
    return text
