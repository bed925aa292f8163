"""Vocabularies before they are encoded: words that CLIP cannot tell apart, and prompts that are too long for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from san_cliptrase.class_lists import check_class_names, same_for_clip
from san_cliptrase.errors import DataError, OptionError


def split_synonyms(word: str) -> list[str]:
    """The names of a class: what stands between commas.

    Raises:
        OptionError: There is nothing but commas.
    """
    names = [name.strip() for name in word.split(",") if name.strip()]
    if not names:
        raise OptionError(f"the word {word!r} has no name between its commas")
    return names


def check_vocabulary(words: Sequence[str]) -> None:
    """Refuse a vocabulary that cannot name classes apart, before a model is there to encode it.

    Raises:
        OptionError: No word, an empty word, or words that are the same for CLIP; says which.
        TypeError: One string instead of a list, or something in it that is no string.
    """
    if isinstance(words, str):
        raise TypeError(f"the vocabulary must be a list of words, got one string: {words!r:.200}")
    if wrong := [word for word in words if not isinstance(word, str)]:
        raise TypeError(f"the vocabulary must be a list of words, got {wrong[0]!r:.200} among them")
    if not words:
        raise OptionError("the vocabulary is empty: name at least one class")
    try:
        check_class_names([word.strip() for word in words], "the vocabulary", "word")
    except DataError as error:
        raise OptionError(str(error)) from error


def kept_background(background: Sequence[str], words: Sequence[str]) -> list[str]:
    """Background words but those that are empty, repeated, or a class already for CLIP: they could never win."""
    seen = set(map(same_for_clip, words))
    kept = []
    for word in (word.strip() for word in background):
        if word and (same := same_for_clip(word)) not in seen:
            seen.add(same)
            kept.append(word)
    return kept


def cut_prompts(name: str, sentences: Sequence[str], tokenizer: Callable[..., Tensor]) -> bytes | None:
    """What a tokenizer makes of a name's prompts, if one of them is too long and its end is cut off.

    Args:
        name: A word, or one of its synonyms.
        sentences: Templates.
        tokenizer: open_clip's, which cuts without a word: (sentences, context length) -> (N, context length).

    Returns:
        Equal for names whose differences are cut off; None if all prompts are read whole.
    """
    longest = tokenizer.context_length
    # No token has less than one byte, and two mark the prompt's ends.
    if len(name.encode()) + max(len(sentence.encode()) for sentence in sentences) <= longest:
        return None
    prompts = [sentence.replace("{}", name) for sentence in sentences]
    tokens, more = tokenizer(prompts), tokenizer(prompts, longest + 1)
    if bool((more[:, :longest] == tokens).all()):
        return None
    return tokens.numpy().tobytes()
