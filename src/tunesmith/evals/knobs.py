"""Options of the evaluation that belong together: how programs are run, and who judges."""

from __future__ import annotations

from dataclasses import dataclass

RUBRIC = (
    "The better answer does what the prompt asks: what it says is right, nothing that was asked for is missing, and "
    "nothing is made up. Being longer, politer or better laid out is no merit by itself."
)


@dataclass(frozen=True, slots=True)
class Code:
    """How programs are sampled and run for pass_at_k."""

    tries: int = 5  # programs written for each case; more make the estimate steadier
    k: int = 1  # the k of pass@k, at most tries
    temperature: float = 0.8  # of sampling; 0 writes the same program each time
    timeout_s: float = 10.0  # seconds that a program may take with its tests
    memory_mib: int = 512  # memory that a program may use
    trust_local_code: bool = False  # run programs even where no sandbox can be had; they can then do what you can


@dataclass(frozen=True, slots=True)
class JudgeBy:
    """Off unless an endpoint is named: prompts and answers of the held-out cases are sent there."""

    endpoint: str | None = None  # an OpenAI-compatible address such as http://127.0.0.1:8000/v1; null: no judge
    model: str = ""  # the judge, by the name that the endpoint knows
    rubric: str = RUBRIC  # what makes an answer the better one
    api_key_env: str | None = None  # environment variable that holds the key; the key itself is never written
    votes: str | None = None  # CSV with example_id and vote (base, tuned or tie) of people, to see how far it agrees
    max_cases: int = 100  # most cases that are judged, with two questions each
    budget_s: float = 900.0  # seconds for all questions; past it the run stops, and can be resumed
