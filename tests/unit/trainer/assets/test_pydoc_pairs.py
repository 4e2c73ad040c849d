"""The embedded pairs: balanced, unique, the same everywhere, nothing of the evaluation in training."""

from __future__ import annotations

import hashlib
import sys
from collections import Counter
from itertools import pairwise

from tests.support import run_process
from trainer.assets import pydoc_pairs
from trainer.assets.pydoc_pairs import NUM_PAIRS, pairs, topics_of

DIGEST = "import hashlib, trainer.assets.pydoc_pairs as p;"
DIGEST += "print(hashlib.sha256(repr([p.pairs('train'), p.pairs('eval')]).encode()).hexdigest())"


def sentences(split: str) -> set[str]:
    return {sentence for first, second, _ in pairs(split) for sentence in (first, second)}


def test_each_split_has_its_size_and_half_of_either_label() -> None:
    for split, size in NUM_PAIRS.items():
        assert Counter(label for *_, label in pairs(split)) == {0: size // 2, 1: size // 2}


def test_no_pair_occurs_twice() -> None:
    together = [pair[:2] for split in NUM_PAIRS for pair in pairs(split)]
    assert len(set(together)) == len(together)


def test_no_topic_and_no_sentence_is_in_both_splits() -> None:
    train, held_out = topics_of("train"), topics_of("eval")
    assert not set(train) & set(held_out)
    assert not sentences("train") & sentences("eval")
    assert sentences("eval") <= {sentence for topic in held_out.values() for sentence in topic}


def test_the_label_says_whether_both_come_from_one_topic() -> None:
    for split in NUM_PAIRS:
        topic = {sentence: name for name, texts in topics_of(split).items() for sentence in texts}
        for first, second, label in pairs(split):
            assert (topic[first] == topic[second]) == bool(label)


def test_a_single_sentence_does_not_give_the_label_away() -> None:
    for split in NUM_PAIRS:
        for side in (0, 1):
            by_label = [Counter(pair[side] for pair in pairs(split) if pair[2] == n) for n in (0, 1)]
            assert by_label[0] == by_label[1]


def test_the_order_does_not_give_the_label_away() -> None:
    labels = [label for *_, label in pairs("train")]
    runs = 1 + sum(a != b for a, b in pairwise(labels))
    assert abs(runs - len(labels) / 2) < 4 * len(labels) ** 0.5


def test_another_process_with_other_hashing_gives_the_same_pairs() -> None:
    here = hashlib.sha256(repr([pairs("train"), pairs("eval")]).encode()).hexdigest()
    for seed in ("1", "2"):
        finished = run_process([sys.executable, "-c", DIGEST], env={"PYTHONHASHSEED": seed})
        assert finished.out.strip() == here, finished.err


def test_abbreviations_do_not_end_a_sentence() -> None:
    text = "Use a tool, e.g. The Debugger, for this kind of work. It is described in another place."
    assert list(pydoc_pairs._sentences(text)) == [
        "Use a tool, e.g. The Debugger, for this kind of work",
        "It is described in another place",
    ]
