"""The text tower of a CLIP, run at the prompts' own length where this changes nothing."""

from __future__ import annotations

import torch
from open_clip import CLIP, CustomTextCLIP
from open_clip.transformer import TextTransformer
from torch import Tensor, nn
from torch.func import functional_call


class _TextSide(nn.Module):
    """A model whose forward pass is its text side, which is what ``functional_call`` calls."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        return self.model.encode_text(tokens)


def encode_tokens(model: nn.Module, tokens: Tensor) -> Tensor:
    """``model.encode_text(tokens)``, without the padding behind the longest prompt where the model does not need it.

    open_clip adds all positions and masks all tokens whatever the length, so both are cut for the call.

    Args:
        model: An open_clip model.
        tokens: (N, context_length), padded.

    Returns:
        (N, E), not normalized.
    """
    lengths = prompt_lengths(model, tokens)
    if lengths is None:
        return model.encode_text(tokens)
    longest = int(lengths.max())
    tower, prefix = (model, "model.") if isinstance(model, CLIP) else (model.text, "model.text.")
    cut = {
        f"{prefix}positional_embedding": tower.positional_embedding[:longest],
        f"{prefix}attn_mask": tower.attn_mask[:longest, :longest],
    }
    return functional_call(_TextSide(model), cut, (tokens[:, :longest],))


def prompt_lengths(model: nn.Module, tokens: Tensor) -> Tensor | None:
    """How many tokens of each prompt can reach its embedding.

    In a causal tower a token sees itself and those before it, so that nothing behind the pooled one, which is the end
    token, matters.

    Args:
        model: An open_clip model.
        tokens: (N, context_length), padded.

    Returns:
        (N,); None where all tokens matter or where this is not known: another class of model (CoCa, a text tower of
        Hugging Face), no causal mask, a mask of the padding, a class token at the end, or another pooling.
    """
    if type(model) is CLIP:
        tower, pooling, end = model, model.text_pool_type, getattr(model, "text_eos_id", None)
    elif type(model) is CustomTextCLIP and type(model.text) is TextTransformer:
        tower, pooling, end = model.text, model.text.pool_type, getattr(model.text, "eos_id", None)
        if tower.cls_emb is not None or getattr(tower, "use_pad_mask", False) or tower.output_tokens:
            return None
    else:
        return None
    if not _is_causal(tower.attn_mask, tokens.shape[1]) or len(tower.positional_embedding) != tokens.shape[1]:
        return None
    if pooling == "argmax":  # the end token has the highest number
        return tokens.argmax(dim=-1) + 1
    if pooling == "eos" and end is not None:  # without an end token open_clip pools the first one
        return (tokens == end).int().argmax(dim=-1) + 1
    return None


def _is_causal(mask: Tensor | None, length: int) -> bool:
    """Whether an additive attention mask hides from every token of ``length`` those behind it."""
    if mask is None or mask.shape != (length, length):
        return False
    behind = torch.ones_like(mask, dtype=torch.bool).triu(1)
    return bool((mask[behind] == -torch.inf).all())
