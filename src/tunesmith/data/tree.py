"""Paths to a tree: turns share what they have in common, and each learned token is learned once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from tunesmith.errors import DataError
from tunesmith.types import Segment


@dataclass(slots=True)
class _Node:
    tokens: np.ndarray
    weights: np.ndarray
    children: list[_Node] = field(default_factory=list)


def common_length(a: np.ndarray, b: np.ndarray) -> int:
    """Number of leading tokens that are the same."""
    length = min(len(a), len(b))
    different = np.flatnonzero(a[:length] != b[:length])
    return int(different[0]) if different.size else length


def merge(paths: Iterable[tuple[np.ndarray, np.ndarray]]) -> tuple[Segment, ...]:
    """The trie of (tokens [n], weights [n]) paths, parents first. Where paths coincide the larger weight holds: a
    context's 0 yields.

    A path that only goes on from the end of another lengthens it, so that a template that renders history as a prefix
    gives one segment.
    """
    roots: list[_Node] = []
    for tokens, weights in paths:
        _insert(roots, tokens, weights)
    segments: list[Segment] = []
    stack = [(node, -1) for node in reversed(roots)]
    while stack:
        node, parent = stack.pop()
        stack += [(child, len(segments)) for child in reversed(node.children)]
        segments.append(Segment(node.tokens, node.weights, parent))
    return tuple(segments)


def apart(paths: Iterable[tuple[np.ndarray, np.ndarray]]) -> tuple[Segment, ...]:
    """For an encoder-decoder: of each path its context, which weighs 0, as a root, and the reply below it.
    Nothing is merged: what is read before a reply is read from both sides, and so is not the same for another one."""
    segments: list[Segment] = []
    for tokens, weights in paths:
        begins = int((weights == 0).sum())
        root = Segment(tokens[:begins], weights[:begins])
        segments += [root, Segment(tokens[begins:], weights[begins:], len(segments))]
    return tuple(segments)


def branches(paths: Iterable[tuple[np.ndarray, np.ndarray]]) -> tuple[Segment, ...]:
    """Of replies to one context: the context, which weighs 0, as the root, and each reply whole below it, in their
    order. Nothing is merged: a reply is a segment, whatever it begins with. DataError where two are the same."""
    cut = [(tokens, weights, int((weights == 0).sum())) for tokens, weights in paths]
    first, _, begins = cut[0]
    if any(not np.array_equal(tokens[:num], first[:begins]) for tokens, _, num in cut):
        raise DataError("the chat template writes another prompt before each of its replies")
    replies = [Segment(tokens[num:], weights[num:], 0) for tokens, weights, num in cut]
    if len({reply.tokens.tobytes() for reply in replies}) < len(replies):
        raise DataError("the chosen and the rejected reply are the same, which prefers none")
    return (Segment(first[:begins], np.zeros(begins, np.float32)), *replies)


def _insert(siblings: list[_Node], tokens: np.ndarray, weights: np.ndarray) -> None:
    while len(tokens):
        node = next((n for n in siblings if n.tokens[0] == tokens[0]), None)
        if node is None:
            siblings.append(_Node(tokens, weights))
            return
        shared = common_length(node.tokens, tokens)
        node.weights = np.concatenate([np.maximum(node.weights[:shared], weights[:shared]), node.weights[shared:]])
        tokens, weights = tokens[shared:], weights[shared:]
        if not len(tokens):
            return
        if shared < len(node.tokens):
            node.children = [_Node(node.tokens[shared:], node.weights[shared:], node.children)]
            node.tokens, node.weights = node.tokens[:shared], node.weights[:shared]
        elif not node.children:
            node.tokens, node.weights = np.concatenate([node.tokens, tokens]), np.concatenate([node.weights, weights])
            return
        siblings = node.children
