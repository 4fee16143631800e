"""What is wrong with a reply by itself: it says nothing, it refuses, it stops in the middle. And what many of them
begin or end with.
"""

from __future__ import annotations

import re

PLACEHOLDERS = frozenset(
    (*("n/a", "nan", "null", "undefined", "todo", "tbd", "xxx", "[deleted]", "[removed]"), "#n/a", "#ref!", "#value!")
)
REFUSAL = re.compile(
    r"(?:i(?:'|’)?m sorry,?(?: but)?|i apologi[sz]e,?(?: but)?|unfortunately,|sorry,(?: but)?)[ ,]*(?:but )?(?:as an? "
    r"|i(?:'m| am) (?:just |only )?an? (?:ai|language|large)|i(?:'m| am) (?:not able|unable) to (?:assist|help|provide"
    r"|fulfil|comply|answer|generate|create|access|browse)|i (?:can(?:'|’)?t|cannot|can not|won(?:'|’)t) (?:assist|help"
    r"|provide|fulfil|comply|answer|generate|create|access|browse|do that|engage|support|write))"
    r"|(?:as an? |i(?:'m| am) (?:just |only )?an? )(?:ai\b|artificial intelligence|(?:large )?language model)"
    r"[^.!?]{0,80}?(?:n(?:'|’)t\b|not\b|\bno\b|\bunable\b|\bonly\b)"
    r"|i (?:can(?:'|’)?t|cannot) (?:assist|help|comply)(?: you)? with (?:that|this)",
    re.IGNORECASE,
)
REFUSES_WITHIN = 160  # characters from the beginning
LONG = 120  # characters, from which on a reply is a text that ends somewhere
# German and some others close a quotation with what opens one in English
ENDS = re.compile(r"[.!?…。！？।॥؟:;)\]}>»«\"'”’“‘`*_~|]\s*\Z")
SENTENCE = re.compile(r"[^.!?\n。！？।]+[.!?\n。！？।]?")
LEAST_WORDS = 4  # of a sentence that counts as boilerplate


def is_empty(reply: str) -> bool:
    """Nothing but white space, dots and dashes, or a word that stands for nothing. Other marks may be an answer:
    brackets that close others, operators."""
    bare = reply.strip().lower()
    return bare in PLACEHOLDERS or not bare.strip(".…-–—_?")


def refusal(reply: str) -> re.Match[str] | None:
    """Where a model says at the beginning that it cannot, or that it is one."""
    return REFUSAL.search(reply, 0, REFUSES_WITHIN)


def is_fenced_open(reply: str) -> bool:
    """A block of code that begins and does not end."""
    return reply.count("```") % 2 == 1


def is_long(reply: str) -> bool:
    return len(reply) >= LONG


def ends(reply: str) -> bool:
    """With a mark that texts end with. In writing without such marks nothing does: the share of all tells."""
    return ENDS.search(reply) is not None


def edges(reply: str) -> list[tuple[str, str]]:
    """("begin" | "end", sentence), of those that have some words and are not all that is said."""
    sentences = [m[0] for m in SENTENCE.finditer(reply) if m[0].strip()]
    if len(sentences) < 2:
        return []
    both = [("begin", sentences[0].strip()), ("end", sentences[-1].strip())]
    return [(where, said) for where, said in both if len(said.split()) >= LEAST_WORDS]
