"""The names that people give to columns. A file is understood by them; what was understood is shown, and can be said
instead.
"""

from __future__ import annotations

MESSAGES = ("messages", "conversations", "conversation")
# (prompt columns, of which all but the first may be missing or empty; reply column), the first that fits wins
REPLIES: tuple[tuple[tuple[str, ...], str], ...] = (
    (("instruction", "input"), "output"),
    (("instruction", "context"), "response"),
    (("instruction", "input"), "response"),
    (("prompt",), "completion"),
    (("prompt",), "response"),
    (("prompt",), "output"),
    (("prompt",), "answer"),
    (("question", "context", "document", "passage"), "answer"),
    (("question", "context"), "response"),
    (("question",), "output"),
    (("document",), "summary"),
    (("article",), "summary"),
    (("article",), "highlights"),
    (("dialogue",), "summary"),
    (("dialog",), "summary"),
    (("text",), "summary"),
    (("source",), "target"),
    (("src",), "tgt"),
    (("input",), "output"),
    (("input",), "target"),
    (("input",), "response"),
    (("query",), "response"),
    (("query",), "answer"),
    (("question", "context", "document", "passage"), "answers"),
)
LABELLED = tuple(
    (t, name)
    for name in ("label", "labels", "intent", "class", "sentiment", "category")
    for t in ("text", "sentence", "utterance", "content", "input")
)
PAIR_PROMPTS = (("prompt",), ("instruction", "input"), ("question",), ("query",), ("anchor",))
# (prompt columns; chosen; rejected). The second is OpenAI's preference file
PAIRS: tuple[tuple[tuple[tuple[str, ...], ...], str, str], ...] = (
    (PAIR_PROMPTS, "chosen", "rejected"),
    ((("input",),), "preferred_output", "non_preferred_output"),
    (PAIR_PROMPTS, "preferred", "rejected"),
    (PAIR_PROMPTS, "preferred", "dispreferred"),
    (PAIR_PROMPTS, "accepted", "rejected"),
    (PAIR_PROMPTS, "better", "worse"),
    (PAIR_PROMPTS, "winner", "loser"),
    (PAIR_PROMPTS, "good", "bad"),
    (PAIR_PROMPTS, "positive", "negative"),
    (PAIR_PROMPTS, "chosen_response", "rejected_response"),
    (PAIR_PROMPTS, "response_chosen", "response_rejected"),
)
PLAIN = ("text", "content", "document", "body", "raw_content")  # the only column of a file: texts to learn as they are
# One row per message: which conversation it belongs to, who wrote it, what was written, when
CONVERSATION = (
    "conversation_id",
    "ticket_id",
    "thread_id",
    "dialogue_id",
    "dialog_id",
    "chat_id",
    "session_id",
    "case_id",
    "conversation",
    "ticket",
    "thread",
)
ROLE = ("role", "sender_type", "author_type", "sender", "author", "from", "speaker")
CONTENT = ("text", "message", "body", "content", "utterance", "message_text")
TIME = ("time", "timestamp", "created_at", "sent_at", "datetime", "date", "created")
