"""How fast this machine does what a run will do: each thing once or twice, with the run's own model, data and sizes.

It takes seconds. The session is one of its own, and the base is left as it was found; a rehearsal goes on from here.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median_low
from typing import Any, TypeVar

import numpy as np
import torch
from torch.nn.functional import linear

from tunesmith.build import TENANT, Material, num_updates, start
from tunesmith.data.pack import forest, pack
from tunesmith.data.shortened import shortened
from tunesmith.data.stored import place
from tunesmith.engine.cuts import Cuts, pieces
from tunesmith.engine.dealing import cost_of
from tunesmith.engine.loop import State
from tunesmith.engine.memory import Freed, held_gib, trim_freed_memory
from tunesmith.engine.session import Session
from tunesmith.engine.tenant import Who, begun_prompts
from tunesmith.errors import NotFinite, PlanError
from tunesmith.files import give_back_pages, publish_folder, save_tensors
from tunesmith.fitted import Fitted
from tunesmith.generate.decode import PREFILL_ROWS, Sampler, common_prefix
from tunesmith.generate.limits import Limits
from tunesmith.models.load import Base
from tunesmith.recipe import Train
from tunesmith.roles import Foretold
from tunesmith.room import SAVED_BYTES
from tunesmith.types import Forest, Record, Segment

WARM_TOKENS = 64  # of the first, untimed passes
LEARN_S = 2.0  # that the timed micro-batch may take; a larger one is cut
READ_S, READ_TOKENS, LEAST_READ = 1.5, 256, 64  # of prompts that are read at once for the timing: seconds, tokens
SCORED_TOKENS = 256
STEADY_S, MOST_TIMES, ONCE_S = 0.5, 5, 2.0  # what takes less is timed more than twice, at most so often; more: once
LEARNS_SLOWER, READS_SLOWER = 2.0, 1.3  # an attention's multiply-add than a weight's, as timed with 3,600 tokens
LEAST_SHARE = 0.1  # of a timed pass that is taken to grow with its tokens
WRITTEN, LOOKED = 3, 12  # tokens of each answer: of the tuned model; of the base, to see how long its answers are
EXACT_SIZE = 2**24  # numbers of a matrix, for the clock
LEAST_FOUND = 2**-3  # GiB, for the clock
LEAST_WRITTEN, MOST_WRITTEN = 2**24, 2**28  # bytes, for the clock: an eighth of the largest file
Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class Line:
    """Seconds of a pass over the model: what each pass takes, and each of its tokens on top. A short pass takes more a
    token than a long one, so that one size alone would not tell of the others."""

    pass_s: float
    token_s: float

    def of(self, tokens: float, passes: float = 1) -> float:
        return passes * self.pass_s + tokens * self.token_s

    @classmethod
    def through(cls, few: float, few_s: float, many: float, many_s: float) -> Line:
        """Through two sizes that were timed. The larger one is met; the smaller one says how steep it is, within what a
        clock can say."""
        most = many_s / many
        steep = (many_s - few_s) / (many - few) if many > few else most
        token_s = min(max(steep, LEAST_SHARE * most), most)
        return cls(many_s - token_s * many, token_s)

    def denser(self, base: Base, tried: Forest, wanted: Forest, slower: float = READS_SLOWER) -> Line:
        """A token of `wanted` attends to more others than one of `tried` where that was shortened."""
        cost = cost_of(base, slower)
        more = (cost(wanted) / wanted.num_tokens) / (cost(tried) / tried.num_tokens)
        return replace(self, token_s=self.token_s * max(1.0, more))


@dataclass(frozen=True, slots=True)
class Answering:
    """How fast one model answers. A step writes one token of every row that goes on."""

    read: Line  # of prompts, by their tokens
    steps: tuple[tuple[float, float], ...]  # (rows, seconds of a step with so many)
    lengths: tuple[int, ...]  # tokens of the answers that it gave; one more than was looked at where one goes on
    looked: int


@dataclass(frozen=True, slots=True)
class Speeds:
    """Seconds here."""

    learn: Line  # forward and backward of a micro-batch, by its tokens
    step_s: float  # of an optimizer's step
    found_s: float  # of a GiB of memory that is used for the first time; 0 where too little was to tell
    score: Line  # of a batch that is read without gradients
    head_s: float  # on top, of each whose probability is asked
    base: Answering
    tuned: Answering
    load_s: float  # of the weights, by transformers
    tokenizer_s: float  # of the tokenizer, written
    disk_s: float  # of a GiB that is written, synced and hashed
    map_s: float  # of a GiB of weights that is read from the disk, as opened models read theirs
    change_s: float  # of a GiB of weights that were opened so and are changed: merged
    exact_s: float  # more that one token's product with a weight takes in float32 than in the run's precision
    is_done: bool  # whether the longest micro-batch was tried, uncut, and all its numbers were finite
    took_s: float  # all of this

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> Speeds:
        """From `asdict`, as plan.json keeps it."""
        both = {
            who: Answering(**{**facts[who], "read": Line(**facts[who]["read"]),
                              "steps": tuple(map(tuple, facts[who]["steps"])),
                              "lengths": tuple(facts[who]["lengths"])})
            for who in ("base", "tuned")
        }  # fmt: skip
        return cls(**{**facts, **both, "learn": Line(**facts["learn"]), "score": Line(**facts["score"])})


@dataclass(frozen=True, slots=True)
class Tried:
    """What was tried before the plan, for a rehearsal to go on with. The session is open."""

    session: Session
    state: State
    speeds: Speeds


def try_out(
    fitted: Fitted, base: Base, made: Material, cuts: Cuts | None = None, *, measures: bool = True,
    together: Callable[[Session], AbstractContextManager[None]] = lambda session: nullcontext(),
) -> Tried:  # fmt: skip
    """An update, answers of base and tuned, and scoring. Where nothing is measured the base answers nothing, and its
    speed is taken to be the tuned model's. `together`: held while it learns. Who calls closes the session."""
    if not made.split.test:
        raise PlanError("there is no test case: give data.test, or a data.test_frac above 0")
    began, recipe = time.monotonic(), fitted.recipe
    session = session_of(fitted, base, cuts or Cuts())
    try:
        of_base = answering(session, None, made, recipe.evals.rows) if measures else None
        state = start(recipe, session, made, num_updates(recipe, fitted.feed), most_general=1)
        trim_freed_memory()  # here and below: what one kind of work leaves free does not fit the next
        with together(session):
            learn, step_s, found_s, is_done = learning(session, state, longest_of(fitted.feed))
        trim_freed_memory()
        score, head_s = scoring(session, made, recipe.train.micro, min(SCORED_TOKENS, int(LEARN_S / learn.token_s)))
        trim_freed_memory()
        of_tuned = answering(session, TENANT, made, recipe.evals.rows)
    except BaseException:
        session.close()
        raise
    largest = max(fitted.num_trained * SAVED_BYTES, 4 * base.num_weights)  # a checkpoint or a model
    disk_s, map_s, change_s = writing(max(LEAST_WRITTEN, min(MOST_WRITTEN, largest // 8)))
    tokenizer_s, exact_s = saving(base), exactness(base)
    took_s = time.monotonic() - began
    speeds = Speeds(
        learn,
        step_s,
        found_s,
        score,
        head_s,
        of_base or of_tuned,
        of_tuned,
        base.load_s,
        tokenizer_s,
        disk_s,
        map_s,
        change_s,
        exact_s,
        is_done,
        took_s,
    )
    return Tried(session, state, speeds)


def session_of(fitted: Fitted, base: Base, cuts: Cuts) -> Session:
    return session_on(base, fitted.recipe.train, cuts, fitted.freed)


def session_on(base: Base, train: Train, cuts: Cuts, freed: Freed) -> Session:
    """A session as the recipe wants it."""
    session = Session(base, compiled=train.compile, checkpointing=train.checkpointing == "on", freed=freed)
    session.cuts = cuts
    return session


def timed(work: Callable[[], Found], device: torch.device) -> tuple[float, Found]:
    began = time.monotonic()
    found = work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.monotonic() - began, found


def steady(work: Callable[[], float]) -> float:
    """Seconds of what `work` times; but for what takes very long twice at least, since the first pass of a size has to
    find its memory."""
    found = [work()]
    if found[0] < ONCE_S:
        found.append(work())
    while len(found) < MOST_TIMES and sum(found) < STEADY_S:
        found.append(work())
    return median_low(found)


def learning(session: Session, state: State, longest: Forest) -> tuple[Line, float, float, bool]:
    """(a micro-batch, seconds of a step, of a GiB that its first one had to find, whether the longest micro-batch was
    tried well). A small piece comes first: for what is built once, and to see how much of the longest can be tried."""
    device = session.base.model.device

    def learn(batch: Forest) -> float:
        units = float(state.objective.count(batch)) or 1.0
        return timed(lambda: session.forward_backward(TENANT, [batch], state.objective, 1.0 / units), device)[0]

    def step() -> tuple[float, bool]:
        try:
            return timed(lambda: session.optim_step(TENANT, state.lr), device)[0], True
        except NotFinite:
            return 0.0, False

    small = part_of(longest, WARM_TOKENS)
    learn(small)  # builds what is built once
    held = held_gib()
    first_s, began_well = step()  # takes the memory of the moments
    found_gib = held_gib() - held
    small_s = steady(lambda: learn(small))
    most = int(LEARN_S / max(small_s, 1e-6) * small.num_tokens)
    if small_s < 2 * LEARN_S:  # two sizes at least: with Mixout most of a pass does not grow with its tokens
        most = max(most, 3 * small.num_tokens)
    part = part_of(longest, most)
    part_s = steady(lambda: learn(part)) if part.num_tokens > small.num_tokens else small_s
    line = Line.through(small.num_tokens, small_s, part.num_tokens, part_s)
    step_s, ended_well = step()
    session.forget_gradients(TENANT)
    found_s = max(0.0, first_s - step_s) / found_gib if found_gib >= LEAST_FOUND else 0.0
    is_done = began_well and ended_well and part is longest
    return line.denser(session.base, part, longest, LEARNS_SLOWER), step_s, found_s, is_done


def part_of(batch: Forest, most: int) -> Forest:
    """The longest of its pieces that has at most so many tokens; where all are far from it, one that is shortened."""
    cut = pieces(batch, most)
    within, beyond = ([p for p in cut if (p.num_tokens <= most) == is_within] for is_within in (True, False))
    whole = max(within, key=lambda piece: piece.num_tokens, default=None)
    if whole is not None and (not beyond or whole.num_tokens > most // 2):
        return whole
    return shortened(min(beyond, key=lambda piece: piece.num_tokens), most)


def longest_of(feed: Foretold) -> Forest:
    return max(feed.heaviest(), key=lambda batch: batch.num_tokens)


def scoring(session: Session, made: Material, micro: int, most: int) -> tuple[Line, float]:
    """(a batch, seconds on top of each token whose probability is asked): the same tokens, at most `most` where rows
    are so short, few and all asked."""
    device, base = session.base.model.device, session.base
    packed = pack(made.train.records[:64], micro, base.rope)[0]
    batch = part_of(packed, most)
    less = part_of(packed, batch.num_tokens // 3)
    # an encoder-decoder's encoder cannot be asked about prompts, a class head gives one class a text, and a
    # masked-language head is asked about places
    is_whole = base.layout != "seq2seq" and base.writes
    every = replace(batch, weights=torch.ones_like(batch.weights)) if is_whole else batch

    def read(batch: Forest) -> float:
        ask = session.scores if base.scores else session.logprobs
        return steady(lambda: timed(lambda: ask(TENANT, [batch]), device)[0])

    less_s, few_s, all_s = read(less), read(batch), read(every)
    few, num = int((batch.weights != 0).sum()), batch.num_tokens
    head_s = max(0.0, (all_s - few_s) / max(1, num - few))
    few_s, less_s = (max(0.0, s - int((b.weights != 0).sum()) * head_s) for s, b in ((few_s, batch), (less_s, less)))
    return Line.through(less.num_tokens, less_s, num, few_s).denser(base, batch, packed), head_s


def answering(session: Session, who: Who, made: Material, rows: int) -> Answering:
    """Held-out prompts of middling length, as many as READ_TOKENS hold, answered; and the ends of one alone and of as
    many as are answered side by side. A masked-language model and a reward model answer nothing."""
    if session.base.is_masked or session.base.scores:
        return Answering(Line(0.0, 0.0), (), (), 0)
    form = made.forms[0]
    prompts = sorted((made.asked(form, e) for e in made.split.test), key=len)
    shared, wide = shared_of(prompts), min(rows, len(prompts))
    one, most = [prompts[len(prompts) // 2][-LEAST_READ:]], min(made.max_new_tokens, LOOKED if who is None else WRITTEN)
    clocked(session, who, made, one, 2)
    one_s, first_s, _ = clocked(session, who, made, one, WRITTEN)
    steps = {1: first_s}
    most_read = max(LEAST_READ, int(READ_S / max(one_s, 1e-6) * len(one[0])))
    tokens = min(READ_TOKENS, most_read)
    num = max(1, min(wide, tokens * len(prompts) // sum(len(p) - shared for p in prompts)))
    middle = prompts[(len(prompts) - num) // 2 :][:num]
    batch = middle if num > 1 else [middle[0][-most_read:]]
    read_s, step_s, written = clocked(session, who, made, batch, most)
    steps.setdefault(num, step_s)
    if wide > num:
        ends = [p[-max(1, tokens // wide) :] for p in prompts[:wide]]
        steps[wide] = clocked(session, who, made, ends, WRITTEN)[1]
    stops = set(made.renderer.stop_ids)
    lengths = [next((n for n, token in enumerate(answer, 1) if token in stops), most + 1) for answer in written]
    tokens_read, passes = read_tokens([len(p) for p in batch], rows, shared_of(batch))
    read = Line.through(len(one[0]), one_s, tokens_read / passes, read_s / passes)
    tried, wanted = (forest([unlearned(p[-1])]) for p in (batch, middle))
    read = read.denser(session.base, tried, wanted)
    return Answering(read, tuple(sorted((float(n), s) for n, s in steps.items())), tuple(lengths), most)


def clocked(
    session: Session, who: Who, made: Material, prompts: Sequence[Sequence[int]], tokens: int
) -> tuple[float, float, list[list[int]]]:
    """(seconds until the first tokens, of a step behind them, the tokens of each answer); no answer stops early."""
    limits = Limits(max(2, tokens), (), rows=len(prompts))
    written: list[list[int]] = [[] for _ in prompts]
    if session.base.layout != "forest":
        sample = lambda most: session.sample(who, prompts, replace(limits, max_new_tokens=most), decode=lambda t: "")
        device = session.base.model.device
        (read_s, _), (all_s, done) = timed(lambda: sample(1), device), timed(lambda: sample(max(2, tokens)), device)
        return read_s, max(0.0, all_s - read_s) / (limits.max_new_tokens - 1), [list(c.tokens) for c in done]
    prompts = begun_prompts(session.tenants[who] if isinstance(who, str) else who, prompts)
    began, ends = time.monotonic(), []
    with session.borrowed(who) as model:
        for step in Sampler(model, session.base.head, made.renderer.text).side_by_side(prompts, limits):
            ends.append(time.monotonic())
            for row, token in zip(step.rows, step.tokens):
                written[row].append(token)
    return ends[0] - began, float(np.median(np.diff(ends))), written


def unlearned(prompt: Sequence[int]) -> Record:
    return Record("", (Segment(np.array(prompt), np.zeros(len(prompt), np.float32)),))


def shared_of(prompts: Sequence[Sequence[int]]) -> int:
    return common_prefix(prompts) if len(prompts) > 1 else 0


def read_tokens(lengths: Sequence[int], rows: int, shared: int = 0) -> tuple[int, int]:
    """(tokens, passes) where prompts of these lengths are read: what all share once, and the padding of the few that
    are read together."""
    own = sorted(n - shared for n in lengths)
    batches = [own[first : first + rows] for first in range(0, len(own), rows)]
    groups = [b[first : first + PREFILL_ROWS] for b in batches for first in range(0, len(b), PREFILL_ROWS)]
    return shared + sum(len(group) * max(group) for group in groups), (shared > 0) + len(groups)


def writing(num_bytes: int) -> tuple[float, float, float]:
    """Seconds of a GiB: written, synced and hashed; read again from the disk; changed, behind that."""
    tensors, name, cpu = {"tensor": torch.zeros(num_bytes // 4)}, "tensor.safetensors", torch.device("cpu")
    with tempfile.TemporaryDirectory(prefix="tunesmith_", dir=place()) as scratch:
        fill = lambda out: {name: save_tensors(tensors, out / name)}
        written_s, folder = timed(lambda: publish_folder(fill, Path(scratch) / "tried"), cpu)
        with (folder / name).open("rb") as file:
            give_back_pages(file)
        mapped = torch.from_file(str(folder / name), shared=False, size=num_bytes // 4, dtype=torch.float32)
        read_s, _ = timed(mapped.sum, cpu)
        changed_s, _ = timed(partial(mapped.add_, 1), cpu)
    a_gib = 2**30 / num_bytes
    return written_s * a_gib, read_s * a_gib, changed_s * a_gib


def saving(base: Base) -> float:
    """Seconds to write the tokenizer, as each exported folder has it."""
    with tempfile.TemporaryDirectory(prefix="tunesmith_", dir=place()) as scratch:
        seconds, _ = timed(lambda: base.tokenizer.save_pretrained(scratch), torch.device("cpu"))
    return seconds


def exactness(base: Base) -> float:
    """Seconds more that one token's product with a weight takes in float32: exports of 16 bits are compared so."""
    held, num = base.model.dtype, 2  # matrices, so that no cache holds them
    if held == torch.float32:
        return 0.0

    def step(dtype: torch.dtype) -> float:
        row, size = torch.ones(1, 1024, dtype=dtype), (EXACT_SIZE // 1024, 1024)
        weights = [torch.ones(size, dtype=dtype) for _ in range(num)]
        return steady(lambda: timed(lambda: [linear(row, weight) for weight in weights], torch.device("cpu"))[0])

    return max(0.0, step(torch.float32) - step(held)) / (num * EXACT_SIZE)
