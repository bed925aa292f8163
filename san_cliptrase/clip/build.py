"""The one place where a CLIP is built: any open_clip model, or the small one shipped with this package."""

from __future__ import annotations

import difflib
import functools
import logging
import textwrap
from collections.abc import Callable, Iterable
from pathlib import Path

import open_clip
from open_clip.pretrained import get_pretrained_cfg
from open_clip.transformer import QuickGELU
from torch import Tensor, nn

from san_cliptrase.clip.openai_files import read_openai_file
from san_cliptrase.clip.text import TextEncoder
from san_cliptrase.clip.visual import ClipVisualEncoder
from san_cliptrase.errors import OptionError, WeightsError

logger = logging.getLogger(__name__)

SHIPPED_MODELS = Path(__file__).parent / "models"
# (model, tag) -> weights file, next to the JSON configs that open_clip reads from the same folder.
SHIPPED_WEIGHTS = {("scenes_vit", "scenes"): SHIPPED_MODELS / "scenes_vit.safetensors"}

__all__ = ["FrozenClip", "build_clip", "register_shipped_models"]


class FrozenClip(nn.Module):
    """Both frozen towers of a CLIP and the numbers that belong to them.

    Takes the model apart: afterwards ``model.visual`` is empty and its tower belongs to ``visual``.

    Args:
        model: An open_clip model.
        tokenizer: Its tokenizer.
        interpolate_offset: See ``ClipVisualEncoder``.
        trainable: See ``ClipVisualEncoder``.
        synonyms: See ``TextEncoder``.
        name: Which CLIP it is.
        pretrained: Where its weights come from; "" if they are random.

    Attributes:
        quick_gelu: Whether its activation is QuickGELU, as in OpenAI's models.
        visual: The image tower.
        text: The text tower.
        mean: Mean of the normalisation, RGB, for pixels in [0, 1].
        std: Standard deviation of the normalisation, RGB, for pixels in [0, 1].
        image_size: (height, width) that the model was trained at, in pixels.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Callable[[list[str]], Tensor],
        interpolate_offset: float = 0.0,
        trainable: Iterable[str] = (),
        synonyms: bool = False,
        name: str = "",
        pretrained: str = "",
    ) -> None:
        super().__init__()
        self.name, self.pretrained = name, pretrained
        self.quick_gelu = any(isinstance(module, QuickGELU) for module in model.modules())
        vision, model.visual = model.visual, nn.Identity()
        self.visual = ClipVisualEncoder(vision, interpolate_offset, trainable)
        self.text = TextEncoder(model, tokenizer, synonyms)
        self.mean: tuple[float, ...] = tuple(getattr(vision, "image_mean", None) or open_clip.OPENAI_DATASET_MEAN)
        self.std: tuple[float, ...] = tuple(getattr(vision, "image_std", None) or open_clip.OPENAI_DATASET_STD)
        self.image_size: tuple[int, int] = tuple(vision.image_size)

    @property
    def logit_scale(self) -> Tensor:
        """The learned inverse temperature, (), already exponentiated."""
        return self.text.model.logit_scale.exp()

    def normalize(self, images: Tensor) -> Tensor:
        """Normalise pixels, (..., 3, H, W) in [0, 1], as the model expects them."""
        mean, std = (images.new_tensor(values)[:, None, None] for values in (self.mean, self.std))
        return (images - mean) / std


def build_clip(
    name: str,
    pretrained: str | None,
    interpolate_offset: float = 0.0,
    trainable: Iterable[str] = (),
    synonyms: bool = False,
) -> FrozenClip:
    """Build a frozen CLIP.

    Args:
        name: A model name of open_clip ("ViT-B-16"), "scenes_vit" (shipped here), "hf-hub:org/repo" or
            "local-dir:/folder".
        pretrained: A tag of open_clip ("openai"), "scenes" (shipped here), or the path of a weights file of open_clip
            or OpenAI. None or "": random weights (with "hf-hub:" and "local-dir:", the weights found there). Tags and
            OpenAI's own files bring QuickGELU with them. A file in open_clip's format does not say whether its weights
            need it: if so, name the model that ends in "-quickgelu".
        interpolate_offset: See ``ClipVisualEncoder``.
        trainable: See ``ClipVisualEncoder``.
        synonyms: See ``TextEncoder``.

    Raises:
        ValueError: Unknown model or tag (the message names close matches), or an image tower that is not supported.
        WeightsError: The weights cannot be fetched or do not fit the model.
    """
    register_shipped_models()
    name = name if ":" in name else name.replace("/", "-")
    from_folder = name.startswith(("hf-hub:", "local-dir:"))
    weights = None if from_folder else _find_weights(name, pretrained or None)
    if not from_folder and weights is None:
        logger.warning("CLIP %s gets random weights: no pretrained weights were asked for", name)
    try:
        model = _create_model(name, weights, from_folder)
        tokenizer = open_clip.get_tokenizer(name)
    except WeightsError:
        raise
    except Exception as error:  # open_clip, huggingface_hub, torch and safetensors share no narrower base
        # torch names every parameter that does not fit
        reason = textwrap.shorten(str(error), 400).rstrip(".")
        raise WeightsError(
            f"CLIP {name} with weights {pretrained!r} could not be loaded: {reason}. Is a file whole, and of this "
            "model? Without a network, give the path of a downloaded weights file instead of a tag, or use the small "
            "CLIP shipped here: model scenes_vit with weights scenes"
        ) from error
    source = name if from_folder else pretrained or ""
    return FrozenClip(model, tokenizer, interpolate_offset, trainable, synonyms, name, source)


@functools.cache
def register_shipped_models() -> None:
    """Make the model configs in this package known to open_clip, once."""
    open_clip.add_model_config(SHIPPED_MODELS)


def _create_model(name: str, weights: str | None, from_folder: bool) -> nn.Module:
    """An open_clip model with its weights, and with the activation that they were trained with as far as is known."""
    # The weights of some tags, "openai" above all, were trained with QuickGELU, which the plain config does not have.
    tag = {} if from_folder else get_pretrained_cfg(name, weights or "")
    if weights and not tag and (openai := read_openai_file(Path(weights), name)) is not None:
        # Their mean and std are those that FrozenClip takes where a model has none.
        model = open_clip.CLIP(**{**open_clip.get_model_config(name), "quick_gelu": True})
        model.load_state_dict(openai)
        return model
    return open_clip.create_model(
        name,
        weights,
        force_quick_gelu=bool(tag.get("quick_gelu")),
        require_pretrained=from_folder or weights is not None,
    )


def _find_weights(name: str, pretrained: str | None) -> str | None:
    """What to pass to open_clip as ``pretrained``: a path or a tag that exist, or None."""
    models = open_clip.list_models()
    if name not in models:
        raise OptionError(f"unknown CLIP model {name!r}; {_suggest(name, models)}")
    if pretrained is None:
        return None
    if shipped := SHIPPED_WEIGHTS.get((name, pretrained)):
        return str(shipped)
    tags = open_clip.list_pretrained_tags_by_model(name) + [tag for model, tag in SHIPPED_WEIGHTS if model == name]
    if get_pretrained_cfg(name, pretrained) or Path(pretrained).is_file():
        return pretrained
    if Path(pretrained).is_dir():
        raise OptionError(f"{pretrained!r} is a folder, no weights file: name it as the model, local-dir:{pretrained}")
    raise OptionError(
        f"CLIP model {name!r} has no pretrained tag {pretrained!r}, and there is no file of that name; "
        f"{_suggest(pretrained, tags)}"
    )


def _suggest(given: str, known: list[str]) -> str:
    close = difflib.get_close_matches(given, known, n=5, cutoff=0.5)
    return f"did you mean: {', '.join(close)}?" if close else f"known are: {', '.join(sorted(known))}"
