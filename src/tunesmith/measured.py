"""What a metric needs beside the text of an answer, measured while the model is asked, and kept with the answer."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from tunesmith.answered import Sitting
from tunesmith.data.pack import pack, path_tokens
from tunesmith.data.render import Renderer
from tunesmith.engine.session import Session
from tunesmith.engine.tenant import Snapshot, Who
from tunesmith.errors import DataError, InputError, PlanError, RecipeError, did_you_mean
from tunesmith.evals import own, sandbox
from tunesmith.evals.endpoint import Endpoint
from tunesmith.evals.json_scores import Schema
from tunesmith.evals.knobs import Code, Evals
from tunesmith.evals.metrics import METRICS, Metric
from tunesmith.evals.passing import program
from tunesmith.evals.score import Answer, segment_sums
from tunesmith.evals.tasks import Kind, answer_message, answer_text
from tunesmith.files import sha256_text, tensors_digest
from tunesmith.generate.kept import Kept
from tunesmith.generate.limits import Limits
from tunesmith.plain_yaml import load_yaml
from tunesmith.recipe import Recipe
from tunesmith.rollouts import worlds
from tunesmith.rollouts.environment import Staging, World
from tunesmith.rollouts.rewards import NO_REWARD, Summed, make_reward
from tunesmith.rollouts.rewards import Means as Graded
from tunesmith.types import Attempt, Completion, Example, Forest, Message, Record, Segment


@dataclass(frozen=True, slots=True)
class Means:
    """With what the answers are measured; what no metric of the run needs is None."""

    metrics: tuple[Metric, ...] = ()  # those that read more than the text
    schema: Schema | None = None
    own: own.Own | None = None
    reward: Summed | None = None
    world: World | None = None  # in which episodes of several replies are played
    code: Code | None = None
    isolate: bool = True  # False: programs run without a sandbox, because the user insists
    words: tuple[tuple[str, str, str], ...] = ()  # rows of the plan: key, value, why
    digests: tuple[tuple[str, str], ...] = ()  # of what has to stay the same: for the lock

    def named(self, name: str) -> Metric | None:
        return next((m for m in self.metrics if m.name == name), None)


ANY_ANSWER = ['{"word": 1}']  # that every metric of texts can read
WITHOUT = {  # name of a metric -> what is said where its means were not named
    "json_schema": "task.metric json_schema needs evals.schema: a file, or the schema itself",
    "judge": "task.metric judge needs evals.judge.endpoint and evals.judge.model",
    "mean_reward": "mean_reward is what task reinforce is measured by, with its reward: leave task.metric out",
    "preference_accuracy": "preference_accuracy is about pairs, not about answers: name a file of them as "
    "evals.preferences, and it stands beside the verdict",
}


def means_of(evals: Evals, names: Sequence[str]) -> Means:
    """Everything that the recipe asks for, opened and tried before any data is read. `names`: of the metrics, as the
    recipe says them; the metrics that tasks bring along read the answer's text."""
    found: dict[str, Any] = {}
    metrics: list[Metric] = []
    words: list[tuple[str, str, str]] = []
    digests: dict[str, str] = {}
    owns = [name for name in names if own.is_own(name)]
    if len(owns) > 1:
        raise RecipeError(f"task.metric names {len(owns)} functions of your own ({', '.join(owns)}); one can be taken")
    for name in owns:
        mine = own.load(name)
        metrics.append(mine.metric)
        found["own"] = mine
        digests["own metric"] = mine.digest
        words.append(("own metric", str(mine.path), "trusted code: it runs here with all your rights"))
    if evals.schema is not None:
        schema, name = schema_of(evals.schema)
        found["schema"] = Schema(schema, name)
        metrics.append(METRICS["json_schema"])
        digests["schema"] = json.dumps(schema, sort_keys=True)
    if "pass_at_k" in names:
        isolate, said = sandbox.isolation(insist=evals.code.trust_local_code)
        found |= {"code": evals.code, "isolate": isolate}
        metrics.append(METRICS["pass_at_k"])
        tries = f"pass@{evals.code.k} from {evals.code.tries} programs a case"
        words.append(("sandbox", tries, said))
    if "bits_per_byte" in names:
        metrics.append(METRICS["bits_per_byte"])
    if evals.judge.endpoint is not None:
        endpoint_of(evals)
        metrics.append(METRICS["judge"])
        words.append(judge_words(evals))
    for name in names:
        if name in WITHOUT and name not in {m.name for m in metrics}:
            raise RecipeError(WITHOUT[name])
    return Means(tuple(metrics), **found, words=tuple(words), digests=tuple(digests.items()))


def brought(means: Means, names: Sequence[str], recipe: Recipe, kept: Path | None = None) -> Means:
    """With those of a task's own metrics that read how likely the references are, which need nothing of the user; and
    with the reward that it names, where the task's own metric is that. `kept`: the answers of its judges."""
    if "mean_reward" in names:
        insist = recipe.evals.code.trust_local_code
        reward = make_reward(recipe.reward, Graded(insist, kept)) if recipe.reward else NO_REWARD
        world = worlds.opened(recipe.environment, Staging(insist, kept))
        low, high = (getattr(reward, end) + (getattr(world, end) if world else 0.0) for end in ("low", "high"))
        metric = replace(METRICS["mean_reward"], low=low, high=high, matters=0.02 * (high - low))
        digests = (*means.digests, *((f"reward {name}", digest) for name, digest in reward.files.items()))
        words = means.words
        if world is not None:
            digests = (*digests, *((f"environment {name}", digest) for name, digest in world.files.items()))
            most = f"{recipe.environment.turns} turns and {recipe.environment.tokens} tokens"
            words = (*words, ("environment", recipe.environment.kind, f"{world.words}; at most {most} an episode"))
        found = (*means.metrics, metric)
        return replace(means, metrics=found, reward=reward, world=world, digests=digests, words=words)
    more = (METRICS[name] for name in dict.fromkeys(names) if means.named(name) is None)
    return replace(means, metrics=(*means.metrics, *(m for m in more if m.needs == "likelihood")))


def metrics_of(
    said: Sequence[str] | None, kind: Kind, means: Means | None = None
) -> tuple[tuple[Metric, ...], tuple[Metric, ...]]:
    """The primary metrics and the others. `said`: as the recipe names them; None: the task's own."""
    names = said or (kind.metric,)
    more = {m.name: m for m in (Means() if means is None else means).metrics}
    more |= {name: own.load(name).metric for name in names if own.is_own(name) and name not in more}
    known = METRICS | more
    for name in names:
        if name not in known:
            near = did_you_mean(name, METRICS)
            raise RecipeError(f"task.metric is {name!r}; wanted one of {', '.join(sorted(METRICS))}.{near}")
    others = [n for n in dict.fromkeys((kind.metric, *kind.secondary, *more)) if n not in names]
    return tuple(known[n] for n in names), tuple(known[n] for n in others)


def score_once(metrics: Sequence[Metric]) -> None:
    """Metrics import what they stand on where they are first asked: here, before memory and time are predicted."""
    for metric in metrics:
        if metric.needs == "answer":
            metric.corpus(ANY_ANSWER, ANY_ANSWER)


def schema_of(said: str | dict[str, Any], key: str = "evals.schema") -> tuple[Any, str]:
    """(schema, what it is called in errors): a file of JSON or YAML, or the schema as it stands in the recipe."""
    if not isinstance(said, str):
        return said, "in evals.schema"
    path = Path(said)
    try:
        return load_yaml(path.read_text(encoding="utf-8")), str(path)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{key} names {path}, which cannot be read: {str(error).splitlines()[0]}") from error


def endpoint_of(evals: Evals) -> Endpoint:
    """The judge's endpoint, which the user named; refused where the network is forbidden."""
    by = evals.judge
    assert by.endpoint is not None
    found = Endpoint(by.endpoint, by.model, by.api_key_env).allowed("evals.judge.endpoint")
    if by.votes is not None and not Path(by.votes).is_file():
        raise RecipeError(f"evals.judge.votes is {by.votes}, which is not there")
    return found


def judge_words(evals: Evals) -> tuple[str, str, str]:
    by = evals.judge
    return (
        "judge", f"{by.model} at {endpoint_of(evals).host}",
        f"prompts and both answers of at most {by.max_cases} held-out cases are SENT there, twice each, within "
        f"{by.budget_s:.0f} s" + ("" if by.votes else "; no votes of people to check it against"),
    )  # fmt: skip


def outputs(metric: Metric, answers: Sequence[Answer]) -> list[Any]:
    """What the metric reads of each answer, of a dialogue turn by turn; None where it was not measured."""

    def read(answer: Answer) -> Any:
        return answer.text if metric.needs == "answer" else answer.measured.get(metric.name)

    def whole(answer: Answer) -> Any:
        if not answer.turns or metric.needs == "judge":
            return read(answer)
        each = tuple(map(read, answer.turns))
        return None if None in each else each

    return list(map(whole, answers))


@dataclass(frozen=True, slots=True)
class Asking:
    """One model and the cases it was asked."""

    session: Session
    who: Who
    renderer: Renderer
    cases: Sequence[Example]
    prompts: Sequence[Sequence[Message]]
    limits: Limits
    micro_tokens: int
    sitting: Sitting


def sampled(asking: Asking, tokens: Sequence[Sequence[int]], limits: Limits, sitting: Sitting) -> list[Completion]:
    """What is written after each prompt; what an earlier, stopped sitting kept is not asked again."""
    said: tuple[object, ...] = (tokens, limits.max_new_tokens, limits.stop_ids, limits.seed, limits.rows)
    if limits.temperature:
        said = (*said, limits.temperature)
    known = {row: Completion(tuple(c["tokens"]), tuple(c["logp"]), c["text"], c["stopped"])
             for row, c in sitting.begin(asking_key(asking.who, said)).items()}  # fmt: skip
    sitting.progress(len(known), len(tokens))
    return asking.session.sample(
        asking.who, tokens, limits, decode=asking.renderer.text,
        progress=lambda n: sitting.progress(n, len(tokens)),
        kept=Kept(known, lambda fresh: sitting.keep({row: asdict(c) for row, c in fresh.items()})),
    )  # fmt: skip


def asking_key(who: Who, said: tuple[object, ...]) -> str:
    """Of what decides the answers, bit by bit: the weights that are asked, and what they are asked in which batches."""
    asked = tensors_digest(who.values.items()) if isinstance(who, Snapshot) else str(who)
    return sha256_text(json.dumps([asked, said], default=list))


def of_forests(
    asking: Asking, records: Sequence[Record], measure: Callable[[Forest], Any]
) -> Iterator[tuple[Forest, Any]]:
    """Each forest of the records with what `measure` finds in it, as JSON keeps it. What an earlier, stopped sitting
    kept is not asked again."""
    forests = pack(records, asking.micro_tokens, asking.session.base.rope)
    said = ([(f.tokens.tolist(), f.parent.tolist(), f.weights.tolist(), f.example_ids) for f in forests],)
    known = asking.sitting.begin(asking_key(asking.who, said))
    done = sum(len(forests[number].example_ids) for number in known)

    def tell() -> None:
        asking.sitting.progress(done * len(asking.cases) // max(len(records), 1), len(asking.cases))

    tell()
    for number, forest in enumerate(forests):
        if number not in known:
            found = measure(forest)
            done += len(forest.example_ids)
            tell()
            asking.sitting.keep({number: found})
            known[number] = found
        yield forest, known[number]


def with_numbers(asking: Asking, answers: Sequence[Answer], means: Means) -> list[Answer]:
    """The answers with what the run's metrics read beside their text. The judge comes when both models answered."""
    columns: dict[str, list[tuple[float, ...]]] = {}
    for metric in means.metrics:
        if metric.needs == "likelihood":
            columns[metric.name] = [(nats,) for nats in reference_nats(asking)]
        elif metric.needs == "samples":
            columns[metric.name] = passed(asking, means)
        elif metric.needs == "graded":
            columns[metric.name] = graded(asking.cases, answers, means)
        elif metric.needs in ("schema", "function"):
            columns[metric.name] = of_texts(metric, [a.text for a in answers], asking.cases, means) or []
    return [replace(a, measured={name: rows[k] for name, rows in columns.items()}) for k, a in enumerate(answers)]


def graded(cases: Sequence[Example], answers: Sequence[Answer], means: Means) -> list[tuple[float, ...]]:
    """What the reward gives each answer."""
    assert means.reward is not None
    attempts = [Attempt(e, a.text, a.stopped, a.num_tokens) for e, a in zip(cases, answers, strict=True)]
    return [(grade.value,) for grade in means.reward(attempts)]


def of_texts(
    metric: Metric, texts: Sequence[str], cases: Sequence[Example], means: Means
) -> list[tuple[float, ...]] | None:
    """What the metric reads, of answers that no model gave; None where a text alone cannot be measured."""
    if metric.needs == "schema":
        assert means.schema is not None
        return [(means.schema.valid(text),) for text in texts]
    if metric.needs == "function":
        assert means.own is not None
        return [
            (means.own.score(text, answer_text(e), last_turn(e), e.source or e.id),) for text, e in zip(texts, cases)
        ]
    if metric.needs == "samples":
        return [(1, float(outcome.passed), 1) for outcome in checked(list(zip(texts, cases)), means, untold)]
    return None


def untold(done: int) -> None:
    return


def last_turn(example: Example) -> str:
    return next((m.content for m in reversed(example.prompt) if m.role != "system"), "")


def reference_nats(asking: Asking) -> list[float]:
    """Negative log-probability of each reference behind its prompt, in nats, without its end of turn; of a plain text,
    of all its tokens but the first. What an earlier, stopped sitting kept is not asked again."""
    records = [r for e, p in zip(asking.cases, asking.prompts) for r in reference_records(asking, e, p)]
    if not records:
        raise DataError("no held-out text has a token that could be scored: look at what the tokenizer makes of them")
    context = asking.session.base.context_tokens
    longest = max(records, key=path_tokens)
    if context is not None and path_tokens(longest) > context:
        raise PlanError(
            f"the held-out case {longest.example_id} has {path_tokens(longest)} tokens with its reference, the model's "
            f"context is {context}: drop long rows"
        )
    path = asking.sitting.path
    kept = Sitting(asking.sitting.progress, path and path.with_name(f"{path.stem}_nats.jsonl"), asking.sitting.between)

    def nats(forest: Forest) -> list[tuple[str, float]]:
        sums = segment_sums(forest, asking.session.logprobs(asking.who, [forest])[0])
        return [(forest.example_ids[int(forest.owner[s])], -total) for s, total in sums.items()]

    found = dict.fromkeys((e.id for e in asking.cases), 0.0)
    for _, rows in of_forests(replace(asking, sitting=kept), records, nats):
        for name, total in rows:
            found[name] += total
    kept.forget()
    return [found[e.id] for e in asking.cases]


def reference_records(asking: Asking, example: Example, prompt: Sequence[Message]) -> Sequence[Record]:
    """What of a case is scored."""
    if example.is_text:
        return asking.renderer.plain.scored(example)
    root = np.array(asking.renderer.prompt(prompt), dtype=np.int64)
    reply = np.array(asking.renderer.reply(prompt, answer_message(example)), dtype=np.int64)
    weights = np.ones(len(reply), np.float32)
    ends = np.flatnonzero(np.isin(reply, asking.limits.stop_ids))
    weights[ends[-1] if len(ends) else len(reply) :] = 0
    return [Record(example.id, (Segment(root, 0 * root.astype(np.float32)), Segment(reply, weights, 0)))]


def passed(asking: Asking, means: Means) -> list[tuple[float, ...]]:
    """(programs, those that pass, k) of each case: programs are sampled, each from a generator of its own."""
    code = means.code
    assert code is not None
    missing = next((e for e in asking.cases if not e.tests.strip()), None)
    if missing is not None:
        raise DataError(
            f"{missing.source} has no tests, which pass_at_k runs: name the column that holds them, "
            "--set data.columns.tests=NAME"
        )
    tokens = [asking.renderer.prompt(p) for p in asking.prompts for _ in range(code.tries)]
    limits = replace(asking.limits, temperature=code.temperature)
    path = asking.sitting.path
    kept = Sitting(
        asking.sitting.progress, path and path.with_name(f"{path.stem}_programs.jsonl"), asking.sitting.between
    )
    texts = [c.text for c in sampled(asking, tokens, limits, kept)]
    pairs = [(text, asking.cases[k // code.tries]) for k, text in enumerate(texts)]
    outcomes = checked(pairs, means, lambda n: kept.progress(n, len(tokens)))
    kept.forget()
    counts = [sum(o.passed for o in outcomes[k : k + code.tries]) for k in range(0, len(outcomes), code.tries)]
    return [(float(code.tries), float(c), float(code.k)) for c in counts]


def checked(
    pairs: Sequence[tuple[str, Example]], means: Means, progress: Callable[[int], None]
) -> list[sandbox.Outcome]:
    assert means.code is not None
    for example in {e.id: e for _, e in pairs}.values():
        try:
            ast.parse(example.tests)
        except (SyntaxError, ValueError, RecursionError) as error:
            raise DataError(f"the tests of {example.source} are no Python: {error}") from None
    limits = sandbox.Limits(
        wall_s=means.code.timeout_s, cpu_s=max(1, round(means.code.timeout_s)),
        memory_bytes=means.code.memory_mib * 2**20,
    )  # fmt: skip
    return sandbox.check_all(
        [(program(text), e.tests) for text, e in pairs], limits, isolate=means.isolate, progress=progress
    )
