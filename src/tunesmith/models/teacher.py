"""A teacher beside the model that learns: frozen, with the same tokenizer, so that both speak of the same tokens."""

from __future__ import annotations

from tunesmith.errors import PlanError
from tunesmith.models.load import Base, load

SAMPLE = "Déjà vu: 3.14 × 2 = 6.28?\n\tdef f(x): return x  # Grüße, 你好, 🙂"  # cut into tokens by both


def load_teacher(name: str, learner: Base, longest: int) -> Base:
    """The teacher in the learner's format and on its device. PlanError where it cannot teach this model.

    `longest`: tokens of an example.
    """
    teacher = load(name, learner.model.dtype, str(learner.model.device))
    if "seq2seq" in (teacher.layout, learner.layout) and teacher.layout != learner.layout:
        raise PlanError(
            f"of objective.distil.teacher {name} and the model that learns one is an encoder-decoder and the other is "
            "not: they do not read alike. Let it write the replies instead: tunesmith distil"
        )
    mine, theirs = learner.tokenizer, teacher.tokenizer
    if mine.get_vocab() != theirs.get_vocab() or mine(SAMPLE)["input_ids"] != theirs(SAMPLE)["input_ids"]:
        raise PlanError(
            f"objective.distil.teacher {name} has another tokenizer than the model that learns: token by token they "
            "do not speak of the same. Let it write the replies instead: tunesmith distil"
        )
    if teacher.rope != learner.rope:
        raise PlanError(
            f"the rotary angles of objective.distil.teacher {name} depend on a batch's lengths in another way than "
            "those of the model that learns. Let it write the replies instead: tunesmith distil"
        )
    if teacher.context_tokens is not None and longest > teacher.context_tokens:
        raise PlanError(
            f"data.max_tokens is {longest}; objective.distil.teacher {name} was made for {teacher.context_tokens} "
            "tokens: use at most that"
        )
    return teacher
