"""pass@k: the chance that at least one of k answers passes a case's unit tests, from n answers of which c pass."""

from __future__ import annotations

import re

import numpy as np

from tunesmith.evals.text import numbers

FENCE = re.compile(r"^[ \t]*```[ \t]*[\w+-]*[ \t]*\n(.*?)^[ \t]*```[ \t]*$", re.DOTALL | re.MULTILINE)


def pass_at_k(n: int, c: int, k: int) -> float:
    """1 - C(n - c, k) / C(n, k), unbiased (Chen et al. 2021, eq. 1). Needs 1 <= k <= n and 0 <= c <= n."""
    assert 1 <= k <= n, (n, k)
    assert 0 <= c <= n, (n, c)
    if n - c < k:
        return 1.0
    return float(1.0 - np.prod(1.0 - k / np.arange(n - c + 1, n + 1)))


def case(measured: object, reference: object) -> float:
    """`measured`: (n, c, k). The reference was already used by the tests."""
    n, c, k = map(int, numbers(measured))
    return pass_at_k(n, c, k)


def program(answer: str) -> str:
    """The code of an answer: what stands in its fences, joined; the whole answer where it has none."""
    blocks = FENCE.findall(answer)
    return "\n".join(blocks) if blocks else answer
