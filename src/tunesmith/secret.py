"""Keys and tokens by their shape: never repeated in a message, and refused where they would be written down."""

from __future__ import annotations

import re
from typing import Any

from tunesmith.errors import RecipeError

# What hands out tokens of a shape of its own. Plain hex and words (W&B, AWS secret keys) cannot be told from digests.
SHAPES = (
    r"hf_[A-Za-z0-9]{16,}",  # Hugging Face
    r"api_org_[A-Za-z0-9]{16,}",
    r"sk-[A-Za-z0-9_-]{16,}",  # OpenAI, Anthropic, and those that speak as they do
    r"gsk_[A-Za-z0-9]{16,}",  # Groq
    r"gh[pousr]_[A-Za-z0-9]{16,}",  # GitHub
    r"github_pat_[A-Za-z0-9_]{16,}",
    r"glpat-[A-Za-z0-9_-]{16,}",  # GitLab
    r"xox[abprs]-[A-Za-z0-9-]{10,}",  # Slack
    r"(?:AKIA|ASIA)[A-Z0-9]{16}",  # AWS
    r"AIza[A-Za-z0-9_-]{30,}",  # Google
    r"ya29\.[A-Za-z0-9_-]{16,}",
    r"npm_[A-Za-z0-9]{16,}",
    r"pypi-[A-Za-z0-9_-]{16,}",
    r"dckr_pat_[A-Za-z0-9_-]{16,}",
    r"SG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}",  # SendGrid
    r"[rs]k_(?:live|test)_[A-Za-z0-9]{16,}",  # Stripe
    r"r8_[A-Za-z0-9]{16,}",  # Replicate
    r"eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}",  # JSON web tokens
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
)
SECRET = re.compile(rf"(?<![A-Za-z0-9])(?:{'|'.join(SHAPES)})")
PASSWORD = re.compile(r"(?<=:/)/?[^/\s:@]*:[^/\s@]+(?=@)")  # of user:password@host; a path has one slash of two left


def masked(text: str) -> str:
    """The text without keys, tokens and passwords in addresses."""
    return PASSWORD.sub("…", SECRET.sub("…", text))


def holds_secret(text: str) -> bool:
    return SECRET.search(text) is not None or PASSWORD.search(text) is not None


def refuse_secrets(settings: Any, key: str) -> None:
    """A recipe is copied into every run, its lock and its report: keys do not belong into it."""
    parts = (
        settings.items() if isinstance(settings, dict) else enumerate(settings) if isinstance(settings, list) else ()
    )
    for name, value in parts:
        refuse_secrets(value, f"{key}.{name}" if key else str(name))
    if isinstance(settings, str) and holds_secret(settings):
        raise RecipeError(
            f"{key} holds what looks like a key or a password, and a recipe is copied into every run: put it into an "
            "environment variable, and its name into the recipe (evals.judge.api_key_env)"
        )
