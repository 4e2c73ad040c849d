"""Entities of tag sequences, and their precision, recall and F1 as CoNLL-2000 and seqeval count them.

An entity is right if its type, its first and its last token are right. Tags are `O`, or
`B-`, `I-`, `E-`, `S-` and a type (IOB1, IOB2, IOE, IOBES). Like conlleval, this reads a sequence
leniently: an `I-` that follows `O` or another type begins an entity.
"""

from __future__ import annotations

from collections.abc import Sequence

Entity = tuple[str, int, int]
"""Type, first token, last token (inclusive)."""

OUTSIDE = "O"


def entities(tags: Sequence[str]) -> list[Entity]:
    """Return the entities of one sequence, in order.

    A tag without a prefix is an inside tag of its own type.
    """
    spans: list[Entity] = []
    first, before = 0, (OUTSIDE, "")
    for position, tag in enumerate([*tags, OUTSIDE]):
        here = _parts(tag)
        if _ends(before, here):
            spans.append((before[1], first, position - 1))
        if _begins(before, here):
            first = position
        before = here
    return spans


def _parts(tag: str) -> tuple[str, str]:
    """Split a tag into its prefix and its type."""
    if tag == OUTSIDE:
        return OUTSIDE, ""
    prefix, separator, kind = tag.partition("-")
    return (prefix, kind) if separator and prefix in "BIES" else ("I", tag)


def _ends(before: tuple[str, str], here: tuple[str, str]) -> bool:
    """Return whether the entity that `before` belongs to stops before `here`."""
    if before[0] == OUTSIDE:
        return False
    return before[0] in "ES" or here[0] in f"{OUTSIDE}BS" or here[1] != before[1]


def _begins(before: tuple[str, str], here: tuple[str, str]) -> bool:
    """Return whether an entity begins at `here`."""
    if here[0] == OUTSIDE:
        return False
    return here[0] in "BS" or before[0] in f"{OUTSIDE}ES" or here[1] != before[1]


def entity_metrics(
    predicted: Sequence[Sequence[str]], references: Sequence[Sequence[str]]
) -> dict[str, float]:
    """Return `precision`, `recall`, `f1` over all entities together, and `accuracy` over tokens, 0 to 1.

    A ratio whose denominator is 0 is 0, as in seqeval.
    """
    mine = {(number, *entity) for number, tags in enumerate(predicted) for entity in entities(tags)}
    theirs = {(number, *entity) for number, tags in enumerate(references) for entity in entities(tags)}
    right = len(mine & theirs)
    rows = list(zip(predicted, references, strict=True))
    same = [a == b for row, gold in rows for a, b in zip(row, gold, strict=True)]
    return {
        "precision": _ratio(right, len(mine)),
        "recall": _ratio(right, len(theirs)),
        "f1": _ratio(2 * right, len(mine) + len(theirs)),
        "accuracy": _ratio(sum(same), len(same)),
    }


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
