"""``Segmenter``: three lines from an image and words to a segmentation."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelHubMixin, hf_hub_download
from torch import Tensor

from san_cliptrase.choices import DEFAULT_READING, READINGS, Reading
from san_cliptrase.class_lists import BACKGROUND, find_background
from san_cliptrase.clip.build import build_clip
from san_cliptrase.clip.text_cache import cache_folder
from san_cliptrase.clip.vocabulary import check_vocabulary
from san_cliptrase.cliptrase.classify import classify_parts
from san_cliptrase.cliptrase.reader import TrainingFreeReader
from san_cliptrase.cliptrase.voting import Background
from san_cliptrase.device import find_device
from san_cliptrase.errors import OptionError, suggest
from san_cliptrase.files import from_home, write_text_atomically
from san_cliptrase.images import load_image
from san_cliptrase.refine import refinement
from san_cliptrase.regions.build import ONE_IMAGE, build_region_source, check_source
from san_cliptrase.scoring import Scoring
from san_cliptrase.segmentation import Segmentation
from san_cliptrase.segmenter.method import Method
from san_cliptrase.segmenter.model_files import MODEL_FILE, load_san, write_model_file
from san_cliptrase.segmenter.stream import FailedImage, ReadImage, stream
from san_cliptrase.segmenter.trained_san import TrainedSan
from san_cliptrase.segmenter.training_free import TrainingFree

# CLIPtrase's positional embedding is resampled as in DINO's code.
INTERPOLATE_OFFSET = 0.1
LARGEST_SCALE = 8


class Segmenter(ModelHubMixin, library_name="san_cliptrase"):
    """Segments images by words, with a frozen CLIP alone or with a trained SAN.

    >>> segmenter = Segmenter.from_clip("ViT-B-16", "openai")
    >>> result = segmenter("photo.jpg", ["sky", "sea", "boat"])
    >>> result.save("out/photo")

    Made by :meth:`from_clip`, :meth:`from_san` or :meth:`from_pretrained`.

    Args:
        method: What turns images and text weights into label maps.
    """

    def __init__(self, method: Method) -> None:
        self.method = method

    @classmethod
    def from_clip(
        cls,
        model: str = "ViT-B-16",
        pretrained: str = "openai",
        *,
        reading: str = DEFAULT_READING,
        attention: str | None = None,
        classify: str | None = None,
        cls_layer: int = -6,
        regions: str = "cliptrase",
        regions_pretrained: str = "default",
        sam_model: str = "facebook/sam-vit-base",
        eps: float | None = None,
        min_samples: int | None = None,
        size: int | None = None,
        templates: str = "imagenet",
        synonyms: bool = False,
        refine: str | None = None,
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
        device: str = "auto",
        text_cache: str = "auto",
    ) -> Segmenter:
        """Segment without training, by a frozen CLIP alone.

        The default reading is CLIP Surgery's, with regions named by their own [CLS] tokens, refined by the image;
        ``reading="cliptrase"`` is CLIPtrase as published (Shao et al., ECCV 2024).

        Args:
            model: A ViT of open_clip with a [CLS] token, or "scenes_vit", the small model that is part of the package.
            pretrained: Its weights: a tag of open_clip, a file, or "scenes" for scenes_vit.
            reading: One of ``choices.READINGS``; says ``attention``, ``classify`` and ``refine`` where they are None.
            attention: How CLIP is read densely: a name or a combination, see ``clip.readings``.
            classify: What decides a region's class, see ``choices.CLASSIFY``; "cls+patches" averages two of them.
            cls_layer: ``cls``: the first block that a region's [CLS] token passes, counted from the end.
            regions: Where regions come from, see ``regions.build``.
            regions_pretrained: Weights of a timm model that finds regions: "default", a file, or "random".
            sam_model: Id or folder of a SAM that finds regions.
            eps: DBSCAN's radius; None: by the grid for ViT-B/16, else found in each image.
            min_samples: DBSCAN's core size; None: by the grid.
            size: Shorter side in pixels at which CLIP sees images; None: what it was trained at.
            templates: Prompt templates, see ``clip.templates``.
            synonyms: Whether a word with commas ("sea, ocean") is several names of one class.
            refine: Refinement of scores by the image's edges: "none", "pamr" or "laplacian", see ``refine``.
            scales: Sizes at which an image is seen, relative to ``size``; scores are averaged.
            flip: Whether its mirror image is seen too.
            device: "auto", "cpu", "cuda", ...
            text_cache: Folder that keeps the text weights of words; "auto": in the user's cache; "": nowhere.

        Raises:
            OptionError: A name or number does not exist or does not fit; the message lists what does.
            WeightsError: Weights cannot be fetched or do not fit.
        """
        check_source(regions, ONE_IMAGE)
        named = _reading(reading)
        attention, classify = attention or named.attention, classify or named.classify
        scoring = _scoring(refine or named.refine, scales, flip)
        clip = build_clip(model, pretrained, INTERPOLATE_OFFSET, synonyms=synonyms)
        clip.text.cache = cache_folder(text_cache)
        clip = clip.to(find_device(device)).eval()
        source = None
        if classify_parts(classify) != ("patches",):
            source = build_region_source(
                regions,
                clip.visual,
                eps=eps,
                min_samples=min_samples,
                pretrained=regions_pretrained,
                sam_model=sam_model,
            )
        reader = TrainingFreeReader(clip.visual, source, attention=attention, classify=classify, cls_layer=cls_layer)
        return cls(TrainingFree(clip, reader, templates, size, scoring))

    @classmethod
    def from_san(
        cls,
        path: str | Path,
        *,
        refine: str = "none",
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
        device: str = "auto",
        text_cache: str = "auto",
    ) -> Segmenter:
        """Segment with a trained SAN.

        Args:
            path: The folder of a run, whose configuration and last good checkpoint are read; or a file that
                :meth:`export` wrote, or the folder of :meth:`save_pretrained`.
            refine: See :meth:`from_clip`, and ``scales``, ``flip``.
            scales: Relative to the size at which ``evaluate`` shows images to it.
            flip: Whether the mirror image is seen too.
            device: "auto", "cpu", "cuda", ...
            text_cache: See :meth:`from_clip`.

        Raises:
            OptionError: A name or number does not exist or does not fit; the message lists what does.
            ConfigError: There is no such run, or its configuration cannot be used.
            CheckpointError: It has no checkpoint that can be used, or the file is none.
        """
        scoring = _scoring(refine, scales, flip)
        found = load_san(from_home(path))
        found.model.clip.text.cache = cache_folder(text_cache)
        model = found.model.to(find_device(device)).eval()
        return cls(TrainedSan(model, found.shorter, found.longest, found.config, scoring))

    @torch.no_grad()
    def __call__(self, image: Any, words: Sequence[str], background: Sequence[str] = ()) -> Segmentation:
        """Segment one image.

        Args:
            image: A path, a PIL image, an (H, W, 3) uint8 array or a (3, H, W) uint8 tensor, RGB; see ``load_image``.
            words: Names of the classes.
            background: Words that together stand for one more class, "background".

        Returns:
            At the image's own size.

        Raises:
            TypeError, ValueError: The image or the words cannot be used; the message says what is wanted.
        """
        vocabulary = self._vocabulary(words, background)
        return self._segment([self._read(image)], *vocabulary)[0]

    def stream(
        self, images: Iterable[Any], words: Sequence[str], batch_size: int = 8, background: Sequence[str] = ()
    ) -> Iterator[Segmentation | FailedImage]:
        """Segment many images: files are read on threads while a batch is computed; memory does not grow.

        Args:
            images: Any number of them, of the kinds that :meth:`__call__` takes.
            words: See :meth:`__call__`, and ``background``.
            batch_size: Images that are computed together; large ones are computed alone.

        Yields:
            In the order of the images a ``Segmentation``, or a ``FailedImage`` where one cannot be used.

        Raises:
            TypeError, ValueError: The words cannot be used, or ``batch_size`` is less than 1.
        """
        if batch_size < 1:
            raise OptionError(f"batch_size is {batch_size}; it counts images, so it must be 1 or more")
        vocabulary = self._vocabulary(words, background)
        return stream(images, self._read, lambda batch: self._segment(batch, *vocabulary), batch_size)

    def export(self, path: str | Path) -> Path:
        """Write a trained SAN as one file that :meth:`from_san` loads: weights of CLIP and SAN, and configuration.

        Raises:
            OptionError: This segmenter has nothing that was trained.
            OutputError: The file cannot be written.
        """
        if not isinstance(self.method, TrainedSan):
            raise OptionError("there is nothing to export: a training-free segmenter is its CLIP; see from_clip")
        return write_model_file(from_home(path), self.method.model, self.method.config)

    def export_onnx(self, path: str | Path, words: Sequence[str], background: Sequence[str] = ()) -> Path:
        """Write the segmenter with fixed words as an ONNX file for images of any size.

        Input ``image``: (1, 3, H, W) uint8 RGB, resized as this segmenter sees it. Output ``scores``: (1, K, H, W),
        probabilities of the classes. See ``segmenter.onnx_export``.

        Args:
            path: The file; ".onnx" is added where it has no ending.
            words: See :meth:`__call__`, and ``background``.

        Raises:
            OptionError: It cannot be written as a graph of ONNX, because of regions for example; the message says why.
                Or the packages are not installed: ``pip install 'san_cliptrase[onnx]'``.
            OutputError: The file cannot be written.
        """
        from san_cliptrase.segmenter.onnx_export import export_onnx

        names, text, rest = self._vocabulary(words, background)
        return export_onnx(self.method, names, text, rest, from_home(path))

    def _save_pretrained(self, save_directory: Path) -> None:
        self.export(save_directory / MODEL_FILE)
        # For people who look at the folder or at its page on the hub; the model file holds it too.
        write_text_atomically(save_directory / "config.json", json.dumps(self.method.config, indent=2) + "\n")

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        **options: Any,
    ) -> Segmenter:
        if Path(model_id).is_dir():
            file = Path(model_id) / MODEL_FILE
        else:
            file = hf_hub_download(
                model_id,
                MODEL_FILE,
                revision=revision,
                cache_dir=cache_dir,
                force_download=force_download,
                local_files_only=local_files_only,
                token=token,
            )
        return cls.from_san(file, **options)

    def _vocabulary(
        self, words: Sequence[str], background: Sequence[str]
    ) -> tuple[tuple[str, ...], Tensor, Background | None]:
        """Names of the classes, their text weights, and what scores over both kinds of words become."""
        check_vocabulary(words)
        if isinstance(background, str):
            raise TypeError(f"background must be a list of words, got one string: {background!r}")
        names, clip = tuple(word.strip() for word in words), self.method.clip
        if background and find_background(names) is not None:
            raise OptionError(
                f"{BACKGROUND!r} is a word and what the background words stand for: leave one of them out"
            )
        text = clip.text(names, self.method.templates, background)
        if not background:
            return names, text, None
        return (*names, BACKGROUND), text, Background(len(names))

    def _read(self, image: Any) -> ReadImage:
        pixels = load_image(image)
        return ReadImage(pixels, self.method.see(pixels), image if isinstance(image, (str, os.PathLike)) else None)

    def _segment(
        self, images: Sequence[ReadImage], names: tuple[str, ...], text: Tensor, background: Background | None
    ) -> list[Segmentation]:
        seen, sizes = [image.seen for image in images], [image.pixels.shape[:2] for image in images]
        plain = self.method.scoring.is_plain
        small = [index for index, image in enumerate(seen) if plain and not self.method.is_large(image)]
        labels: dict[int, Tensor] = {}
        if small:
            found = self.method.segment([seen[i] for i in small], text, background, [sizes[i] for i in small])
            labels.update(zip(small, found, strict=True))
        for index in set(range(len(seen))) - set(small):
            labels[index] = self.method.segment_strips(seen[index], text, background, sizes[index])

        def result(index: int) -> Segmentation:
            image, size = seen[index], sizes[index]
            return Segmentation(
                images[index].pixels,
                labels[index].cpu().numpy(),
                names,
                compute_scores=lambda: self.method.probabilities(image, text, background, size).cpu().numpy(),
                compute_regions=lambda: self._regions(image).cpu().numpy(),
                source=images[index].source,
            )

        return [result(index) for index in range(len(seen))]

    def _regions(self, image: Tensor) -> Tensor:
        if self.method.is_large(image):
            raise OptionError(
                "this image was segmented in windows, which have regions of their own: use a smaller size"
            )
        return self.method.regions(image).float()


def _reading(name: str) -> Reading:
    """A reading by its name.

    Raises:
        OptionError: There is none; the message lists what there is.
    """
    if name not in READINGS:
        raise OptionError(f"unknown reading {name!r}; {suggest(name, READINGS)}")
    return READINGS[name]


def _scoring(refine: str, scales: Sequence[float], flip: bool) -> Scoring:
    """Test-time augmentation and refinement by their options.

    Raises:
        OptionError: There is no such refinement, or a scale is none.
    """
    if isinstance(scales, str) or not scales or not all(0 < scale <= LARGEST_SCALE for scale in scales):
        raise OptionError(
            f"scales is {scales!r}; numbers above 0, at most {LARGEST_SCALE}, are wanted, such as (1, 1.5)"
        )
    return Scoring(tuple(map(float, scales)), flip, refine=refinement(refine))
