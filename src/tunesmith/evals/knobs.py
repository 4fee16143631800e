"""Options of the evaluation: what is asked, how programs are run, who judges."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

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


@dataclass(frozen=True, slots=True)
class Evals:
    max_cases: int = 400  # most held-out cases that both models answer; more takes longer and finds smaller differences
    max_dev_cases: int = 48  # most dev cases, on which the base's best prompt form is chosen and the dev loss taken
    few_shot: int = 4  # examples shown to the base in one of its prompt forms, to be fair to it; 0: not tried
    max_new_tokens: int | None = None  # longest answer; null: from the lengths of the training replies
    # dialogues: own plays each through on the model's own answers, given asks only the last, behind those of the data;
    # auto: own for task chat
    history: Literal["auto", "own", "given"] = "auto"
    rows: int = 48  # answers written side by side; lower it when memory runs out
    budget_s: float = 1800.0  # seconds for one model's answers; past it the run stops, and can be resumed
    sure_accuracy: float = 0.9  # labels: share right, on dev, of the answers that `predict` does not call unsure
    guards: Literal["full", "quick", "off"] = "full"  # probes of what the model could do before; quick: a quarter
    guard_budget_s: float = 300.0  # seconds for one model's guard probes; the result says what was cut off
    lm_eval: tuple[
        str, ...
    ] = ()  # more probes: tasks of lm-eval by name, or YAML files; pip install 'tunesmith[lm-eval]'
    lm_eval_items: int = 200  # most items of each of these tasks; more takes longer and finds smaller losses
    # slips, other wordings, inputs that fit no label, recited rows; quick: 40 cases in 5 ways, full: 200 in up to 10
    robustness: Literal["off", "quick", "full"] = "off"
    explain_cases: int = 2  # worst cases of which the report says which words and training examples moved them; 0: none
    explain_budget_s: float = 20.0  # seconds for that; past it fewer cases are explained, by fewer examples
    schema: str | dict[str, Any] | None = None  # a JSON schema, as a file or written here, that answers have to fit
    code: Code = field(default_factory=Code)  # how programs are tried, for the metric pass_at_k
    judge: JudgeBy = field(default_factory=JudgeBy)  # another model that compares the answers; off unless it is named
    preferences: tuple[
        str, ...
    ] = ()  # files of chosen and rejected replies: does the model find the chosen one likelier?
    preference_by: Literal["sum", "mean"] = "sum"  # of the tokens' log-probability; sum favours short replies
    alpha: float = 0.05  # how often a verdict may be wrong when there is no difference; 0.05 is usual
