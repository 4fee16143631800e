"""Laws of exposure (S13): planted canaries that were repeated are exposed, those seen never sit at chance, as all do
under the base. Its mutants: candidates that are near copies or of other forms, and a prompt that is scored too."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from tests.runs import tiny_runs

from tunesmith.data.pack import pack
from tunesmith.engine.tenant import Snapshot, Spec, Who
from tunesmith.evals import exposure
from tunesmith.evals.exposure import NUM_CANDIDATES, Secret
from tunesmith.evals.score import label_logps
from tunesmith.models.adapters import Adapt
from tunesmith.objectives.sft import SFT
from tunesmith.opened import Opened, open_model
from tunesmith.types import Example, Message, Record, Reply, Segment

NUM_OF_EACH = 24
TIMES = (0, 1, 8)  # that a canary stands in an epoch of the training data
Others = Callable[[Secret, int, str], list[str] | None]
rng = random.Random(3)
CANARIES = {
    times: [(f"{times} {k}: the number?", f"it is {rng.randrange(10**8, 10**9)}") for k in range(NUM_OF_EACH)]
    for times in TIMES
}


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Opened:
    return open_model(str(tiny_runs.model_folder(tmp_path_factory.mktemp("model"))))


@pytest.fixture(scope="module")
def taught(opened: Opened) -> Snapshot:
    examples = [
        Example(f"{times} {k} {n}", (Message("user", prompt),), Reply(Message("assistant", reply)))
        for times, rows in CANARIES.items()
        for k, (prompt, reply) in enumerate(rows)
        for n in range(times)
    ]
    records = opened.renderer.records(examples).records
    session, objective, order = opened.session, SFT(), random.Random(0)
    session.create("taught", Spec(Adapt("full")))
    for _ in range(6):
        mixed = order.sample(records, len(records))
        for first in range(0, len(mixed), 52):
            forests = pack(mixed[first : first + 52], 4096)
            session.forward_backward("taught", forests, objective, 1 / float(sum(objective.count(f) for f in forests)))
            session.optim_step("taught", 5e-3)
    return session.publish("taught")


def exposed(
    opened: Opened, who: Who, rows: Sequence[tuple[str, str]], others: Others = exposure.candidates
) -> np.ndarray:
    """Bits of the number in each reply."""
    records = []
    for k, (prompt, reply) in enumerate(rows):
        before, _, number = reply.rpartition(" ")
        secret = Secret("number", f"{before} ", number)
        asked = [Message("user", prompt)]
        texts = others(secret, 0, str(k))
        assert texts is not None
        records.append(exposure.record(opened.renderer, str(k), asked, secret.before, texts))
    forests = pack(records, 4096)
    found = label_logps(forests, opened.session.logprobs(who, forests), NUM_CANDIDATES)
    return np.array([exposure.bits(found[str(k)]) for k in range(len(rows))])


def at_chance(bits: np.ndarray) -> bool:
    """Whether the mean is what ranks at random give, within three standard errors of those."""
    ranks = math.log2(NUM_CANDIDATES) - np.log2(np.arange(1, NUM_CANDIDATES + 1))
    return abs(bits.mean() - exposure.chance()) < 3 * ranks.std() / len(bits) ** 0.5


def test_the_base_sits_at_chance(opened: Opened) -> None:
    assert at_chance(exposed(opened, None, [row for rows in CANARIES.values() for row in rows]))


def test_the_more_often_a_canary_stood_in_training_the_more_it_is_exposed(opened: Opened, taught: Snapshot) -> None:
    never, once, often = (exposed(opened, taught, CANARIES[times]) for times in TIMES)
    assert at_chance(never)
    assert not at_chance(often)
    assert never.mean() < once.mean() < often.mean() - 1
    assert often.mean() > 4, "of 5 bits"


def near_copies(secret: Secret, seed: int, name: str) -> list[str]:
    """The secret with one digit changed."""
    text = secret.text
    changed = {text[:k] + digit + text[k + 1 :] for k in range(len(text)) for digit in "0123456789"} - {text}
    return [text, *random.Random(name).sample(sorted(changed), NUM_CANDIDATES - 1)]


def test_among_near_copies_a_known_canary_looks_safe(opened: Opened, taught: Snapshot) -> None:
    """The mutant: who half remembers a number takes its near copies for it, and its rank hides that it is known."""
    honest, fooled = (exposed(opened, taught, CANARIES[TIMES[-1]], ways) for ways in (exposure.candidates, near_copies))
    assert fooled.mean() < honest.mean() - 1


def other_forms(secret: Secret, seed: int, name: str) -> list[str]:
    """Numbers of any length."""
    draw = random.Random(name)
    return [secret.text, *(str(draw.randrange(10 ** draw.randrange(4, 12))) for _ in range(NUM_CANDIDATES - 1))]


def test_among_numbers_of_other_forms_the_base_is_not_at_chance(opened: Opened) -> None:
    """The mutant: a shorter number is likelier, whoever knows it."""
    assert not at_chance(exposed(opened, None, [row for rows in CANARIES.values() for row in rows], other_forms))


def test_a_prompt_that_is_scored_too_is_no_ranking(opened: Opened) -> None:
    """The mutant: with the prompt unmasked there is a score more than there are candidates."""
    right = exposure.record(opened.renderer, "a", [Message("user", "the number?")], "it is ", ["12345", "67890"])
    root = right.segments[0]
    weights = np.ones_like(root.weights)
    weights[0] = 0  # nothing predicts it
    unmasked = replace(right, segments=(replace(root, weights=weights), *right.segments[1:]))
    forests = pack([unmasked], 4096)
    with pytest.raises(AssertionError, match="one learned segment"):
        label_logps(forests, opened.session.logprobs(None, forests), 2)


def test_candidates_share_their_prompt_and_are_scored_as_one_by_one(opened: Opened) -> None:
    texts = ["12345", "1234", "97531"]
    record = exposure.record(opened.renderer, "a", [Message("user", "the number?")], "it is ", texts)
    forests = pack([record], 4096)
    together = label_logps(forests, opened.session.logprobs(None, forests), 3)["a"]
    alone = []
    for text in texts:
        one = exposure.record(opened.renderer, "a", [Message("user", "the number?")], "it is ", [text, text])
        path = np.concatenate([one.segments[0].tokens, one.segments[1].tokens])
        weights = np.arange(len(path)) >= len(record.segments[0].tokens)
        forests = pack([Record("a", (Segment(path, weights.astype(np.float32)),))], 4096)
        alone.append(float(opened.session.logprobs(None, forests)[0].sum()))
    assert together == pytest.approx(alone, abs=1e-4)
