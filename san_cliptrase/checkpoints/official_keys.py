"""Checkpoints in the format of the official SAN, and the names of this package: one table, read both ways.

The official code (github.com/MendelXu/SAN) splits CLIP in three: ``clip_visual_extractor`` holds the first blocks,
``clip_rec_head`` the last ones with what follows, ``ov_classifier`` the text tower and the learned background. Here
they become one ``FrozenClip`` at ``clip``, one ``MaskClassifier`` at ``classifier`` and, with the side adapter, one
``SideAdapterNetwork`` at ``network``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

POS_EMBED = "network.adapter.pos_embed"
CLASS_WEIGHTS, TEXT_MASK = "criterion.empty_weight", "ov_classifier.attn_mask"
# Recomputed at construction, so not part of a model here.
_BUFFERS = frozenset({CLASS_WEIGHTS, TEXT_MASK})
_SIDE, _DECODER, _OUR_DECODER = "side_adapter_network", "side_adapter_network.mask_decoder", "network.decoder"
_EXTRACTOR, _HEAD, _VISION = "clip_visual_extractor", "clip_rec_head", "clip.visual.vision"
_BLOCK = re.compile(rf"(?:{_EXTRACTOR}|{_HEAD})\.resblocks\.(\d+)\.")


@dataclass(frozen=True)
class _Row:
    """Keys ``official`` and ``ours`` plus a common rest; "#" stands for a number.

    Attributes:
        official: Beginning of the official key.
        ours: Beginning of ours; our number is ``step`` times the official one plus ``start``.
        step: Layer i of an MLP is entry 2i here: the activations between the layers count.
        start: Number of blocks that stand elsewhere in the official model.
        convolution: The weight is a 1x1 convolution there and a linear layer over tokens here.
    """

    official: str
    ours: str
    step: int = 1
    start: int = 0
    convolution: bool = False

    @cached_property
    def _patterns(self) -> tuple[re.Pattern[str], re.Pattern[str]]:
        return tuple(
            re.compile(re.escape(side).replace(r"\#", r"(\d+)") + "(.*)") for side in (self.official, self.ours)
        )

    def to_ours(self, key: str) -> str | None:
        """Our name of an official key, or None if it is not of this row."""
        if not (found := self._patterns[0].fullmatch(key)):
            return None
        *number, rest = found.groups()
        return self.ours.replace("#", str(int(number[0]) * self.step + self.start) if number else "#") + rest

    def to_official(self, key: str) -> str | None:
        """The official name of a key of ours, or None if it is not of this row."""
        if not (found := self._patterns[1].fullmatch(key)):
            return None
        *number, rest = found.groups()
        count, between = divmod(int(number[0]) - self.start, self.step) if number else (0, 0)
        return None if between or count < 0 else self.official.replace("#", str(count)) + rest


def _table(first: int) -> tuple[_Row, ...]:
    """The rows, the first that fits counts; ``first``: CLIP blocks before those of ``clip_rec_head``."""
    return (
        _Row(f"{_SIDE}.query_embed", "network.adapter.query_embed"),
        _Row(f"{_SIDE}.query_pos_embed", "network.adapter.query_pos_embed"),
        _Row(f"{_SIDE}.vit_model.pos_embed", POS_EMBED),
        _Row(f"{_SIDE}.vit_model.patch_embed.proj.", "network.adapter.patch_embed."),
        _Row(f"{_SIDE}.vit_model.blocks.#.", "network.adapter.blocks.#."),
        _Row(f"{_SIDE}.fusion_layers.layer_#.input_proj.0.", "network.adapter.fusion.#.norm."),
        _Row(f"{_SIDE}.fusion_layers.layer_#.input_proj.1.", "network.adapter.fusion.#.proj.", convolution=True),
        _Row(f"{_DECODER}.query_mlp.layers.#.", f"{_OUR_DECODER}.query_mlp.#.", step=2),
        _Row(f"{_DECODER}.pix_mlp.layers.#.", f"{_OUR_DECODER}.pixel_mlp.#.", step=2, convolution=True),
        _Row(f"{_DECODER}.attn_mlp.layers.#.", f"{_OUR_DECODER}.attn_mlp.#.", step=2, convolution=True),
        _Row(f"{_DECODER}.bias_scaling.", f"{_OUR_DECODER}.bias_scaling."),
        # Before the extractor's row, which would take these blocks too when ours are named.
        _Row(f"{_HEAD}.resblocks.#.", f"{_VISION}.transformer.resblocks.#.", start=first),
        _Row(f"{_EXTRACTOR}.resblocks.#.", f"{_VISION}.transformer.resblocks.#."),
        *(_Row(f"{_EXTRACTOR}.{name}", f"{_VISION}.{name}") for name in ("class_embedding", "positional_embedding")),
        *(_Row(f"{_EXTRACTOR}.{name}.", f"{_VISION}.{name}.") for name in ("conv1", "ln_pre")),
        _Row(f"{_HEAD}.ln_post.", f"{_VISION}.ln_post."),
        _Row(f"{_HEAD}.proj", f"{_VISION}.proj"),
        _Row("ov_classifier.bg_embed", "classifier.background"),
        _Row("ov_classifier.", "clip.text.model."),
    )


def is_official(keys: Iterable[str]) -> bool:
    """Whether a model's state was saved by the official SAN."""
    return any(key.startswith(f"{_SIDE}.") for key in keys)


def count_blocks(state: Mapping[str, object]) -> tuple[int, int]:
    """How many CLIP blocks an official state has in ``clip_visual_extractor`` and in ``clip_rec_head``."""
    counts = {_EXTRACTOR: 0, _HEAD: 0}
    for key in state:
        if found := _BLOCK.match(key):
            parent = key.partition(".")[0]
            counts[parent] = max(counts[parent], int(found[1]) + 1)
    return counts[_EXTRACTOR], counts[_HEAD]


def from_official(
    state: Mapping[str, Tensor], side_grid: tuple[int, int] | None = None, depth: int | None = None
) -> dict[str, Tensor]:
    """Convert the state of an official SAN model.

    Its 1x1 convolutions are linear layers over tokens here, so their weights lose the last two dimensions.

    Args:
        state: Official name -> tensor (the entry "model" of a released file).
        side_grid: Patch grid that the side adapter's positional embedding is wanted at; None: as saved.
        depth: Blocks of the whole CLIP. Where extractor and recognition head together hold more, the blocks that both
            hold are copies of each other. None: they hold none twice, as in the released files.

    Returns:
        Our name -> tensor, for a module with the parts ``clip``, ``network`` and ``classifier``.

    Raises:
        ValueError: A key does not belong to SAN, copies of one parameter differ, or the positional embedding is not
            square.
    """
    extracted, recognising = count_blocks(state)
    rows = _table(extracted if depth is None else min(extracted, depth - recognising))
    converted: dict[str, Tensor] = {}
    origin: dict[str, str] = {}
    for key, tensor in state.items():
        if key in _BUFFERS:
            continue
        row, name = _first_match(key, rows)
        value = tensor.flatten(1) if row.convolution and tensor.ndim == 4 else tensor
        if name in converted and not torch.equal(converted[name], value):
            raise ValueError(
                f"{origin[name]} and {key} are the same block of CLIP and differ, so it is not known which one is meant"
            )
        converted[name], origin[name] = value, key
    if side_grid is not None and POS_EMBED in converted:
        converted[POS_EMBED] = resize_pos_embed(converted[POS_EMBED], side_grid)
    return converted


def _first_match(key: str, rows: tuple[_Row, ...]) -> tuple[_Row, str]:
    for row in rows:
        if (name := row.to_ours(key)) is not None:
            return row, name
    raise ValueError(f"{key!r} is not a parameter of the official SAN: this is a checkpoint of another model")


def to_official(state: Mapping[str, Tensor], first_rec_block: int, class_weights: Tensor) -> dict[str, Tensor]:
    """Convert the state of our model to that of an official SAN: the inverse of :func:`from_official`.

    Args:
        state: Our name -> tensor.
        first_rec_block: Number of CLIP blocks before those that recognise.
        class_weights: (K+1,), the weights of the classes in the loss, "no object" last; a buffer there.

    Returns:
        Official name -> tensor, buffers included.

    Raises:
        ValueError: A parameter has no place in an official SAN.
    """
    rows, converted = _table(first_rec_block), {CLASS_WEIGHTS: class_weights}
    for key, tensor in state.items():
        match = next(((row, name) for row in rows if (name := row.to_official(key)) is not None), None)
        if match is None:
            raise ValueError(f"{key} has no place in the format of the official SAN")
        row, name = match
        converted[name] = tensor[..., None, None] if row.convolution and tensor.ndim == 2 else tensor
    positions = converted["ov_classifier.positional_embedding"]
    # A token does not see those after it.
    converted[TEXT_MASK] = positions.new_full((len(positions),) * 2, -torch.inf).triu(1)
    return converted


def resize_pos_embed(pos_embed: Tensor, grid: tuple[int, int]) -> Tensor:
    """Resample a positional embedding saved for a square grid, bicubically: (1, n*n, C) -> (1, h*w, C).

    Raises:
        ValueError: The saved grid is not square.
    """
    side = round(pos_embed.shape[1] ** 0.5)
    if side * side != pos_embed.shape[1]:
        raise ValueError(f"a positional embedding of {pos_embed.shape[1]} patches is for no square grid")
    if (side, side) == grid:
        return pos_embed
    maps = pos_embed.transpose(1, 2).unflatten(2, (side, side))
    maps = F.interpolate(maps.float(), size=grid, mode="bicubic", align_corners=False)
    return maps.flatten(2).transpose(1, 2).to(pos_embed.dtype)
