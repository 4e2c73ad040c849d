"""One split of labeled data, as it is between its file and its task."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from galley.counting import counted
from galley.data.sampling import Classes
from galley.errors import DataError, Problem


@dataclass(frozen=True)
class Split:
    """One split, read and checked.

    Attributes:
        texts: one column after the other, each as long as `labels`.
        labels: numbers, classes (an int, or the text of its name), or sorted lists of classes.
        where: the file, for messages.
        complete: whether all rows were read, not only the first.
        names: all classes in their order, where the file itself declares them; labels are then names.
    """

    texts: tuple[list[str], ...]
    labels: list[Any]
    where: str
    complete: bool = True
    names: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def classes(self) -> Classes:
        """One class a row, several, or none where labels are numbers."""
        if self.labels and isinstance(self.labels[0], float):
            return None
        return [tuple(label) if isinstance(label, list) else (label,) for label in self.labels]

    def take(self, indices: Sequence[int], where: str | None = None) -> Split:
        """The rows at `indices`, in that order."""
        texts = tuple([column[index] for index in indices] for column in self.texts)
        labels = [self.labels[index] for index in indices]
        return replace(self, texts=texts, labels=labels, where=where or self.where)


def joined_splits(parts: Sequence[Split]) -> Split:
    """The rows of all parts, one after the other. Raises `DataError` where some are pairs and some not."""
    first = parts[0]
    for part in parts[1:]:
        if len(part.texts) != len(first.texts):
            what = f"has {len(part.texts)} text columns, but {first.where} has {len(first.texts)}"
            raise DataError(Problem(part.where, what, "set data.text_columns"))
    if len(parts) == 1:
        return first
    texts = tuple(
        [text for part in parts for text in part.texts[column]] for column in range(len(first.texts))
    )
    labels = [label for part in parts for label in part.labels]
    where = f"{first.where} and {len(parts) - 1} more"
    return Split(texts, labels, where, all(part.complete for part in parts), _joined_names(parts))


def _joined_names(parts: Sequence[Split]) -> tuple[str, ...] | None:
    """Sources may declare the same classes in another order: their labels are names by now."""
    declared = [part.names for part in parts if part.names is not None]
    if len(declared) < len(parts):
        return None
    return tuple(dict.fromkeys(name for names in declared for name in names))


def describe(split: Split) -> str:
    """The samples of a split, by class, for the log."""
    if isinstance(split.labels[0], float):
        bounds = f"{min(split.labels):g} to {max(split.labels):g}"
        return f"{split.where}: {counted(len(split.labels), 'sample')} (labels {bounds})"
    counts = Counter(label for row in split.classes or () for label in row)
    classes = ", ".join(f"{counts[label]} of class {label}" for label in in_order(counts))
    return f"{split.where}: {counted(len(split.labels), 'sample')} ({classes})"


def in_order(classes: Sequence[Any] | Counter[Any] | set[Any]) -> list[Any]:
    """Numbers, then text by its characters: an order that no row can change."""
    return sorted(classes, key=lambda name: (isinstance(name, str), name))
