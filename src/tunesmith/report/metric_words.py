"""The names of our metrics as people read them."""

from __future__ import annotations

METRICS = {  # name in recipes and files: (name as people read it, what it is)
    "accuracy": ("accuracy", "share of answers that are right"),
    "macro_f1": ("macro-F1", "F1 averaged over the labels, so that a rare label counts as much as a common one"),
    "exact_match": ("exact match", "share of answers that equal the reference exactly"),
    "micro_f1": ("micro-F1", "F1 of all answers together; an answer that is no label costs recall only"),
    "label_set_f1": ("F1 of label sets", "how far the labels given agree with those wanted; missing and invented cost"),
    "label_set_macro_f1": (
        "macro-F1 of label sets",
        "F1 averaged over the labels of which several may fit, so that a rare one counts as much as a common one",
    ),
    "json_exact": ("JSON exact match", "share of answers that equal the reference as JSON"),
    "json_valid": ("valid JSON", "share of answers that are a JSON object"),
    "numeric": ("right number", "share of answers that come to the right number"),
    "mcc": ("MCC", "correlation of answers and references, from -1 to 1"),
    "json_fields": (
        "JSON field agreement",
        "how far the fields of the answer agree with the reference; 1 is all of them",
    ),
    "json_f1": ("JSON field F1", "as field agreement, but fields that were invented cost as well"),
    "json_schema": ("fits the schema", "share of answers that are JSON as the schema wants it"),
    "tool_calls": ("right calls", "share of answers with the right calls, argument for argument, and no other"),
    "tool_names": ("right functions", "share of answers that call the right functions, whatever their arguments"),
    "token_f1": ("word F1", "how far the words of the answer agree with the reference; 1 is all of them"),
    "rouge_l": (
        "ROUGE-L",
        "longest run of words, gaps allowed, that the answer shares with the reference; 1 is the whole",
    ),
    "rouge_1": ("ROUGE-1", "words that the answer shares with the reference; 1 is all of them"),
    "chrf": ("chrF", "pieces of words that the answer shares with the reference; 100 is all of them"),
    "bleu": ("BLEU", "runs of words that the answer shares with the reference; 100 is all of them"),
    "pass_at_k": ("pass@k", "chance that at least one of k programs passes the tests of a case"),
    "preference_accuracy": (
        "preference accuracy",
        "share of pairs of which the chosen reply is the likelier; a tie is half",
    ),
    "preference_margin": (
        "preference margin",
        "nats by which the chosen reply of a pair is likelier than the rejected one, on average",
    ),
    "chosen_nats": ("surprise at chosen replies", "nats a token by which they surprise the model; less is likelier"),
    "rejected_nats": (
        "surprise at rejected replies",
        "nats a token by which they surprise the model; less is likelier",
    ),
    "feedback_accuracy": (
        "feedback accuracy",
        "share of replies that became likelier if marked good and less likely if bad, mean of both marks",
    ),
    "feedback_margin": (
        "feedback margin",
        "nats by which good replies became likelier and bad ones less likely, mean of both marks",
    ),
    "reward_accuracy": (
        "reward accuracy",
        "share of pairs of which the better reply gets the higher score; a tie is half",
    ),
    "reward_margin": ("reward margin", "by how much the better reply's score is higher, on average: log odds, in nats"),
    "reward_loss": (
        "reward loss",
        "nats by which a preference surprises whoever takes the scores' difference for its log odds; 0.693 by chance",
    ),
    "mean_reward": ("mean reward", "what graders give a reply, on average; its scale is theirs"),
    "judge": ("judge's preference", "share of cases in which the judge prefers the model's answer; a tie is half"),
    "bits_per_byte": (
        "bits per byte",
        "bits that the model needs for a byte of the reference; 0 is knowing it by heart",
    ),
}
