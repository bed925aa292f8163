"""Labels from words against a loop over pixels that does what the papers' code does, step by step."""

from dataclasses import replace

import pytest
import torch

from san_cliptrase.cliptrase.class_words import ClassWords, decide_by_words
from san_cliptrase.protocols import WINDOW_PROTOCOLS

GROUPS = [["person", "man", "body"], ["bed"], ["boat", "ship"], ["sky", "bed", "wall"]]
BACKGROUND = 3
SIZE = (30, 26)
RULES = sorted(
    {rules for protocol in WINDOW_PROTOCOLS.values() for rules in protocol.values()},
    key=str,
)


def cosines(words, seed, spread=0.03):
    """Smooth cosines (W, 12, 10) of the size that CLIP's have; the same word has the same."""
    drawn = torch.randn(len(words.words), 4, 4, generator=torch.Generator().manual_seed(seed))
    maps = torch.nn.functional.interpolate(drawn[None], (12, 10), mode="bilinear")[0] * spread + 0.2
    return torch.stack([maps[words.words.index(word)] for word in words.words])


def reference(scores, groups, rules):
    """The background is class 0 and its words come first, as in the authors' lists."""
    scores = torch.nn.functional.interpolate(scores[None], SIZE, mode="bilinear")[0]
    order = [BACKGROUND, *range(BACKGROUND)]
    owner = [position for position, index in enumerate(order) for _ in groups[index]]
    found = torch.zeros(SIZE, dtype=torch.long)
    probable = torch.zeros(len(order), *SIZE)
    for y in range(SIZE[0]):
        for x in range(SIZE[1]):
            exponents = (rules.scale * scores[:, y, x]).exp()
            for word, value in enumerate(exponents / exponents.sum()):
                probable[owner[word], y, x] = max(probable[owner[word], y, x], value)
    if rules.share:
        winners = [int(probable[:, y, x].argmax()) for y in range(SIZE[0]) for x in range(SIZE[1])]
        foreground = sum(winner > 0 for winner in winners)
        for position in range(1, len(order)):
            if not winners.count(position) > rules.share * foreground:
                probable[position] = 0
    for y in range(SIZE[0]):
        for x in range(SIZE[1]):
            best = int(probable[:, y, x].argmax())
            found[y, x] = order[0 if probable[best, y, x] < rules.probability else best]
    return found


@pytest.mark.parametrize("rules", RULES, ids=str)
@pytest.mark.parametrize("seed", range(2))
def test_labels_are_those_of_the_published_decision(rules, seed):
    words = ClassWords.of(GROUPS, BACKGROUND)
    scores = cosines(words, seed)
    found = decide_by_words(scores, words, SIZE, rules)
    assert torch.equal(found, reference(scores, GROUPS, rules))


@pytest.mark.parametrize(("probability", "share"), [(0.35, 0.0), (0.0, 0.45), (0.25, 0.45)])
def test_thresholds_change_labels_in_the_published_order(probability, share):
    words, rules = ClassWords.of(GROUPS, BACKGROUND), RULES[0]
    scores = cosines(words, 5)
    strict = replace(rules, probability=probability, share=share)
    found = decide_by_words(scores, words, SIZE, strict)
    assert torch.equal(found, reference(scores, GROUPS, strict))
    assert not torch.equal(found, decide_by_words(scores, words, SIZE, rules)), "the thresholds do something here"


def test_a_word_of_background_and_class_is_background_as_it_is_in_coco_objects_list():
    words = ClassWords.of(GROUPS, BACKGROUND)
    scores = torch.full((len(words.words), 2, 2), 0.1)
    for place, word in enumerate(words.words):
        scores[place] = 0.3 if word == "bed" else 0.1
    assert (decide_by_words(scores, words, (2, 2), RULES[0]) == BACKGROUND).all()


def test_large_vocabularies_are_decided_in_parts(monkeypatch):
    words, rules = ClassWords.of(GROUPS, BACKGROUND), RULES[-1]
    whole = decide_by_words(cosines(words, 1), words, SIZE, rules)
    monkeypatch.setattr("san_cliptrase.cliptrase.class_words.CLASSES_AT_ONCE", 2)
    assert torch.equal(decide_by_words(cosines(words, 1), words, SIZE, rules), whole)


def test_without_a_background_the_most_probable_class_is_taken():
    words = ClassWords.of(GROUPS[:3])
    scores = cosines(words, 2)
    found = decide_by_words(scores, words, (12, 10), RULES[0])
    by_class = torch.stack([scores[[i for i, k in enumerate(words.classes) if k == c]].amax(0) for c in range(3)])
    assert torch.equal(found, by_class.argmax(0))
