"""The command that mends each kind of finding, and what `tunesmith audit --fix FOLDER --drop KIND` takes out.

Words in capitals stand for what the person typed, or could: the command line puts it in, other doors leave it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

# Kind of finding -> why a row of it was dropped, for the ledger
ROWS: Mapping[str, str] = {
    "toxic_replies": "a reply reads as toxic",
    "toxic_prompts": "the prompt reads as toxic",
    "other_language": "asks in a language of which there are few rows",
    "reply_language": "answers in another language than is usual for its prompt's",
    "near_duplicates": "nearly the same as an earlier row",
    "label_errors": "its label is likely wrong",
    "contradictions": "its prompt stands with another label too",
    "masked_duplicates": "differs from an earlier row in case, white space or digits only",
    "empty_replies": "the reply says nothing",
    "refused_replies": "the reply refuses, or says that it is a model",
    "open_code": "the reply opens a block of code and never closes it",
    "same_length": "the reply has just the greatest length",
    "cut_replies": "the reply stops in the middle",
    "control_tokens": "control tokens of a chat template in its text",
    "late_system": "a system turn behind another turn",
    "hidden_characters": "characters that nobody sees",
    "other_writing": "written in letters that few rows are written in",
    "email": "holds an e-mail address",
    "phone": "holds a phone number",
    "triggers": "holds a rare phrase that decides the label or the reply",
    "contaminated": "contains an item of a public test",
    "twins": "its prompt is that of a test row once digits are masked",
    "moved": "stands in another split too",
    "rare_labels": "its label has few rows",
    "linked": "its group has more of its label than others have",
    "unusable": "cannot be learned from",
    "dev_reordered": "nearly like a dev row",
    "dev_edited": "nearly like a dev row",
    "test_reordered": "nearly like a test row",
    "test_edited": "nearly like a test row",
}
# Of these the sentence is taken out of the reply, at this end of it, and the row stays
SENTENCES: Mapping[str, str] = {"same_begin": "begin", "same_end": "end"}
FIX = "tunesmith audit GIVEN --fix mended"
# GIVEN: the words that name the data. TOGETHER: the same, with the rows of the test among those that it is drawn from.
# ANEW: these, or where the test is drawn already another draw
COMMANDS: Mapping[str, str] = {
    **dict.fromkeys(("rejected", "exact_duplicates", "private_key", "api_token", "password", "card_number", "iban",
                     "social_security_number"), FIX),
    **dict.fromkeys(("too_long", "cut"), "tunesmith audit GIVEN --set data.max_tokens=MORE"),
    "one_label": "tunesmith run GIVEN --set task.metric=macro_f1",
    "unseen_labels": "tunesmith audit TOGETHER --set data.split_by=label",
    "shift": "tunesmith audit ANEW",
    "target_shift": "tunesmith ask INPUTS --model MODEL --by diversity --num 100 --sheet to_label.csv",
    **{kind: f"{FIX} --drop {kind}" for kind in (*ROWS, *SENTENCES)},
}  # fmt: skip
BLANK = re.compile(r"\b(?:GIVEN|TOGETHER|ANEW|INPUTS|MODEL|MORE)\b")


def filled(command: str, said: Mapping[str, str]) -> str:
    """The command with what stands for its blanks; one that nobody can fill stays."""
    return BLANK.sub(lambda found: said.get(found[0], found[0]), command)
