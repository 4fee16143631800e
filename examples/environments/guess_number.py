"""Guess the number: a game of several turns, as tunesmith's `environment.kind: python` wants one.

Each row has a `secret` and a `most`. The model guesses, is told "higher" or "lower", and the fewer guesses it needs the
more an episode is worth. A reply without a number costs the chance that a guess would have had. Nothing here is seen by
the model but what `reset` and `step` return.
"""

import re

RANGE = (0, 1)  # what an episode comes to, at least and at most
GUESSES = 5


class Guess:
    def reset(self, row: dict) -> str:
        self.secret, self.num = int(row["secret"]), 0
        return (
            f"I think of a whole number from 1 to {row['most']}. Guess it. I say higher or lower. "
            "Answer with one number and nothing else."
        )

    def step(self, reply: str) -> tuple[str | None, float]:
        self.num += 1
        found = re.findall(r"-?\d+", reply)
        if len(found) == 1 and int(found[0]) == self.secret:
            return None, 1 - 0.15 * (self.num - 1)
        if self.num == GUESSES:
            return None, 0.05 if found else 0
        if len(found) != 1:
            return "That is not one number. Answer with one number.", 0
        return "higher" if int(found[0]) < self.secret else "lower", 0
