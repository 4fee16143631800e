"""What a model of any kind is asked: held-out cases of a run or a file, with instruction, metric and limits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tunesmith.build import drawn, prompt_text, read_split
from tunesmith.data import ingest
from tunesmith.data.columns import Columns
from tunesmith.data.located import files_named
from tunesmith.data.split import SPLITS, Ledger, keys_of
from tunesmith.errors import DataError, InputError, did_you_mean
from tunesmith.evals.compare import Rules
from tunesmith.evals.dialogues import is_dialogue
from tunesmith.evals.knobs import Evals
from tunesmith.evals.metrics import METRICS, Metric
from tunesmith.evals.score import Answer
from tunesmith.evals.tasks import KINDS, instructed, labels_of, own_instruction, references
from tunesmith.files import read_json
from tunesmith.measured import Means, means_of, of_texts
from tunesmith.opened import Served, kept_recipe
from tunesmith.recipe import Recipe, read
from tunesmith.report.facts import read_cases
from tunesmith.types import Example, Label, Message, Reply
from tunesmith.unasked import MEASURED, refuse_command

LEAST_TOKENS, CHARS_PER_TOKEN = 16, 2  # of an answer, where only the references tell its length


@dataclass(frozen=True, slots=True)
class Questions:
    """Held-out cases, and how each model is asked and scored: the same for all of them."""

    cases: tuple[Example, ...]
    source: str  # where they are from, for people
    task: str
    instruction: str  # "" = none
    labels: tuple[str, ...]  # () where the answers are texts
    metric: Metric
    secondary: tuple[Metric, ...]  # such as read texts
    means: Means
    max_new_tokens: int
    rules: Rules
    columns: Columns
    notes: tuple[str, ...] = ()

    @property
    def served(self) -> Served:
        return Served(self.task, self.instruction, self.labels, self.max_new_tokens, self.columns)

    @property
    def matters(self) -> float:
        said = self.rules.smallest_that_matters
        return self.metric.matters if said is None else said

    @property
    def groups(self) -> list[str | None] | None:
        found = [e.group for e in self.cases]
        return found if any(found) else None

    def references(self) -> list[str]:
        return references(self.cases)

    def prompts(self) -> list[tuple[Message, ...]]:
        """With the instruction as system message, unless a row brings one of its own."""
        return [instructed(e, self.instruction).prompt for e in self.cases]

    def texts(self) -> list[str]:
        """The prompts as a person reads them."""
        return [prompt_text(e) for e in self.cases]

    def outputs(self, answers: Sequence[Answer]) -> Sequence[object]:
        """What the metric reads of each answer."""
        return self.outputs_of(self.metric, answers)

    def outputs_of(self, metric: Metric, answers: Sequence[Answer]) -> Sequence[object]:
        if metric.needs == "answer":
            return [a.text for a in answers]
        rows = of_texts(metric, [a.text for a in answers], self.cases, self.means)
        assert rows is not None, metric.name  # `of_any_model` refused the others
        return rows


@dataclass(frozen=True, slots=True)
class Said:
    """What the user says about it; None: as the run says, or as the data tell."""

    metric: str | None = None
    num_cases: int | None = None  # most cases
    matters: float | None = None  # the smallest difference that matters, in the metric's unit
    instruction: str | None = None


def of_run(folder: Path, data: Sequence[str], said: Said) -> Questions:
    """As the run asked its own models: about the cases that it held out, or about those of other files."""
    served = Served.read(folder)
    refuse_command(served.task, f"{folder} learned from", MEASURED.get(served.task, ""))
    recipe, _ = read(kept_recipe(folder), {})
    if data:
        found = ingest.read(files_of(data), served.columns, recipe.data.reading)
        cases, source, columns = found.examples, ", ".join(map(str, data)), found.columns
        notes = [f"{len(found.rejected)} rows could not be read and were not asked."] if found.rejected else []
    else:
        cases, source, columns, notes = held_out(folder, recipe), f"the test split of {folder}", served.columns, []
    kept = read_json(folder / "verdict.json") if (folder / "verdict.json").is_file() else {}
    name = said.metric or kept.get("metric") or recipe.task.first or KINDS[served.task].metric
    metric, means = of_any_model(name, recipe.evals)
    labels = () if served.task == "multilabel" else served.labels  # an answer of several is read as a text
    asked = checked(cases, labels, said, source)
    matters = said.matters
    if matters is None and name == (kept.get("metric") or recipe.task.first or KINDS[served.task].metric):
        matters = kept.get("smallest_that_matters", recipe.task.smallest_that_matters)
    return Questions(
        cases=asked,
        source=source,
        task=served.task,
        instruction=served.instruction if said.instruction is None else said.instruction,
        labels=labels,
        metric=metric,
        secondary=others(served.task, metric),
        means=means,
        max_new_tokens=served.max_new_tokens,
        rules=Rules(alpha=recipe.evals.alpha, smallest_that_matters=matters, seed=recipe.seed),
        columns=columns,
        notes=(*notes, *last_only(asked)),
    )


def of_files(data: Sequence[str], said: Said) -> Questions:
    """Without a run: task, labels and the length of answers are told from the rows."""
    found = ingest.read(files_of(data))
    task, why = ingest.task_of(found.columns, found)
    refuse_command(task, f"{', '.join(map(str, data))} holds", MEASURED.get(task, ""))
    labels = labels_of(found.examples)
    source = ", ".join(map(str, data))
    cases = checked(found.examples, labels, said, source)
    kind = KINDS[task]
    metric, means = of_any_model(said.metric or kind.metric, Evals())
    longest = sorted(len(text) for text in references(found.examples))[int(0.99 * (len(found.examples) - 1))]
    room = int(1.25 * longest / CHARS_PER_TOKEN) + 8
    notes = [f"the task is {task}: {why}; the instruction is the task's own.", *last_only(cases)]
    if found.rejected:
        notes.append(f"{len(found.rejected)} rows could not be read and were not asked.")
    own = own_instruction(task, labels, found.examples)
    return Questions(
        cases=cases,
        source=source,
        task=task,
        instruction=own if said.instruction is None else said.instruction,
        labels=labels,
        metric=metric,
        secondary=others(task, metric),
        means=means,
        max_new_tokens=max(LEAST_TOKENS, kind.least_tokens, min(kind.most_tokens, room)),
        rules=Rules(alpha=Evals().alpha, smallest_that_matters=said.matters),
        columns=found.columns,
        notes=tuple(notes),
    )


def files_of(data: Sequence[str]) -> list[Path]:
    return [file for name in data for file in files_named(name)]


def held_out(folder: Path, recipe: Recipe) -> tuple[Example, ...]:
    """The very cases that the run asked, read again from its data. Raises DataError where these have changed."""
    path = folder / "scores" / "cases.parquet"
    wanted = [c.example_id for c in read_cases(path) or ()]
    if not wanted:
        raise InputError(f"{folder} has asked no held-out cases yet (no {path}): tunesmith run --resume --out {folder}")
    _, parts, _ = read_split(recipe, Ledger.load(folder / "ledger.json"))
    there = {e.id: e for e in parts.test}
    missing = sum(i not in there for i in wanted)
    if missing:
        raise DataError(
            f"{missing} of the {len(wanted)} cases that {folder} held out are not in its data any more "
            f"({', '.join(recipe.data.train)}): the files changed. Restore them, or name cases with --data"
        )
    return tuple(there[i] for i in wanted)


def checked(cases: Sequence[Example], labels: Sequence[str], said: Said, source: str) -> tuple[Example, ...]:
    """The cases that are asked. Raises DataError where one has no reference to be scored by."""
    odd = next((e for e in cases if not isinstance(e.target, (Reply, Label))), None)
    if odd is not None:
        raise DataError(f"{odd.source or source} has no single reference answer, which its score would be made with")
    if said.num_cases is not None and said.num_cases < 1:
        raise InputError(f"--cases is {said.num_cases}; at least one case is wanted")
    unknown = sorted(set(references(cases)) - set(labels)) if labels else []
    if unknown:
        raise DataError(
            f"{source}: the labels {', '.join(unknown[:3])} are none of those that are answered ({', '.join(labels)})"
        )
    return tuple(cases) if said.num_cases is None else drawn(cases, said.num_cases)


def of_any_model(name: str, evals: Evals) -> tuple[Metric, Means]:
    """A metric that can be worked out from texts alone, whoever wrote them."""
    by_text = replace(evals, judge=Evals().judge)
    means = means_of(by_text, () if name == "judge" else (name,))
    metric = METRICS.get(name) or means.named(name)
    if metric is None:
        known = [n for n, m in METRICS.items() if m.needs == "answer"]
        raise InputError(f"there is no metric {name!r}; wanted one of {', '.join(known)}.{did_you_mean(name, known)}")
    if metric.needs not in ("answer", "schema", "function"):
        raise InputError(
            f"the metric {name} cannot be worked out from the texts of any model; name one that reads answers, such as "
            "--metric rouge_l"
        )
    return metric, means


def others(task: str, metric: Metric) -> tuple[Metric, ...]:
    names = [n for n in (KINDS[task].metric, *KINDS[task].secondary) if n != metric.name]
    return tuple(METRICS[n] for n in names if METRICS[n].needs == "answer")


def last_only(cases: Sequence[Example]) -> list[str]:
    """What is not asked of dialogues here."""
    num = sum(map(is_dialogue, cases))
    return [
        f"{num} of {len(cases)} cases are dialogues: only their last answer is asked, behind the turns of the data; "
        "the verdict of a run plays them through (evals.history)."
    ] * bool(num)


def num_learned(folder: Path, cases: Sequence[Example]) -> int:
    """How many of these cases the run learned from, or chose by: what stands in its training or dev split."""
    path = folder / "ledger.json"
    if not path.is_file():
        return 0
    places = Ledger.load(path).places(keys_of(cases)).tolist()
    return sum(place in (SPLITS.index("train"), SPLITS.index("dev")) for place in places)
