"""How long each stage of a run takes here: its own counts, at the speeds that were measured before (speeds.py).

What cannot be known is how long the answers will be: of the base they are as long as a few that it gave, of the tuned
model as long as the replies it learns from.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from tunesmith import by_heart, guards, long_context, robustness
from tunesmith.build import Material, drawn
from tunesmith.data.pack import pack
from tunesmith.data.records import replies_of, sizes_of
from tunesmith.data.traits import column
from tunesmith.engine.dealing import body_of
from tunesmith.evals.dialogues import rounds
from tunesmith.evals.out_of_scope import TEXTS
from tunesmith.evals.overfit import MIN_REPLIES, MIN_UNITS, num_units
from tunesmith.evals.perturb import applies
from tunesmith.evals.probes import LEVELS
from tunesmith.evals.tasks import Form, answer_text, given_record, label_record
from tunesmith.explained import QUICK
from tunesmith.looks import looked_at
from tunesmith.models.load import Base
from tunesmith.objectives.policy import has_values
from tunesmith.recipe import Recipe
from tunesmith.reference import is_due
from tunesmith.roles import Foretold
from tunesmith.room import SAVED_BYTES
from tunesmith.settled import SHARES
from tunesmith.speeds import Answering, Speeds, longest_of, read_tokens, shared_of
from tunesmith.types import Example, Forest, Record
from tunesmith.watch import MOST_TOKENS, watched_at

SHARE_REHEARSED = 0.1  # of a run, that a rehearsal may take where nobody says
NUM_LOOKED_AT = 64  # records or prompts, which stand for all
EXPORTED = 2  # prompts on which an export is compared, each read twice
EXPORT_TOKENS = 32  # of each answer to them
GIB = 2**30


@dataclass(frozen=True)
class Job:
    """What the times are of."""

    recipe: Recipe
    base: Base
    made: Material
    feed: Foretold
    updates: int
    speeds: Speeds
    trained: int  # weights
    waits: bool  # for each checkpoint; else the last one only
    anew_gib: float = 0.0  # of memory that training needs and the process does not hold yet
    share: float = 1.0  # of an update's forward and backward passes that passes one after another here (crew.py)

    # -- pieces -------------------------------------------------------------------------------------------------

    def scored(self, records: Sequence[Record], num: int | None = None) -> float:
        """Seconds to score `num` records (as many as are given) like these, without gradients."""
        some, num = records[:NUM_LOOKED_AT], len(records) if num is None else num
        return self.scored_all(some, self.recipe.train.micro) / len(some) * num if some else 0.0

    def scored_all(self, records: Sequence[Record], micro: int = guards.MICRO_TOKENS) -> float:
        """Of these records."""
        forests = pack(records, micro, self.base.rope)
        tokens, asked = sum(f.num_tokens for f in forests), sum(num_asked(f) for f in forests)
        return self.speeds.score.of(tokens, len(forests)) + asked * self.speeds.head_s

    def answers(
        self, how: Answering, lengths: Sequence[int], prompts: Sequence[int], shared: int, most: int, rows: int = 0
    ) -> float:
        """Seconds to answer prompts of these lengths with at most `most` tokens each; answers are as long as `lengths`,
        which stand for all."""
        rows = rows or self.recipe.evals.rows
        seconds = how.read.of(*read_tokens(prompts, rows, shared))
        for first in range(0, len(prompts), rows):
            alive = going_on(lengths, most, min(rows, len(prompts) - first))
            seconds += float(np.sum(step_s(how, alive[1:])))
        return seconds

    def asked(self, who: str, form: Form, cases: Sequence[Example], most: int | None = None, num: int = 0) -> float:
        """Seconds in which one of them answers `num` cases like these (as many as are given) in this form. Dialogues
        are played through, unless `most` says how much of the last answer is looked at."""
        some, num = cases[:NUM_LOOKED_AT], num or len(cases)
        if not some:
            return 0.0
        turns = rounds(some, plays=self.made.plays and most is None)
        each = [max(1, round(num * len(part) / len(some))) for part in turns]
        seconds = sum(self.side_by_side(who, form, part, most, n) for part, n in zip(turns, each))
        return seconds * (self.turns if most is None else 1)

    @property
    def turns(self) -> int:
        """Replies to a prompt, one behind the other; of an episode as many as there may be."""
        return 1 if self.recipe.environment.kind == "none" else self.recipe.environment.turns

    def side_by_side(self, who: str, form: Form, some: Sequence[Example], most: int | None, num: int) -> float:
        """Of `num` answers that are given side by side, to cases like these."""
        made = self.made
        told_s = self.told(some) * num / len(some) if most is None else 0.0
        if made.kind.scoring == "text":
            return told_s
        prompts = [form.prompt(e, made.instruction) for e in some]
        if made.kind.prefers and most is None:
            return self.scored([given_record(made.renderer, e, p) for e, p in zip(some, prompts)], num)
        if made.kind.scoring == "likelihood" and most is None:
            records = [label_record(made.renderer, e.id, p, made.labels) for e, p in zip(some, prompts)]
            return self.scored(records, num)
        tokens = [made.renderer.prompt(p) for p in prompts]
        lengths = [len(tokens[k % len(tokens)]) for k in range(num)]
        return told_s + self.answers(*self.voice(who), lengths, shared_of(tokens), most or made.max_new_tokens)

    def told(self, cases: Sequence[Example]) -> float:
        """Seconds to score the references of these cases, where a metric reads how likely they are: they have as many
        tokens a character as the training examples."""
        if not any(m.needs == "likelihood" for m in self.made.means.metrics):
            return 0.0
        sizes, num_chars = sizes_of(self.made.train.records), int(column(self.made.split.train, "chars").sum())
        chars = sum(len(answer_text(e)) + sum(len(m.content) for m in e.prompt) for e in cases)
        tokens = chars * int(sizes.tokens.sum()) / max(1, num_chars)
        tokens *= self.made.renderer.plain.num_folds if self.made.kind.scoring == "text" else 1
        learned = float(sizes.learned.sum() / max(1, sizes.tokens.sum()))
        return self.speeds.score.of(tokens, tokens / self.recipe.train.micro) + learned * tokens * self.speeds.head_s

    def voice(self, who: str) -> tuple[Answering, Sequence[int]]:
        """How fast one model answers, and how long its answers are. The base is fastest while it is `alone`; later it
        is asked with an adapter of zeros in it."""
        how = self.speeds.base if who == "alone" else self.speeds.tuned
        return how, self.reply_lengths if who == "tuned" else self.base_lengths

    @cached_property
    def base_lengths(self) -> list[int]:
        return stretched(self.speeds.base, self.made.max_new_tokens)

    @cached_property
    def reply_lengths(self) -> list[int]:
        if self.made.kind.rewards:
            return self.base_lengths
        return [n for r in self.made.train.records[:NUM_LOOKED_AT] for n in replies_of(r)]

    @cached_property
    def dev_loss_s(self) -> float:
        return 0.0 if self.made.kind.rewards else self.scored(self.made.dev.records)

    @property
    def saved_s(self) -> float:
        """Seconds to write a checkpoint."""
        return self.trained * SAVED_BYTES / GIB * self.speeds.disk_s

    @cached_property
    def read_one_s(self) -> float:
        """Seconds to read one held-out prompt, alone."""
        prompt = self.made.asked(self.made.forms[0], self.made.split.test[0])
        return self.speeds.tuned.read.of(len(prompt))

    @cached_property
    def ranked(self) -> by_heart.Ranked | None:
        """Secrets, among others of their form."""
        return by_heart.ranked(self.recipe, self.made, self.base.layout)

    # -- stages -------------------------------------------------------------------------------------------------

    def baseline(self) -> float:
        """Each form on dev; then the held-out cases, in the form that will be best, which is not known."""
        dev, test = self.made.split.dev, self.made.split.test
        forms = [self.asked("alone", form, test) for form in self.made.forms]
        return sum(self.asked("alone", form, dev) for form in self.made.forms) + sum(forms) / len(forms)

    def reference(self) -> float:
        """Every pair once, without gradients; nothing where nothing is learned against one."""
        if not is_due(self.recipe, self.made):
            return 0.0
        return self.scored(self.made.train.records, self.feed.num_seen(self.updates)) + self.dev_loss_s

    def train(self) -> float:
        train, speeds = self.recipe.train, self.speeds
        batches = self.feed.heaviest()
        stored = min(1.0, sum(b.num_tokens for b in batches) / self.feed.shape()["update_tokens_max"])
        tokens = self.feed.shape()["tokens"] * self.updates / self.feed.updates_per_epoch * stored
        passes = tokens * len(batches) / sum(b.num_tokens for b in batches)
        seconds = self.share * speeds.learn.of(tokens, passes) + self.updates * speeds.step_s
        seconds += self.anew_gib * speeds.found_s
        seconds += self.dev_loss_s * (2 + ((self.updates - 1) // train.every_dev if train.every_dev else 0))
        seconds += len(watched_at(self.recipe, self.updates)) * self.watched() + self.looks()
        seconds += (-(-self.updates // train.every_checkpoint) if self.waits else 1) * self.saved_s
        share = train.average.base_share
        seconds += self.sampled() if self.made.kind.rewards else 0.0
        return seconds + (self.curve(len(SHARES) + 1 if share == "auto" else 3) if share else 0.0)

    def sampled(self) -> float:
        """Replies that are learned from, as long as the base's, and read again under the reference, and for values.
        How long graders and a server take is not known, nor how many draws are made again."""
        asked = self.recipe.objective.policy
        draws = -(-self.updates // (asked.inner_epochs * asked.mini_batches))
        lengths = [len(self.made.renderer.prompt(e.prompt)) for e in self.made.split.train[:NUM_LOOKED_AT]]
        each = [lengths[k % len(lengths)] for k in range(asked.prompts) for _ in range(asked.group_size)]
        written = self.turns * self.answers(self.speeds.tuned, self.base_lengths, each, 0, asked.max_new_tokens)
        replied = self.turns * float(np.mean(self.base_lengths))
        tokens = sum(lengths) / len(lengths) * asked.prompts + len(each) * replied
        read = self.speeds.score.of(tokens, tokens / self.recipe.train.micro)
        return draws * (written * (not asked.server.endpoint) + read * (2 if has_values(asked) else 1))

    def watched(self) -> float:
        num = len(self.recipe.train.watch_prompts) + min(self.recipe.train.watch, len(self.made.split.dev))
        most = min(MOST_TOKENS, self.made.max_new_tokens)
        return self.asked("tuned", self.made.forms[0], self.made.split.dev, most, num) if num else 0.0

    def looks(self) -> float:
        """Of early stopping: those of a run that is not stopped."""
        stop = self.recipe.train.early_stop
        one = self.dev_loss_s if stop.on == "loss" else self.asked("tuned", self.made.forms[0], self.made.split.dev)
        return len(looked_at(self.recipe, self.updates)) * one

    def curve(self, num: int) -> float:
        """Weights on the line to the base, each scored on dev and on ordinary text."""
        texts = [item["text"] for p in guards.probes_of(self.base) if p.how == "prose" for item in p.items("quick")]
        prose = [guards.text_record(self.base.tokenizer, "", text) for text in texts]
        return num * (self.dev_loss_s + self.scored_all(prose))

    def evaluate(self) -> float:
        cases, before = (*self.made.split.test, *self.made.calibration), self.made.before
        seconds = self.asked("tuned", self.made.forms[0], cases)
        if before is not None:  # tuned on the old cases, the previous run on the new ones
            num = before.num_cases + len(self.made.split.test)
            seconds += self.asked("tuned", self.made.forms[0], self.made.split.test, num=num)
        return seconds

    @cached_property
    def guard_work(self) -> guards.Work:
        return guards.work(self.base, self.made.renderer, self.recipe.evals.guards)

    def one_guard(self, who: str = "tuned") -> float:
        """All probes for one model, whatever the budget."""
        work, (how, _) = self.guard_work, self.voice(who)
        lengths = stretched(self.speeds.base, guards.MAX_NEW_TOKENS)
        quarters = LEVELS[self.recipe.evals.guards]
        each = self.answers(how, lengths, work.prompts[::quarters], 0, guards.MAX_NEW_TOKENS, guards.ROWS)
        return quarters * each + self.scored_all(work.records)

    def guards(self) -> float:
        level = self.recipe.evals.guards
        if level == "off":
            return 0.0
        whose = ("tuned",) if guards.kept_at(self.base, self.made.renderer, level).is_file() else ("base", "tuned")
        return sum(min(self.one_guard(who), self.recipe.evals.guard_budget_s) for who in whose)

    def robustness(self) -> float:
        recipe, made, level = self.recipe, self.made, self.recipe.evals.robustness
        seconds = self.gap() + sum(self.asked(who, made.forms[0], made.ood) for who in ("base", "tuned"))
        cases = drawn(made.split.test, robustness.NUM_CASES[level])
        changes = [
            c for c in robustness.CHANGES[level] if applies(c, cases, made.instruction, made.labels, recipe.seed)
        ]
        one = sum(self.asked(who, made.forms[0], cases) for who in ("base", "tuned"))
        seconds += len(changes) * (robustness.COMPARED_S + one)
        seconds += self.recited() if level != "off" and self.base.layout != "seq2seq" else 0.0
        ranked = self.ranked.num_tokens if self.ranked else 0
        seconds += 2 * self.speeds.score.of(ranked, ranked / recipe.train.micro)
        if level != "off" and made.is_one_label:
            seconds += self.asked("tuned", made.forms[0], made.split.test, num=len(TEXTS))
        return seconds

    def gap(self) -> float:
        """Losses of dev, and of as many rows of training, of base and tuned."""
        made = self.made
        some = {e.id: e.group for e in drawn(made.split.train, self.recipe.evals.max_dev_cases)}
        train = [r for r in made.train.records if r.example_id in some]
        groups = [some[name] for name in {r.example_id for r in train}], [e.group for e in made.split.dev]
        if min(num_units(g) for g in groups) < MIN_UNITS or made.kind.prefers or made.kind.rewards:
            return 0.0
        return 2 * (self.scored(train) + self.dev_loss_s)

    def recited(self) -> float:
        """Replies that are begun: of training for base and tuned, of dev for the tuned one."""
        num, split = by_heart.NUM_BEGUN[self.recipe.evals.robustness], self.made.split
        rows = [by_heart.begun(self.recipe, self.made, examples, num) for examples in (split.train, split.dev)]
        if min(map(len, rows)) < MIN_REPLIES:
            return 0.0
        seconds = 0.0
        for who, part in (("base", rows[0]), ("tuned", rows[0]), ("tuned", rows[1])):
            how, _ = self.voice(who)
            prompts, rest = [given for given, _ in part], [len(wanted) for _, wanted in part]
            most = by_heart.MOST_COMPLETED
            seconds += self.answers(how, rest, [len(p) for p in prompts], shared_of(prompts), most)
        return seconds

    def export(self, tokens: int = EXPORT_TOKENS, prompts: int = EXPORTED) -> float:
        """Written, opened by other libraries and compared, each as often as the recipe says."""
        recipe, speeds, num = self.recipe, self.speeds, self.base.num_weights
        written = min(tokens, self.made.max_new_tokens, max(self.reply_lengths, default=tokens))
        compared = prompts * (2 * self.read_one_s + written * float(step_s(speeds.tuned, [1.0])[0]))
        is_adapter, bits = recipe.adapt.is_adapter, self.base.model.dtype.itemsize
        out_gib = (4 * self.trained if is_adapter else bits * num) / GIB
        seconds = 2 * compared + speeds.load_s + speeds.tokenizer_s + out_gib * (speeds.disk_s + speeds.map_s)
        if not (is_adapter and "merged" in recipe.export):
            return seconds
        openings = 1 + (bits < 4 or recipe.adapt.base_bits is not None)  # once more, to be merged in float32
        merged_s = 4 * (body_of(self.base) * speeds.change_s + num * (speeds.disk_s + speeds.map_s)) / GIB
        opened_s = compared + prompts * (2 + written) * num * speeds.exact_s + speeds.load_s
        return seconds + openings * opened_s + merged_s + speeds.tokenizer_s

    def rehearsal(self) -> float:
        """What is left of it: prompts, a checkpoint, the export; the longest micro-batch where it was cut before."""
        export = replace(self, recipe=replace(self.recipe, export=("adapter",))).export(4, 1)
        speeds = self.speeds
        again_s = 0.0 if speeds.is_done else speeds.learn.of(longest_of(self.feed).num_tokens) + speeds.step_s
        return again_s + 2 * self.saved_s + export + 2 * self.read_one_s

    def context(self) -> float:
        """Three models read long texts, each within evals.guard_budget_s; nothing without a longer context."""
        tokens, own = self.recipe.adapt.context.tokens, self.base.own_tokens
        if tokens is None or own is None:
            return 0.0
        read = self.speeds.score.of(*long_context.reading(own, tokens))
        read += long_context.NUM_DOCUMENTS * tokens * self.speeds.head_s
        return len(long_context.WHO) * min(self.recipe.evals.guard_budget_s, read)

    def explain(self) -> float:
        """At most its budget: the worst cases with pieces taken out, and gradients of training examples."""
        evals = self.recipe.evals
        num = min(evals.explain_cases, len(self.made.split.test))
        records = self.made.train.records
        longest = sum(r.num_tokens for r in records[:NUM_LOOKED_AT]) / max(1, len(records[:NUM_LOOKED_AT]))
        asked = num * (2 + QUICK.most_spans + QUICK.num_random) * self.speeds.score.of(longest)
        learned = (num + num * QUICK.num_near + QUICK.num_drawn) * self.speeds.learn.of(longest)
        return min(evals.explain_budget_s, asked + learned) if num else 0.0


def num_asked(forest: Forest) -> int:
    return int((forest.weights != 0).sum())


def step_s(how: Answering, rows: Sequence[float] | np.ndarray) -> np.ndarray:
    """Seconds of a step with so many rows: between the sizes that were timed, and on from the largest."""
    asked = np.asarray(rows, dtype=float)
    if not how.steps:
        return np.zeros_like(asked)
    num, seconds = np.array(how.steps).T
    found = np.interp(asked, num, seconds) * np.clip(asked, 0, 1)  # of less than a row: how likely there is one
    if len(num) > 1:
        found = found + np.clip(asked - num[-1], 0, None) * max(0.0, (seconds[-1] - seconds[0]) / (num[-1] - num[0]))
    return found


def going_on(lengths: Sequence[int], most: int, rows: int) -> np.ndarray:
    """[most] how many rows of a batch are written in each step; the first comes with the reading."""
    if not lengths:
        return np.full(most, float(rows))
    return rows * (np.array(lengths)[:, None] > np.arange(most)[None]).mean(0)


def stretched(how: Answering, most: int) -> list[int]:
    """Answers that were cut off where nobody looked further go on: those that ended say how often one ends."""
    lengths, looked = how.lengths, how.looked
    ended, num_open = [n for n in lengths if n <= looked], sum(n > looked for n in lengths)
    rate = len(ended) / max(1, sum(lengths))  # of ending, in each step
    if rate == 0:
        return [most]
    later = [looked + np.log(1 - (k + 0.5) / num_open) / np.log(1 - rate) for k in range(num_open) if rate < 1]
    return [int(min(n, most)) for n in (*ended, *later)]


STAGES: dict[str, Callable[[Job], float]] = {
    "baseline": Job.baseline, "reference": Job.reference, "train": Job.train, "evaluate": Job.evaluate,
    "guards": Job.guards, "robustness": Job.robustness, "context": Job.context, "export": Job.export,
    "explain": Job.explain,
}  # fmt: skip


def stages(job: Job, began_s: float, only: Collection[str] = ()) -> dict[str, float]:
    """Seconds by stage, in the order of cost.json. `began_s`: when the preparing began, by the monotonic clock; `only`:
    the stages that will be; none: all."""
    found = {name: stage(job) for name, stage in STAGES.items() if not only or name in only}
    may_lack = ("reference", "guards", "context", "explain")
    kept = {name: seconds for name, seconds in found.items() if seconds > 0 or name not in may_lack}
    said, tried_s = job.recipe.train.rehearsal, job.rehearsal()
    is_rehearsed = tried_s <= SHARE_REHEARSED * sum(kept.values()) if said == "auto" else said
    return {"prepare": time.monotonic() - began_s, **({"rehearsal": tried_s} if is_rehearsed else {}), **kept}


def said(seconds: float) -> str:
    return f"about {seconds:.0f} seconds" if seconds < 90 else f"about {round(seconds / 60)} minutes"


def why(times: dict[str, float], speeds: Speeds) -> str:
    shown = ", ".join(f"{name} {seconds:.3g}" for name, seconds in times.items())
    return f"in seconds: {shown}; worked out of what was timed for {speeds.took_s:.1f} s, on a machine as busy as then"


def rehearsed_row(recipe: Recipe, times: dict[str, float]) -> tuple[str, bool, str]:
    """Of the plan: key, value, why."""
    auto = f"done where it takes at most {SHARE_REHEARSED:.0%} of the run"
    return "train.rehearsal", "rehearsal" in times, auto if recipe.train.rehearsal == "auto" else "said in the recipe"
