"""The one place where a CLIP is built: any open_clip model, or the small one shipped with this package."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import open_clip
from open_clip.pretrained import download_pretrained_from_hf, get_pretrained_cfg
from open_clip.transformer import QuickGELU
from torch import Tensor, nn

from san_cliptrase.clip.hub import without_retries
from san_cliptrase.clip.openai_files import read_openai_file
from san_cliptrase.clip.probe import refuse_useless_clip
from san_cliptrase.clip.support import reject_unsupported_config
from san_cliptrase.clip.text import TextEncoder
from san_cliptrase.clip.visual import ClipVisualEncoder
from san_cliptrase.errors import OptionError, WeightsError, suggest
from san_cliptrase.files import check_regular_files
from san_cliptrase.texts import reason
from san_cliptrase.weights_files import (
    describe_wrong_file,
    is_torchscript,
    names_with_kinds,
    refuse_not_finite,
    refuse_whole_numbers,
)

logger = logging.getLogger(__name__)

SHIPPED_MODELS = Path(__file__).parent / "models"
# (model, tag) -> weights file, next to the JSON configs that open_clip reads from the same folder.
SHIPPED_WEIGHTS = {("scenes_vit", "scenes"): SHIPPED_MODELS / "scenes_vit.safetensors"}

_OR_SHIPPED = "or use the small CLIP shipped here: model scenes_vit with weights scenes"
_FILL_CACHE = f"Build it once where there is a network, which keeps its files in the cache, {_OR_SHIPPED}"
_NAME_FILE = f"Without a network, give the path of a downloaded weights file instead of a tag, {_OR_SHIPPED}"
_MAKE_FOLDER = "A folder of open_clip has open_clip_config.json and a weights file in it"
_CHECK_FILE = "Check that the weights file is whole, and of this model"

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
        OptionError: Unknown model or tag (the message names close matches), or an image tower that is not supported.
        WeightsError: The weights cannot be fetched, are not finite, do not fit the model, or give one class everywhere.
    """
    register_shipped_models()
    name = name if ":" in name else name.replace("/", "-")
    from_folder = name.startswith(("hf-hub:", "local-dir:"))
    weights = None if from_folder else _find_weights(name, pretrained or None)
    if not from_folder and weights is None:
        logger.warning("CLIP %s gets random weights: no pretrained weights were asked for", name)
    config = None if name.startswith("hf-hub:") else _read_config(name, None)
    with without_retries() if _needs_hub(name, weights, config) else contextlib.nullcontext() as trouble:
        if config is None:
            config = _read_config(name, trouble)
        with _telling(f"CLIP {name}: its tokenizer", _FILL_CACHE, trouble):
            tokenizer = open_clip.get_tokenizer(name)
        tag = f" {pretrained!r}" if weights else ""
        with _telling(f"CLIP {name}: its weights{tag}", _NAME_FILE, trouble):
            files = _fetch_weights(name, weights)
        with _telling(f"CLIP {name} with weights{tag}" if tag else f"CLIP {name}", _CHECK_FILE):
            model = _create_model(name, weights, from_folder)
    source = name if from_folder else pretrained or ""
    if source:
        state = model.state_dict()
        for file in files:
            refuse_whole_numbers(names_with_kinds(file), state, source)
        refuse_not_finite(state, source)
    clip = FrozenClip(model, tokenizer, interpolate_offset, trainable, synonyms, name, source)
    if source:
        refuse_useless_clip(clip, source)
    return clip


@contextlib.contextmanager
def _telling(what: str, advice: str, trouble: str | None = None) -> Iterator[None]:
    """Turn what goes wrong in this context into a ``WeightsError`` of one line.

    Args:
        what: What is being loaded.
        advice: What to do if that fails.
        trouble: Why the hub cannot be reached, if so.
    """
    try:
        yield
    except WeightsError:
        raise
    except ImportError as error:
        raise WeightsError(
            f"{what} could not be loaded: {reason(error, 400)}. Install the package {error.name}"
        ) from error
    except Exception as error:  # open_clip, huggingface_hub, torch and safetensors share no narrower base
        # Shortened: torch names every parameter that does not fit.
        raise WeightsError(f"{what} could not be loaded: {trouble or reason(error, 400)}. {advice}") from error


def _read_config(name: str, trouble: str | None) -> dict[str, Any]:
    """The model's configuration, of a tower that is supported."""
    advice = _FILL_CACHE if name.startswith("hf-hub:") else _MAKE_FOLDER
    with _telling(f"CLIP {name}: its configuration", advice, trouble):
        if name.startswith("local-dir:"):
            check_regular_files(name.removeprefix("local-dir:"))
        config = open_clip.get_model_config(name)
        if not {"vision_cfg", "text_cfg"} <= set(config):
            raise OptionError("it has no vision_cfg or no text_cfg")
    reject_unsupported_config(config)
    return config


def _needs_hub(name: str, weights: str | None, config: Mapping[str, Any] | None) -> bool:
    """Whether something is fetched, or looked for in the hub's cache."""
    if config is None or get_pretrained_cfg(name, weights or ""):
        return True
    text = config["text_cfg"]
    return bool(text.get("hf_model_name") or (text.get("hf_tokenizer_name") and not name.startswith("local-dir:")))


def _fetch_weights(name: str, weights: str | None) -> list[Path]:
    """Have the weights on disk, so that open_clip finds them; it logs a failure as well as raising it.

    Returns:
        Files of which one is read, but for TorchScript archives, of which nobody but OpenAI's are read.

    Raises:
        WeightsError: What was found is no weights file.
    """
    folder = name.removeprefix("local-dir:")
    if tag := get_pretrained_cfg(name, weights or ""):
        files = [Path(open_clip.download_pretrained(tag))]
    elif name.startswith("hf-hub:"):
        files = [Path(download_pretrained_from_hf(name.removeprefix("hf-hub:")))]
    elif folder != name:
        files = sorted(path for path in Path(folder).iterdir() if path.suffix in (".safetensors", ".bin", ".pth"))
    else:
        files = [Path(weights)] if weights else []
    wrong = [(path, problem) for path in files if (problem := describe_wrong_file(path))]
    if wrong and len(wrong) == len(files):
        raise WeightsError(f"{str(wrong[0][0])!r} {wrong[0][1]}")
    unusable = {path for path, _ in wrong}
    return [path for path in files if path not in unusable and not is_torchscript(path)]


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
        raise OptionError(f"unknown CLIP model {name!r}; {suggest(name, models)}")
    if pretrained is None:
        return None
    if shipped := SHIPPED_WEIGHTS.get((name, pretrained)):
        return str(shipped)
    tags = open_clip.list_pretrained_tags_by_model(name) + [tag for model, tag in SHIPPED_WEIGHTS if model == name]
    path = Path(pretrained)
    if get_pretrained_cfg(name, pretrained) or path.is_file():
        return pretrained
    if path.is_dir():
        raise OptionError(f"{pretrained!r} is a folder, no weights file: name it as the model, local-dir:{pretrained}")
    if path.exists():
        raise WeightsError(f"{pretrained!r} {describe_wrong_file(path)}")
    raise OptionError(
        f"CLIP model {name!r} has no pretrained tag {pretrained!r}, and there is no file of that name; "
        f"{suggest(pretrained, tags)}"
    )
