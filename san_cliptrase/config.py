"""Every configuration key: its default, what it may be, what it means, and when to turn it. One table, checked as a whole.

``docs/configuration.md`` is made of this table by ``python tools/configuration_page.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from fvcore.common.config import CfgNode

from san_cliptrase.choices import CLASSIFY, CORRELATIONS, QUERY_INITS, REFINEMENTS, TEMPLATES
from san_cliptrase.errors import ConfigError
from san_cliptrase.protocols import BACKGROUNDS, PROTOCOLS

LARGEST = 2**63 - 1
"""What torch and numpy take for a whole number."""
LARGEST_SEED = 2**32 - 1
"""numpy's generators take no more."""
LONGEST_SIDE = 2**16
"""Pixels of an image's side that anybody can mean."""


@dataclass(frozen=True)
class Rule:
    """What a value may be.

    Attributes:
        about: in words, after "must be".
        holds: whether a value of the default's type is one.
    """

    about: str
    holds: Callable[[Any], bool]


@dataclass(frozen=True)
class Key:
    """A configuration key.

    Attributes:
        name: with dots.
        default: None: detectron2's own.
        rule: what its value may be.
        about: what it means.
        turn: when to turn it.
    """

    name: str
    default: Any
    rule: Rule
    about: str
    turn: str


def whole(low: int, high: float = math.inf) -> Rule:
    """A whole number from ``low`` to ``high``, of 64 bits."""
    about = f"a whole number, {low} or more" if high == math.inf else f"a whole number from {low} to {high:.0f}"
    return Rule(about, lambda value: type(value) is int and low <= value <= min(high, LARGEST))


def real(low: float, high: float = math.inf, above: bool = False) -> Rule:
    """A finite number from ``low`` (or above it) to ``high``."""
    about = f"a number {'above' if above else 'from'} {low:g}" + ("" if high == math.inf else f" to {high:g}")

    def holds(value: Any) -> bool:
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and -math.inf < value < math.inf
        return number and (low < value if above else low <= value) and value <= high

    return Rule(about + (" on" if high == math.inf and not above else ""), holds)


def one_of(names: Iterable[str]) -> Rule:
    """One of these names."""
    known = tuple(names)
    return Rule(f"one of: {', '.join(known)}", lambda value: value in known)


def sum_of(names: Iterable[str]) -> Rule:
    """One of these names, or several with + between."""
    known = tuple(names)
    about = f"one of: {', '.join(known)}; or several with + between"
    return Rule(about, lambda value: isinstance(value, str) and {*value.split("+")} <= {*known})


def listed(rule: Rule, least: int = 0, most: float = math.inf) -> Rule:
    """A list of values that fit a rule."""
    count = {(0, math.inf): "a list", (1, math.inf): "a list of one or more", (0, 1): "a list of at most one"}.get(
        (least, most), f"a list of {least}"
    )

    def holds(value: Any) -> bool:
        return isinstance(value, (list, tuple)) and least <= len(value) <= most and all(map(rule.holds, value))

    return Rule(f"{count}, each {rule.about}", holds)


def either(first: Rule, second: Rule) -> Rule:
    """A value that fits one of two rules."""
    return Rule(f"{first.about}; or {second.about}", lambda value: first.holds(value) or second.holds(value))


BOOL = Rule("True or False", lambda value: isinstance(value, bool))
TEXT = Rule("text", lambda value: isinstance(value, str) and "\0" not in value)
NAME = Rule("text, not empty", lambda value: TEXT.holds(value) and bool(value.strip()))
WORDS = listed(NAME)
DIFFERENT = Rule(f"{WORDS.about}, no two alike", lambda value: WORDS.holds(value) and len({*value}) == len(value))
SIDE = whole(1, LONGEST_SIDE)
PAIRS = listed(listed(whole(-LONGEST_SIDE, LONGEST_SIDE), 2, 2))
SIZES = either(SIDE, listed(SIDE, 1))

_CLIP = (
    Key("NAME", "ViT-B-16", NAME, "A model of open_clip, scenes_vit (part of the package), local-dir:FOLDER or hf-hub:ORG/REPO.", "for another CLIP"),
    Key("PRETRAINED", "openai", TEXT, "Its weights: a tag of open_clip, a file of open_clip or OpenAI, scenes for scenes_vit; empty: random ones, which MODEL.WEIGHTS may replace (docs/weights.md).", "with NAME"),
    Key("RESOLUTION", 1.0, real(0, 4, above=True), "CLIP sees the image at this scale; INPUT's sizes are those before it.", "with another CLIP's patch or image size: SAN has 0.5 for ViT-B/16, 0.7 for ViT-L/14-336"),
    Key("INTERPOLATE_OFFSET", 0.0, real(0, 1), "Added to the target grid when the positional embedding is resampled.", "0.1 for CLIPtrase as published, 0 for SAN"),
    Key("TRAINABLE", (), WORDS, "Parameters of the image tower that SAN trains.", "[positional_embedding] for SAN as published"),
    Key("TEMPLATES", "imagenet", one_of(TEMPLATES), "Prompt templates: imagenet (80), vild (14, SAN's) or none.", "to compare with published numbers, or for quick tests"),
    Key("CACHE_GB", 0.0, real(0), "SAN keeps CLIP's features of images in so many gigabytes for when the same pixels come again, and their regions in as many; 0: off.", "for few training images without crops and colour changes; needs TRAINABLE []"),
    Key("SYNONYMS", False, BOOL, "Read a name with commas (sea, ocean) as synonyms, whose embeddings are averaged.", "for vocabularies that are written so"),
    Key("TEXT_CACHE", "", TEXT, "Folder that keeps the text weights of words; auto: in the user's cache; empty: nowhere.", "auto for large vocabularies that are evaluated again"),
)  # fmt: skip

_REGIONS = (
    Key("SOURCE", "cliptrase", NAME, "Where regions come from, for the training-free reading and for SAN's queries: cliptrase; timm:MODEL, another ViT's correlations; sam, SAM's own masks; sam_points, SAM's masks for a point in each of CLIPtrase's regions; or a control: grid, random, shuffled, truth (docs/architecture.md).", "to use another model's regions, or for an ablation"),
    Key("EPS", 0.0, real(0), "DBSCAN's radius (the paper's epsilon) on rows of the suppressed correlation; 0 finds it: by the patch grid on a ViT-B/16, elsewhere in each image. timm:MODEL always finds it.", "to reproduce a published setting"),
    Key("MIN_SAMPLES", 0, whole(0), "DBSCAN's core size (the paper's min_sample); 0: by the patch grid.", "with EPS"),
    Key("CORRELATION", "cosine", one_of(CORRELATIONS), "What is clustered: cosine (mean over heads), cosine_concatenated (heads side by side, supplement A.2) or inner_product (table 1's control).", "for an ablation"),
    Key("SCALES", (1.0,), listed(real(0, 100, above=True), 1), "Multiples of the radius; the regions of all of them are taken together.", "to start SAN's queries from regions of several sizes"),
    Key("PRETRAINED", "default", NAME, "timm:MODEL: default (the weights that the name stands for), a weights file, or random.", "offline, or with weights of your own"),
    Key("SAM_MODEL", "facebook/sam-vit-base", NAME, "sam, sam_points: id on the Hugging Face hub, or a folder with its files.", "for a larger SAM, or offline"),
    Key("SAM_GRID", 32, whole(1, 256), "sam: points along each side of the image.", "fewer for speed, more for small objects"),
    Key("REFINE", "none", one_of(REFINEMENTS), "Refine the regions by the image's edges before they are classified or begin SAN's queries: none, pamr, pamr_half or laplacian; not controls without CLIP.", "for sharper regions at some cost (docs/training_free.md)"),
    Key("GRID_SIDE", 3, whole(1, 64), "grid: squares along each side; random: the square root of the number of cells.", "to give a control as many regions as there are"),
)  # fmt: skip

_CLIPTRASE = (
    Key("ATTENTION", "cliptrase", NAME, "Attention rule of the last block when CLIP is read densely: a name, or a combination such as qq+kk-mlp+neighbours (docs/architecture.md).", "to compare training-free methods"),
    Key("CLASSIFY", "vote", sum_of(CLASSIFY), "What decides the class of a region: vote, mean_logits, pooled, cls; or patches: every pixel by itself, without regions. Several with + are averaged, as cls+patches; a vote stands alone.", "to compare training-free methods"),
    Key("CLS_LAYER", -6, whole(-64, -1), "cls: the first block, counted from the end, that a region's [CLS] token passes.", "for a CLIP of other depth"),
    Key("BACKGROUND", (), WORDS, "Words that together stand for the dataset's background, instead of the dataset's own words.", "for another choice of words"),
    Key("CLS_PRIOR", False, BOOL, "Multiply patch logits by the [CLS] logits, as the paper does on VOC20.", "for images with one main object"),
)  # fmt: skip

_SAN = (
    Key("NUM_QUERIES", 100, whole(1, 10_000), "Queries.", "for a small data set or few classes an image"),
    Key("SIDE.IMAGE_SIZE", 640, SIDE, "The side adapter, a plain ViT beside CLIP: image size that its positional embedding is native to.", "with INPUT.CROP.SIZE"),
    Key("SIDE.PATCH_SIZE", 16, whole(1, 256), "Its patch size in pixels.", "for small images"),
    Key("SIDE.WIDTH", 240, whole(1, 8192), "Its width.", "for a smaller or larger SAN"),
    Key("SIDE.DEPTH", 8, whole(1, 128), "Its number of blocks.", "with FUSION and SUPERVISED"),
    Key("SIDE.HEADS", 6, whole(1, 128), "Its attention heads; WIDTH is a multiple of them.", "with WIDTH"),
    Key("SIDE.FUSION", ((0, 0), (3, 1), (6, 2), (9, 3)), PAIRS, "Pairs (block of CLIP, block of the side adapter): tokens that enter the first are added before the second.", "for a CLIP of other depth"),
    Key("SIDE.SUPERVISED", (7, 8), listed(whole(1, 128), 1), "Side blocks, counted from 1, whose outputs are decoded and supervised; the last is the prediction.", "with DEPTH"),
    Key("DECODER_WIDTH", 256, whole(1, 8192), "Width of the mask decoder.", "with WIDTH"),
    Key("RECOGNITION_LAYER", -3, whole(-64, -1), "The first CLIP block, counted from the end, that the [SOS] tokens pass.", "for a CLIP of other depth"),
    Key("CLASS_WEIGHT", 2.0, real(0), "Weight of the classification in matching and loss.", "rarely: Mask2Former's"),
    Key("MASK_WEIGHT", 5.0, real(0), "Weight of the binary cross-entropy of masks.", "rarely: Mask2Former's"),
    Key("DICE_WEIGHT", 5.0, real(0), "Weight of the dice loss.", "rarely: Mask2Former's"),
    Key("NO_OBJECT_WEIGHT", 0.1, real(0), "Weight of the class no object in the loss.", "0 where every region is an object"),
    Key("PSEUDO_MASKS", 0.0, real(0), "Weight of regions most of which has no label, as masks without a class: queries that predict them learn their masks, and neither a class nor no object; 0: off.", "where labels leave out what is to be found, as unseen classes"),
    Key("TRAIN_NUM_POINTS", 12544, whole(1, 2**20), "Points at which masks are compared.", "fewer for small images"),
    Key("QUERY_INIT.NAME", "off", one_of(QUERY_INITS), "How regions initialise the queries (docs/architecture.md); off is SAN as published.", "tokens_prior for faster training"),
    Key("QUERY_INIT.MAP_LAYER", -1, whole(-64, 64), "map_*: the CLIP block whose input tokens are pooled, counted from the end.", "for an ablation"),
    Key("QUERY_INIT.ZERO_INIT", False, BOOL, "Begin as plain SAN, whatever the mode, and learn how much of the regions to take. Weights in SAN's own format switch it on.", "to bring regions into a trained SAN"),
    Key("QUERY_INIT.MASK_STRENGTH", 2.0, real(-1e6, 1e6), "with a prior: initial strength of the region mask in the mask logits; 0 leaves it out.", "for an ablation"),
    Key("QUERY_INIT.BIAS_STRENGTH", 10.0, real(-1e6, 1e6), "with a prior: the same in the attention bias.", "for an ablation"),
    Key("QUERY_INIT.NAME_STRENGTH", 0.0, real(0, 1e6), "with a prior: initial strength of what CLIP, read densely by MODEL.CLIPTRASE.ATTENTION, calls the region, in the class logits of its query; 0 leaves it out.", "0.25 with ATTENTION clip_surgery, for a better start"),
    Key("QUERY_INIT.ANNEAL", 0.0, real(0, 1), "Share of the schedule in which queries lose their regions, each by a draw for each image with a probability that rises linearly from 0 to 1. Predictions need no regions then, at any time; 0: off.", "for plain SAN's cost and format after training"),
    Key("QUERY_INIT.PROTOTYPE_IMAGES", 1000, whole(1), "with prototypes: training images that are read for them.", "more for many classes"),
    Key("QUERY_INIT.REPEAT", False, BOOL, "Where an image has fewer regions than there are queries, go round again, so that every query has a region.", "True helped on the demo scenes and does harm on photographs (docs/convergence.md)"),
)  # fmt: skip

_TEST = (
    Key("PROTOCOL", "whole", one_of(PROTOCOLS), "How test sets are scored (docs/evaluation.md): whole images, CLIPtrase's central squares, sliding windows, unsupervised clusters, or as the code of a paper with windows.", "to compare with published numbers"),
    Key("SIZE", 336, SIDE, "cliptrase, unsupervised: side of the square in pixels. 224 and 336 bring the paper's EPS and MIN_SAMPLES for ViT-B-16.", "with PROTOCOL"),
    Key("SLIDE.SIDE", 0, whole(0, LONGEST_SIDE), "slide: short side of the image; 0: 336, or 560 for Cityscapes.", "with PROTOCOL"),
    Key("SLIDE.WINDOW", 224, SIDE, "slide: side of a window in pixels.", "with PROTOCOL"),
    Key("SLIDE.STRIDE", 112, SIDE, "slide: step of the windows in pixels, at most WINDOW.", "with PROTOCOL"),
    Key("SCALES", (1.0,), listed(real(0, 8, above=True), 1), "Sizes at which an image is seen, relative to its own; the scores are averaged (test-time augmentation). In windows, each window is.", "for accuracy at the cost of time"),
    Key("FLIP", False, BOOL, "See the mirror image too, at every size, and average.", "for accuracy at twice the time"),
    Key("REFINE", "none", one_of(REFINEMENTS), "Refine scores by the image's edges before classes are chosen: none, pamr (pixel-adaptive refinement), pamr_half (the same at half the size) or laplacian (edge-aware smoothing); any rule, with or without regions, SAN's too.", "for sharper boundaries; published numbers mostly go without"),
    Key("BACKGROUND", "words", one_of(BACKGROUNDS), "What makes a pixel the dataset's background: words, threshold (no class has this probability) or learned (SAN's own).", "for data sets with a background class"),
    Key("BACKGROUND_THRESHOLD", 0.5, real(0, 1), "threshold: the probability, between 0 and 1.", "with BACKGROUND; not tuned"),
    Key("MASKS", False, BOOL, "Score SAN's masks apart from their names too (mIoU of masks): each pixel belongs to the query whose mask is largest there, and each query to the class of most of its pixels.", "to see what masks and names each hold back"),
    Key("UNSUPERVISED.FEATURES", "regions", one_of(("regions", "patches")), "unsupervised: what k-means clusters: features of CLIPtrase's regions, or plain CLIP's patches.", "for table 5"),
    Key("UNSUPERVISED.CLUSTERS", 0, whole(0, 100_000), "unsupervised: clusters; 0: as many as there are classes.", "for over-clustering"),
    Key("VOCABULARY", "", TEXT, "A class file with one line for each class of the test set, evaluated in place of its names; or san: the words of SAN's published numbers.", "for other words"),
    Key("BATCH_SIZE", 1, whole(1, 4096), "Images of a test batch.", "more on a GPU"),
    Key("MAX_IMAGES", 0, whole(0), "Images of a test set that are evaluated; 0: all.", "for a quick look"),
    Key("SKIP_BAD", False, BOOL, "Leave out images whose files cannot be used, and report them, instead of ending at the first.", "for data that cannot be mended"),
    Key("SAVE_SECONDS", 60.0, real(0), "An evaluation saves what it has counted every so many seconds, for --resume; 0: after every batch.", "where saving is slow"),
    Key("PICTURES", 0, whole(0, 10000), "An evaluation on its own writes so many images, evenly spread over a test set, beside their prediction, ground truth and errors (evaluate: --pictures).", "to see what goes wrong"),
    Key("EVAL_PERIOD", None, whole(0), "Iterations between evaluations during training; 0: at the end alone.", "for a finer curve"),
)  # fmt: skip

_INPUT = (
    Key("IGNORE_LABEL", 255, whole(1, 65535), "Value of unlabelled pixels in memory; 65535 where a data set has more than 255 classes.", "never by hand"),
    Key("COLOR_AUG_SSD", True, BOOL, "Training: SSD's changes of colour.", "False for CACHE_GB"),
    Key("RANDOM_FLIP", None, one_of(("horizontal", "none")), "Training: flips.", "none where left and right differ"),
    Key("CROP.ENABLED", True, BOOL, "Training: random crops.", "False for small images"),
    Key("CROP.TYPE", "absolute", one_of(("absolute", "absolute_range", "relative", "relative_range")), "What CROP.SIZE means, see detectron2.", "with CROP.SIZE"),
    Key("CROP.SIZE", [640, 640], listed(real(0, LONGEST_SIDE, above=True), 2, 2), "Height and width of a crop.", "with MODEL.SAN.SIDE.IMAGE_SIZE"),
    Key("MIN_SIZE_TRAIN", None, SIZES, "Training: shorter sides in pixels to choose from.", "with CROP.SIZE"),
    Key("MAX_SIZE_TRAIN", None, SIDE, "Training: longest longer side.", "with MIN_SIZE_TRAIN"),
    Key("MIN_SIZE_TRAIN_SAMPLING", None, one_of(("choice", "range")), "How a shorter side is drawn.", "rarely"),
    Key("MIN_SIZE_TEST", None, whole(0, LONGEST_SIDE), "Test: shorter side in pixels; 0: as it is.", "with MODEL.CLIP.RESOLUTION"),
    Key("MAX_SIZE_TEST", None, SIDE, "Test: longest longer side.", "for panoramas"),
)  # fmt: skip

_SOLVER = (
    Key("IMS_PER_BATCH", None, whole(1, 2**20), "Images of a batch, over all processes.", "with memory; see ACCUMULATE"),
    Key("MAX_ITER", None, whole(1), "Iterations; the learning rate reaches zero there.", "for a shorter or longer schedule"),
    Key("CHECKPOINT_PERIOD", None, whole(1), "Iterations between checkpoints.", "with the time you can lose"),
    Key("BASE_LR", 1e-4, real(0, 1e3), "Learning rate of AdamW.", "with the batch size"),
    Key("WEIGHT_DECAY", 1e-4, real(0, 1e3), "Weight decay.", "for small data sets"),
    Key("WEIGHT_DECAY_NORM", 0.0, real(0, 1e3), "Weight decay of normalisation layers.", "rarely"),
    Key("WEIGHT_DECAY_EMBED", 0.0, real(0, 1e3), "Weight decay of positional, query and class embeddings.", "rarely"),
    Key("CLIP_MULTIPLIER", 1.0, real(0, 1e3), "Learning rate of trainable CLIP parameters, relative to BASE_LR.", "with MODEL.CLIP.TRAINABLE"),
    Key("STRENGTH_MULTIPLIER", 1.0, real(0, 1e6), "Learning rate of the regions' strengths, relative to BASE_LR.", "with QUERY_INIT.ZERO_INIT"),
    Key("POLY_POWER", 0.9, real(0, 100), "lr(i) = BASE_LR (1 - i / MAX_ITER)^POLY_POWER.", "smaller for short schedules"),
    Key("ACCUMULATE", 1, whole(1, 2**20), "Gradient accumulation: micro-batches of an iteration, one after the other; the same losses and gradients in the memory of one.", "8 to train with batch 32 on one GPU"),
    Key("AMP.ENABLED", True, BOOL, "Mixed precision on a GPU.", "False to debug numbers"),
    Key("CLIP_GRADIENTS.ENABLED", True, BOOL, "Clip the norm of all gradients together.", "rarely"),
    Key("CLIP_GRADIENTS.CLIP_TYPE", "full_model", one_of(("full_model",)), "detectron2's key; SAN clips over the full model.", "never"),
    Key("CLIP_GRADIENTS.CLIP_VALUE", 0.01, real(0, above=True), "Largest norm.", "with BASE_LR"),
    Key("CLIP_GRADIENTS.NORM_TYPE", 2.0, real(0, above=True), "Which norm.", "rarely"),
)  # fmt: skip

_OTHER = (
    Key("MODEL.META_ARCHITECTURE", None, one_of(("SAN", "CLIPtrase")), "SAN, trained; or CLIPtrase, training-free.", "by choosing a file of configs/"),
    Key("MODEL.DEVICE", "auto", NAME, "auto takes a GPU if there is one; or any device of torch.", "to choose a GPU"),
    Key("MODEL.WEIGHTS", None, TEXT, "Checkpoint to begin with or to evaluate (docs/weights.md).", "to evaluate or fine-tune"),
    Key("DATASETS.TRAIN", None, listed(NAME, 0, 1), "The data set that is trained on; one at most.", "for your data"),
    Key("DATASETS.TEST", None, DIFFERENT, "Data sets that are evaluated.", "for your data"),
    Key("DATALOADER.NUM_WORKERS", None, whole(0, 1024), "Loading processes.", "with the number of cores"),
    Key("DATALOADER.SKIP_BAD", False, BOOL, "Training: the stream's next image takes the place of one whose files cannot be used.", "for data that cannot be mended"),
    Key("OUTPUT_DIR", None, NAME, "Folder of everything that a run writes.", "for every run"),
    Key("SEED", 0, whole(0, LARGEST_SEED), "Data order and every random draw of iteration i follow from (SEED, i): runs can be paired and resumed.", "to repeat an experiment"),
    Key("LOG_PERIOD", 20, whole(1), "Iterations between lines of losses on screen, in metrics.json and in TensorBoard.", "1 for short runs"),
    Key("VIS_IMAGES", 4, whole(0, 1000), "Test images whose regions and predictions are drawn at every evaluation.", "0 for speed"),
    Key("FIGURES.IMAGE_INDEX", 0, whole(0), "san-cliptrase reproduce: the image that is looked at, by its place in the first data set of DATASETS.TEST.", "for another image"),
    Key("FIGURES.IMAGE_FILE", "", TEXT, "san-cliptrase reproduce: any image file instead.", "for your photograph"),
    Key("FIGURES.POINTS", (), PAIRS, "figure2: patches to look from, (row, column) from the top left; empty: the middles of the largest regions.", "for other patches"),
    Key("FIGURES.MODELS", "", TEXT, "global_patches: CLIPs side by side, NAME=MODEL@WEIGHTS, ...; empty: that of MODEL.CLIP, and the same with random weights.", "for other CLIPs"),
)  # fmt: skip

_GROUPS = {
    "MODEL.CLIP": _CLIP,
    "MODEL.REGIONS": _REGIONS,
    "MODEL.CLIPTRASE": _CLIPTRASE,
    "MODEL.SAN": _SAN,
    "INPUT": _INPUT,
    "SOLVER": _SOLVER,
    "TEST": _TEST,
    "": _OTHER,
}
KEYS: dict[str, Key] = {
    name: key
    for group, keys in _GROUPS.items()
    for key in keys
    for name in [f"{group}.{key.name}" if group else key.name]
}
"""Full name -> key, in the order of ``docs/configuration.md``."""
MODEL_KEYS = tuple(name for name in KEYS if name.startswith(("MODEL.CLIP", "MODEL.REGIONS", "MODEL.SAN")))

RENAMED = {
    "MODEL.CLIPTRASE.VOTE": "MODEL.CLIPTRASE.CLASSIFY",
    "MODEL.CLIPTRASE.REGIONS": "MODEL.REGIONS.SOURCE",
    "MODEL.CLIPTRASE.REGIONS_PRETRAINED": "MODEL.REGIONS.PRETRAINED",
    **{
        f"MODEL.CLIPTRASE.{name}": f"MODEL.REGIONS.{name}"
        for name in ("EPS", "MIN_SAMPLES", "CORRELATION", "SAM_MODEL", "SAM_GRID")
    },
    **{f"MODEL.SAN.QUERY_INIT.{name}": f"MODEL.REGIONS.{name}" for name in ("SOURCE", "SCALES", "GRID_SIDE")},
}
"""Key of an earlier version -> its name now."""
REMOVED = {
    "MODEL.SAN.SIZE_DIVISIBILITY": "images are always padded to a multiple of 32",
    "MODEL.SAN.BIAS_HEADS": "the attention bias always has as many heads as CLIP",
    "MODEL.SAN.OVERSAMPLE_RATIO": "it is always 3, as in PointRend",
    "MODEL.SAN.IMPORTANCE_SAMPLE_RATIO": "it is always 0.75, as in PointRend",
    "INPUT.CROP.SINGLE_CATEGORY_MAX_AREA": "it had no effect at 1, as SAN has it",
    "SOLVER.OPTIMIZER": "SAN is trained with AdamW",
}
"""Key of an earlier version -> why it is gone."""


def add_san_cliptrase_config(cfg: Any) -> None:
    """Adds this project's keys to a detectron2 ``CfgNode`` in place, and its defaults to some of detectron2's.

    Args:
        cfg: what ``detectron2.config.get_cfg()`` returns.
    """
    for name, key in KEYS.items():
        if key.default is not None:
            _set(cfg, name, key.default)
    for old, new in RENAMED.items():
        cfg.register_renamed_key(old, new, "True is now vote, False is patches." if old.endswith("VOTE") else None)


def model_config(saved: Mapping[str, Any]) -> CfgNode:
    """What a model is built from, out of the configuration of a run; needs no detectron2.

    Keys that an earlier version had under another name are taken up under their name of today.

    Args:
        saved: What ``config.yaml`` of a run holds, or what :func:`plain` made.

    Returns:
        MODEL and the sizes of test images; keys that ``saved`` does not have keep their defaults.

    Raises:
        ConfigError: A value is missing, or one that its key cannot have.
    """
    cfg, values = CfgNode(), with_names_of_today(dict(_flat(saved)))
    for name in (*MODEL_KEYS, "INPUT.IGNORE_LABEL"):
        _set(cfg, name, values.get(name, KEYS[name].default))
    for name in ("MODEL.META_ARCHITECTURE", "INPUT.MIN_SIZE_TEST", "INPUT.MAX_SIZE_TEST"):
        if name not in values:
            raise ConfigError(f"the configuration does not say {name}: it is of no run")
        _set(cfg, name, values[name])
    check_keys(cfg)
    return cfg


def with_names_of_today(values: Mapping[str, Any]) -> dict[str, Any]:
    """Key with dots -> value of an earlier version's configuration, under the names that its keys have now."""
    return {_name_of_today(name): value for name, value in values.items() if name not in REMOVED}


def check_keys(cfg: Any) -> None:
    """Refuse values that their keys cannot have, before anything is built from them.

    Raises:
        ConfigError: Names the key, the value and what it must be.
    """
    for name, value in _flat(cfg):
        if (key := KEYS.get(name)) and not key.rule.holds(value):
            raise ConfigError(f"{name} is {_shown(value)}; it must be {key.rule.about}")


def _shown(value: Any) -> str:
    try:
        return f"{value!r:.100}"
    except ValueError:  # Python writes no whole number of more than 4300 digits
        return "a number of thousands of digits"


def check_unused(cfg: Any, defaults: Any) -> None:
    """Refuse keys of detectron2 that are set and have no effect here.

    Args:
        cfg: a configuration.
        defaults: what ``detectron2.config.get_cfg()`` returns.

    Raises:
        ConfigError: Names the first such key.
    """
    usual = dict(_flat(defaults))
    for name, value in _flat(cfg):
        if name not in KEYS and name in usual and _lists(usual[name]) != _lists(value) and name != "VERSION":
            raise ConfigError(f"{name} is detectron2's and has no effect here: leave it at {usual[name]!r}")


def plain(cfg: Any) -> dict[str, Any]:
    """A configuration as dictionaries, lists and plain values."""
    return {key: plain(value) if isinstance(value, Mapping) else value for key, value in cfg.items()}


def render_page() -> str:
    """``docs/configuration.md``."""
    lines = [
        "# Configuration",
        "",
        "Every key of a configuration file, which can also follow a command as `KEY VALUE`. Made of `san_cliptrase/config.py` by",
        "`python tools/configuration_page.py`. A default of `-` is that of detectron2 or of the file in `configs/`.",
    ]
    for group, keys in _GROUPS.items():
        lines += [
            "",
            f"## {group or 'Everything else'}",
            "",
            "| key | default | meaning | when to turn it |",
            "|---|---|---|---|",
        ]
        for key in keys:
            default = "-" if key.default is None else f"`{key.default!r}`"
            lines.append(f"| `{key.name}` | {default} | {key.about} Must be {key.rule.about}. | {key.turn} |")
    lines += ["", "## Keys of earlier versions", "", "| key | now |", "|---|---|"]
    lines += [f"| `{old}` | `{new}` |" for old, new in RENAMED.items()]
    lines += [f"| `{old}` | gone: {why} |" for old, why in REMOVED.items()]
    return "\n".join(lines) + "\n"


def _name_of_today(name: str) -> str:
    # The values of VOTE were others.
    return name if name.endswith("VOTE") else RENAMED.get(name, name)


def _set(cfg: Any, name: str, value: Any) -> None:
    *path, last = name.split(".")
    for part in path:
        if part not in cfg:
            cfg[part] = type(cfg)()
        cfg = cfg[part]
    cfg[last] = value


def _flat(node: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in node.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _lists(value: Any) -> Any:
    """A value as a file has it: without tuples."""
    return [_lists(one) for one in value] if isinstance(value, (list, tuple)) else value
