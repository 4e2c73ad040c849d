"""Python's own documentation as text, for language modeling. Needs no network.

Source: `pydoc_data.topics`, which every CPython carries: 465 000 characters in 79 topics. A topic is
wholly in one split, the same as in `pydoc_pairs`.
"""

from __future__ import annotations

from trainer.assets.pydoc_pairs import is_in_split


def rows(split: str) -> list[dict[str, str]]:
    """One text a topic, in the order of their names."""
    from pydoc_data.topics import topics

    return [{"text": topics[name].strip()} for name in sorted(topics) if is_in_split(name, split)]
