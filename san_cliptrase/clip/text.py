"""From a vocabulary to text weights, with the frozen text tower of a CLIP."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from san_cliptrase.class_lists import same_for_clip
from san_cliptrase.clip.templates import load_templates
from san_cliptrase.clip.text_cache import TextCache
from san_cliptrase.clip.text_tower import encode_tokens, prompt_lengths
from san_cliptrase.clip.vocabulary import check_vocabulary, cut_prompts, kept_background, split_synonyms
from san_cliptrase.errors import OptionError

logger = logging.getLogger(__name__)

PROMPTS_PER_BATCH = 64
"""A batch runs at the length of its longest prompt; larger ones are no faster (``benchmarks/text.py``)."""

PROMPTS_AT_ONCE = 5120
"""Prompts that are sorted by length before they are cut into batches."""

PROGRESS_AFTER = 3.0
"""Seconds before a progress bar appears."""


class TextEncoder(nn.Module):
    """The frozen text tower of a CLIP as a zero-shot classifier over words.

    The weight of a word is the ensemble of Radford et al., 2021, sec. 3.1.4, with templates ``t``:
    ``normalize(mean_t normalize(encode(t(word))))``. With ``synonyms`` the mean is over the names ``s`` of a class too:
    ``normalize(mean_s mean_t normalize(encode(t(s))))``. It keeps one weight a class, which taking the best would not.

    Args:
        model: An open_clip model; only its text side is used, and it is frozen.
        tokenizer: The model's tokenizer: list of sentences -> (N, context_length).
        synonyms: Whether a word with commas ("sea, ocean") is several names of a class, or one name as it stands. The
            published numbers on ADE-847, where 217 names have commas, are of the latter.
        cache: A folder that keeps what was encoded for the next process; None: nothing is kept.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Callable[[list[str]], Tensor],
        synonyms: bool = False,
        cache: Path | None = None,
    ) -> None:
        super().__init__()
        self.cache = cache
        self._disk: TextCache | None = None
        self.model = model
        self.tokenizer = tokenizer
        self.synonyms = synonyms
        self._cache: dict[tuple[str, tuple[str, ...]], Tensor] = {}
        self._words: dict[tuple[str, ...], list[str]] = {}
        self._told: set[str] = set()
        self.requires_grad_(False).train()

    def train(self, mode: bool = True) -> TextEncoder:
        """Frozen: stays in evaluation mode whatever the mode asked for."""
        return super().train(False)

    @torch.no_grad()
    def forward(
        self, vocabulary: Sequence[str], templates: str | Sequence[str] = "imagenet", background: Sequence[str] = ()
    ) -> Tensor:
        """Text weights of a vocabulary; each word is encoded once per process and set of templates.

        A word whose prompts are longer than CLIP can read is encoded as far as they go, with a warning.

        Args:
            vocabulary: K class names. A name with commas ("sea, ocean") is one class; see ``synonyms`` of the class.
            templates: Name or sentences, see ``load_templates``.
            background: Words appended after the vocabulary, all of them meaning "none of these"; see
                ``kept_background``.

        Returns:
            (K + background words, E), rows of length 1.

        Raises:
            OptionError: The vocabulary is empty, has an empty word, or words that are the same for CLIP.
        """
        sentences = load_templates(templates)
        asked = (*vocabulary, "", *background, "", *sentences)  # a training asks the same in every iteration
        if asked not in self._words:
            self._words[asked] = self._checked(vocabulary, background, sentences)
        words = self._words[asked]
        missing = self._unknown(words, sentences)
        if missing and self.cache is not None:
            self._disk = self._disk or TextCache(self.cache, self.model)
            self._cache.update(
                {(word, sentences): row for word, row in self._disk.load(self._kept_as(sentences)).items()}
            )
            missing = self._unknown(words, sentences)
        try:
            self._encode_all(missing, sentences)
        finally:  # what was encoded before an interruption is kept too
            encoded = {word: self._cache[word, sentences] for word in missing if (word, sentences) in self._cache}
            if encoded and self._disk is not None:
                self._disk.save(self._kept_as(sentences), encoded)
        device = next(self.model.parameters()).device
        return torch.stack([self._cache[word, sentences].to(device) for word in words])

    def _checked(self, vocabulary: Sequence[str], background: Sequence[str], sentences: tuple[str, ...]) -> list[str]:
        """The words to encode: those that are the same for CLIP are refused, those that it cuts off are told."""
        check_vocabulary(vocabulary)
        classes = [word.strip() for word in vocabulary]
        words = classes + kept_background(background, classes)
        if background and words == classes:
            raise OptionError("no background word is left: each is empty, or a class already")
        places: dict[tuple[bytes, ...], int] = {}
        for place, word in enumerate(words, 1):
            names = split_synonyms(word) if self.synonyms else [word]
            cut = [cut_prompts(name, sentences, self.tokenizer) for name in names]
            if any(cut) and word not in self._told:
                self._told.add(word)
                logger.warning(
                    "CLIP reads %d tokens of a prompt: the end of %.200r is cut off",
                    self.tokenizer.context_length,
                    word,
                )
            # The mean over synonyms does not know their order.
            seen = tuple(sorted(left or same_for_clip(name).encode() for left, name in zip(cut, names, strict=True)))
            first = places.setdefault(seen, place)
            if first < place <= len(classes):
                why = "they differ where their ends are cut off" if any(cut) else "the order of synonyms makes none"
                raise OptionError(
                    f"the vocabulary has words without a difference for CLIP, {classes[first - 1]!r:.200} and "
                    f"{word!r:.200}, in words {first} and {place}: {why}; give each class a name of its own"
                )
        return words

    def _kept_as(self, sentences: tuple[str, ...]) -> tuple[str, ...]:
        """What tells weights on disk apart besides the model: a name with commas means something else as synonyms."""
        return (*sentences, "synonyms") if self.synonyms else sentences

    def _unknown(self, words: list[str], sentences: tuple[str, ...]) -> list[str]:
        return [word for word in words if (word, sentences) not in self._cache]

    def _encode_all(self, words: list[str], sentences: tuple[str, ...]) -> None:
        """Put the weights of words into the cache, some words at a time."""
        names = {word: split_synonyms(word) if self.synonyms else [word] for word in words}
        prompts = sum(map(len, names.values())) * len(sentences)
        step = max(1, PROMPTS_AT_ONCE // len(sentences))
        with tqdm(total=prompts, desc="text weights", unit="prompt", delay=PROGRESS_AFTER, leave=False) as progress:
            for start in range(0, len(words), step):
                part = words[start : start + step]
                self._encode(part, [names[word] for word in part], sentences, progress)

    def _encode(self, words: list[str], names: list[list[str]], sentences: tuple[str, ...], progress: tqdm) -> None:
        prompts = [sentence.replace("{}", name) for group in names for name in group for sentence in sentences]
        # The cache outlives the call: a training step under autocast must not leave half-precision weights in it.
        with torch.autocast(next(self.model.parameters()).device.type, enabled=False):
            embeddings = self._embed(prompts, progress)
            means = embeddings.unflatten(0, (-1, len(sentences))).mean(dim=1)
            if self.synonyms:
                means = torch.stack([group.mean(dim=0) for group in means.split([len(group) for group in names])])
            weights = F.normalize(means, dim=-1)
        self._cache.update({(word, sentences): row for word, row in zip(words, weights, strict=True)})

    def _embed(self, prompts: list[str], progress: tqdm) -> Tensor:
        """Embeddings of prompts, (P, E), rows of length 1: in batches of prompts of about the same length."""
        tokens = self.tokenizer(prompts).to(next(self.model.parameters()).device)
        lengths = prompt_lengths(self.model, tokens)
        order = torch.arange(len(tokens)) if lengths is None else lengths.argsort(stable=True)
        batches = []
        for batch in order.split(PROMPTS_PER_BATCH):
            batches.append(F.normalize(encode_tokens(self.model, tokens[batch]).float(), dim=-1))
            progress.update(len(batch))
        return torch.cat(batches)[order.argsort()]

    def _load_from_state_dict(self, *args: object, **kwargs: object) -> None:
        # Other weights give other embeddings.
        self._cache.clear()
        self._disk = None
        super()._load_from_state_dict(*args, **kwargs)
