"""Attention rules by name: what a frozen CLIP block does with its own queries, keys and values.

A rule maps ``(q, k, v, bias)`` to the mixed values. ``q, k, v`` are (B, M, T, d); ``bias`` is added to the attention
logits, broadcastable to (B, M, T, T) with -inf at keys that must not be seen, or None. The rule returns (B, M, T, d).
In the equations below ``A(a, b) = softmax(a b^T / sqrt(d) + bias)``.

Rules for reading CLIP densely are spelled ``TERM+TERM...`` and parts that change the rest of the last block:

==================  ====================================================================================================
``qk``, ``qq`` ...  a term: two of q, k, v. ``qk`` is ``A(q, k) v``; several are summed, not averaged
``v``               a term: ``v``, every token keeps its own value
``polar``           a term: queries and rotated keys, see ``clip.polar.polar_attention``
``-residual``       without the tokens that entered the block: ``W_o mix`` in place of ``x + W_o mix``
``-mlp``            without the block's feed-forward part
``+neighbours``     the logits of every term get a window that favours near patches (``clip.dense.neighbour_window``)
``+cosine``         cosines in place of inner products: every vector is as long as the head's mean
``+truth``          a patch sees those of its own class in the ground truth alone: a control that needs label maps
``+rcs``            ``2 (0.7 terms + 0.3 R v)``, R the mean of earlier blocks' attention (``clip.dense.with_earlier``)
``+dualN``          a second path sums what the last N blocks give under the rule (``clip.dense.read_densely``)
``+surgery``        class scores without what all classes share (``cliptrase.voting.feature_surgery``)
==================  ====================================================================================================

The parts may stand in any order behind the first term, each at most once. A name of ``ATTENTION_RULES`` may stand in
the place of the first term: ``sclip-mlp`` is ``qq+kk-mlp``.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import operator
import re
from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from san_cliptrase.clip.polar import polar_attention
from san_cliptrase.errors import OptionError, suggest

AttentionRule = Callable[[Tensor, Tensor, Tensor, "Tensor | None"], Tensor]

TERMS = ("v", "polar", *map("".join, itertools.product("qkv", repeat=2)))
SWITCHES = {
    "-residual": ("residual", False),
    "-mlp": ("mlp", False),
    "+neighbours": ("neighbours", True),
    "+cosine": ("cosine", True),
    "+truth": ("truth", True),
    "+rcs": ("rcs", True),
    "+surgery": ("surgery", True),
}
# Switches that mean nothing without a term of softmax attention.
OF_SOFTMAX = ("neighbours", "cosine", "truth")


def softmax_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """``A(q, k) v``: CLIP as it was trained (Vaswani et al., "Attention is all you need", 2017, eq. 1)."""
    mask = None if bias is None else bias.to(q.dtype)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def equal_lengths(vectors: Tensor, bias: Tensor | None = None) -> Tensor:
    """Vectors (B, M, T, d) of the same directions, each as long as the mean over the tokens of its image and head.

    Attention of such vectors is ``softmax(s cos(a, b))`` with one scale ``s`` an image and head, that of the inner
    products which it replaces.

    Args:
        vectors: queries, keys or values.
        bias: of the attention logits; tokens that it hides from [CLS] are padding and do not count in the mean.

    Returns:
        (B, M, T, d); a vector of length zero, which has no direction, stays zero.
    """
    lengths = vectors.norm(dim=-1, keepdim=True)
    shown = torch.ones_like(lengths) if bias is None else bias[..., 0, :, None].isfinite().to(lengths)
    mean = (lengths * shown).sum(2, keepdim=True) / shown.expand_as(lengths).sum(2, keepdim=True)
    return vectors / lengths.clamp(min=torch.finfo(lengths.dtype).tiny) * mean


@dataclasses.dataclass(frozen=True)
class DenseRule:
    """How CLIP is read densely: an attention rule, and what becomes of its block. Made by :func:`attention_rule`.

    Attributes:
        terms: Names in ``TERMS``; their outputs are summed, so the rows of n softmax terms add up to n.
        residual: Keep the tokens that entered the block.
        mlp: Keep the block's feed-forward part.
        neighbours: Wants ``clip.dense.neighbour_window`` in its bias.
        cosine: Compare directions alone, see :func:`equal_lengths`.
        truth: Wants ``clip.dense.class_bias`` in its bias.
        rcs: Mixed with the attention of earlier blocks, see ``clip.dense.with_earlier``.
        dual: Number of blocks of the second path; 0: there is none, the rule holds in the last block.
        surgery: Wants ``cliptrase.voting.feature_surgery`` of its class scores.
    """

    terms: tuple[str, ...]
    residual: bool = True
    mlp: bool = True
    neighbours: bool = False
    cosine: bool = False
    truth: bool = False
    rcs: bool = False
    dual: int = 0
    surgery: bool = False

    @property
    def first(self) -> int:
        """The first of q, k, v that a term reads; those before it may be None."""
        return min(0 if term == "polar" else min(map("qkv".index, term)) for term in self.terms)

    def __call__(self, q: Tensor | None, k: Tensor | None, v: Tensor, bias: Tensor | None = None) -> Tensor:
        """The rule itself: (B, M, T, d)."""
        named = {name: vectors for name, vectors in zip("qkv", (q, k, v), strict=True) if vectors is not None}
        if self.cosine:
            named = {name: equal_lengths(vectors, bias) for name, vectors in named.items()}

        def mix(term: str) -> Tensor:
            if term == "v":
                return v
            if term == "polar":
                return polar_attention(named["q"], named["k"], v, bias)
            return softmax_attention(named[term[0]], named[term[1]], v, bias)

        return functools.reduce(operator.add, map(mix, self.terms))


# Zhou et al., "Extract free dense labels from CLIP", 2022, sec. 3.2; Wang et al., "SCLIP", 2024, eq. 4; Shao et al.,
# "CLIPtrase", 2024; Lan et al., "ClearCLIP", 2024; Hajimiri et al., "Pay attention to your neighbours", 2025; Li et
# al., "A closer look at the explainability of contrastive language-image pre-training", 2023; Yang et al., "ResCLIP",
# 2025, its cross-layer correlation alone; PEARL, arXiv 2603.21528, 2026, its attention alone.
ATTENTION_RULES = {
    "clip": DenseRule(("qk",)),
    "maskclip": DenseRule(("v",)),
    "sclip": DenseRule(("qq", "kk")),
    "cliptrase": DenseRule(("qq", "kk", "vv")),
    "clearclip": DenseRule(("qq",), residual=False, mlp=False),
    "naclip": DenseRule(("kk",), residual=False, mlp=False, neighbours=True),
    "clip_surgery": DenseRule(("vv",), mlp=False, dual=6, surgery=True),
    "resclip": DenseRule(("kk",), residual=False, mlp=False, neighbours=True, rcs=True),
    "pearl": DenseRule(("polar",), residual=False, mlp=False),
}


def attention_rule(text: str, names: Iterable[str] = ()) -> DenseRule:
    """The rule of a name or of a combination, spelled as at the top of this file.

    Args:
        text: What was asked for.
        names: That the message of an error lists in place of ``ATTENTION_RULES``.

    Raises:
        OptionError: A part is unknown, repeated or without effect; the message says which one, and what is known.
    """
    first, *parts = re.split(r"(?=[+-])", text)
    rule = ATTENTION_RULES.get(first) or DenseRule(())
    if not rule.terms:
        if first not in TERMS:
            names = sorted(names or ATTENTION_RULES)
            problem = f"it begins with {first!r}, which is neither a name ({', '.join(names)}) nor "
            known = (*names, *TERMS)
            raise _unknown(text, f"{problem}a term ({', '.join(TERMS)})", first, known)
        parts = [f"+{first}", *parts]
    for part in parts:
        changed = _with_part(rule, part, text)
        if changed == rule:
            raise _unknown(text, f"{part!r} repeats a part of it")
        rule = changed
    idle = [part for part, (key, _) in SWITCHES.items() if key in OF_SOFTMAX and getattr(rule, key)]
    if idle and rule.terms == ("v",):
        raise _unknown(text, f"{idle[0]!r} changes nothing where 'v' is the only term: there is no softmax")
    return rule


def _with_part(rule: DenseRule, part: str, text: str) -> DenseRule:
    """The rule with one more part, or equal to what it was if it has the part already."""
    if part in SWITCHES:
        return dataclasses.replace(rule, **dict([SWITCHES[part]]))
    if re.fullmatch(r"\+dual[1-9]\d?", part):
        return dataclasses.replace(rule, dual=rule.dual or int(part[5:]))
    if part[:1] == "+" and part[1:] in TERMS:
        return dataclasses.replace(rule, terms=tuple(dict.fromkeys((*rule.terms, part[1:]))))
    known = (*SWITCHES, "+dual6", *(f"+{term}" for term in TERMS))
    problem = f"{part!r} is none of {', '.join(SWITCHES)}, +dualN (N blocks) and + with a term ({', '.join(TERMS)})"
    raise _unknown(text, problem, part, known)


def _unknown(text: str, problem: str, part: str = "", known: Iterable[str] = ()) -> OptionError:
    hint = f"; {suggest(part, known)}" if known else ""
    return OptionError(f"unknown attention rule {text!r}: {problem}{hint}")
