"""Every configuration key of this project: its default, what it means, and the paper's symbol where there is one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fvcore.common.config import CfgNode

from san_cliptrase.errors import ConfigError


def add_san_cliptrase_config(cfg: Any) -> None:
    """Adds this project's keys to a detectron2 ``CfgNode`` in place.

    Args:
        cfg: what ``detectron2.config.get_cfg()`` returns.
    """
    node = type(cfg)
    _add_clip(cfg, node)
    _add_regions(cfg, node)
    _add_cliptrase(cfg, node)
    _add_san(cfg, node)
    _add_data_and_solver(cfg, node)
    _add_figures(cfg, node)


def model_config(saved: Mapping[str, Any]) -> CfgNode:
    """What a model is built from, out of the configuration of a run; needs no detectron2.

    Args:
        saved: What ``config.yaml`` of a run holds, or what :func:`plain` made.

    Returns:
        MODEL and the sizes of test images; keys that ``saved`` does not have keep their defaults.

    Raises:
        ConfigError: A key does not exist, or has a value that it cannot have.
    """
    cfg = CfgNode({"MODEL": {"META_ARCHITECTURE": ""}, "INPUT": {"MIN_SIZE_TEST": 800, "MAX_SIZE_TEST": 1333}})
    cfg.INPUT.IGNORE_LABEL = 255
    _add_clip(cfg, CfgNode)
    _add_regions(cfg, CfgNode)
    _add_cliptrase(cfg, CfgNode)
    _add_san(cfg, CfgNode)
    try:
        for group, node in cfg.items():
            content = saved[group]
            node.merge_from_other_cfg(CfgNode({key: value for key, value in content.items() if key in node}))
    except (KeyError, AssertionError, ValueError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"the configuration of the run cannot be used: {error.args[0] if error.args else error}"
        ) from error
    return cfg


def plain(cfg: Any) -> dict[str, Any]:
    """A configuration as dictionaries, lists and plain values."""
    return {key: plain(value) if isinstance(value, Mapping) else value for key, value in cfg.items()}


def _add_clip(cfg: Any, node: type) -> None:
    # "auto" takes a GPU if there is one. Any torch device name is taken as it is.
    cfg.MODEL.DEVICE = "auto"
    cfg.MODEL.CLIP = clip = node()
    # An open_clip model name, or "scenes_vit", the small model shipped with this project.
    clip.NAME = "ViT-B-16"
    # An open_clip pretrained tag, a weights file of open_clip or OpenAI, "scenes" for scenes_vit, or "" for random
    # weights (tests, or where MODEL.WEIGHTS brings the CLIP). See docs/weights.md.
    clip.PRETRAINED = "openai"
    # CLIP sees the image at this scale; detectron2's INPUT sizes are those before it.
    clip.RESOLUTION = 1.0
    # Added to the target grid when the positional embedding is interpolated: 0.1 in CLIPtrase, 0 in SAN.
    clip.INTERPOLATE_OFFSET = 0.0
    # Parameters of the vision tower that SAN trains. SAN as published: ("positional_embedding",).
    clip.TRAINABLE = ()
    # Prompt templates: "imagenet" (80), "vild" (14) or "none".
    clip.TEMPLATES = "imagenet"
    # SAN keeps CLIP's features in so many gigabytes for when the same pixels come again, and the regions found in them
    # in as many; regions are far smaller.
    # It pays for few training pictures without crops and colour changes, and needs TRAINABLE (). 0: off.
    clip.CACHE_GB = 0.0
    # Read a name with commas ("sea, ocean") as synonyms, whose embeddings are averaged, instead of as it stands.
    clip.SYNONYMS = False
    # Where the text weights of words are kept for the next process: a folder, "auto" (in the user's cache directory,
    # $XDG_CACHE_HOME or ~/.cache), or "" (nowhere).
    clip.TEXT_CACHE = ""


def _add_regions(cfg: Any, node: type) -> None:
    # Where regions come from, for the training-free reading and for SAN's queries: cliptrase; timm:MODEL, another ViT's
    # correlations (timm:vit_small_patch16_224.dino, timm:vit_small_patch14_dinov2.lvd142m, timm:local-dir:FOLDER); sam,
    # SAM's own masks; sam_points, SAM's masks for a point in each of CLIPtrase's regions; or a control: grid, random,
    # shuffled, truth. See docs/architecture.md.
    cfg.MODEL.REGIONS = regions = node()
    regions.SOURCE = "cliptrase"
    # DBSCAN's radius (the paper's epsilon) and core size (min_sample) on rows of the suppressed correlation.
    # 0 finds them: the core size from the patch grid; the radius too on a ViT-B/16, (0.7, 3) at 14x14 and (1.1, 7) at
    # 21x21, on other towers the one at which most patches are cores (``regions.clustering.core_radius``). timm:MODEL
    # always finds its radius.
    regions.EPS = 0.0
    regions.MIN_SAMPLES = 0
    # What is clustered: cosine (mean over heads), cosine_concatenated (heads side by side, the supplement's A.2), or
    # inner_product (a control, table 1).
    regions.CORRELATION = "cosine"
    # Multiples of the radius; the regions of all of them are taken together.
    regions.SCALES = (1.0,)
    # timm:MODEL: "default" (the weights that the name stands for), a weights file, or "random".
    regions.PRETRAINED = "default"
    # sam, sam_points: id on the Hugging Face hub, or folder with its files; sam: points along each side of the image.
    regions.SAM_MODEL = "facebook/sam-vit-base"
    regions.SAM_GRID = 32
    # grid: squares along each side of the image; random: the square root of the number of cells.
    regions.GRID_SIDE = 3
    for old, new in (
        *((f"CLIPTRASE.{name}", name) for name in ("EPS", "MIN_SAMPLES", "CORRELATION", "SAM_MODEL", "SAM_GRID")),
        ("CLIPTRASE.REGIONS", "SOURCE"),
        ("CLIPTRASE.REGIONS_PRETRAINED", "PRETRAINED"),
        *((f"SAN.QUERY_INIT.{name}", name) for name in ("SOURCE", "SCALES", "GRID_SIDE")),
    ):
        cfg.register_renamed_key(f"MODEL.{old}", f"MODEL.REGIONS.{new}")


def _add_cliptrase(cfg: Any, node: type) -> None:
    cfg.MODEL.CLIPTRASE = cliptrase = node()
    # Attention rule of the last block when CLIP is read densely: clip, maskclip, sclip, cliptrase, clearclip, naclip,
    # clip_surgery, or a combination, as "qq+kk-mlp+neighbours" (docs/architecture.md, "Attention rules").
    cliptrase.ATTENTION = "cliptrase"
    # Training-free evaluation, how the class of a region is found: vote (of its pixels, CLIPtrase), mean_logits (of its
    # pixels), pooled (the mean of its dense features), cls (a [CLS] token that sees the region only), or patches: every
    # pixel by itself, without regions.
    cliptrase.CLASSIFY = "vote"
    # cls: the first block, counted from the end, that a region's [CLS] token passes. The best on the demo's tuning
    # scenes, whose CLIP has six blocks (docs/evaluation.md); CLIP must have as many.
    cliptrase.CLS_LAYER = -6
    cfg.register_renamed_key("MODEL.CLIPTRASE.VOTE", "MODEL.CLIPTRASE.CLASSIFY", "True is now vote, False is patches.")
    # Words that together stand for the dataset's last class, "background", instead of the dataset's own words.
    cliptrase.BACKGROUND = ()
    # Multiply patch logits by the [CLS] logits, as the paper does on VOC20.
    cliptrase.CLS_PRIOR = False


def _add_san(cfg: Any, node: type) -> None:
    cfg.MODEL.SAN = san = node()
    san.NUM_QUERIES = 100
    # Images are padded to a multiple of this many pixels.
    san.SIZE_DIVISIBILITY = 32
    # The side adapter: a plain ViT beside CLIP. IMAGE_SIZE sets the native grid of its positional embedding.
    san.SIDE = side = node()
    side.IMAGE_SIZE = 640
    side.PATCH_SIZE = 16
    side.WIDTH = 240
    side.DEPTH = 8
    side.HEADS = 6
    # Pairs (block of CLIP, block of the side adapter): tokens entering the first are added before the second.
    side.FUSION = ((0, 0), (3, 1), (6, 2), (9, 3))
    # Side blocks (1-based) whose outputs are decoded and supervised; the last one is the prediction.
    side.SUPERVISED = (7, 8)
    # The mask decoder's width; heads of the attention bias: 0 takes CLIP's number of heads.
    san.DECODER_WIDTH = 256
    san.BIAS_HEADS = 0
    # The first CLIP block of the recognition head, counted from the end: the [SOS] tokens live in the last three.
    san.RECOGNITION_LAYER = -3
    # Matcher and loss weights, no-object weight, and point sampling, as in Mask2Former.
    san.CLASS_WEIGHT = 2.0
    san.MASK_WEIGHT = 5.0
    san.DICE_WEIGHT = 5.0
    san.NO_OBJECT_WEIGHT = 0.1
    san.TRAIN_NUM_POINTS = 12544
    san.OVERSAMPLE_RATIO = 3.0
    san.IMPORTANCE_SAMPLE_RATIO = 0.75
    # How regions initialise the queries: off (SAN exactly), map_add and map_replace (the paper's),
    # tokens, prior, tokens_prior, prototypes. See docs/architecture.md.
    san.QUERY_INIT = init = node()
    init.NAME = "off"
    # map_*: the CLIP block whose input tokens are pooled, counted from the end.
    init.MAP_LAYER = -1
    # Begin as plain SAN, whatever the mode, and learn how much of the regions to take? MODEL.WEIGHTS with a file in
    # SAN's own format switches it on.
    init.ZERO_INIT = False
    # *prior: initial strength of the region mask in the mask logits and in the attention bias (0 with ZERO_INIT); both
    # are learned, except that a strength of 0 here leaves that part out.
    init.MASK_STRENGTH = 2.0
    init.BIAS_STRENGTH = 10.0
    # prototypes: how many training images are read for them.
    init.PROTOTYPE_IMAGES = 1000
    # Where an image has fewer regions than there are queries: go round again, so that every query has a region? On
    # photographs that does harm (docs/convergence.md).
    init.REPEAT = False


def _add_evaluation(cfg: Any, node: type) -> None:
    # How test sets are scored, see docs/evaluation.md: whole (whole images at their own size), cliptrase (central
    # squares, as the paper), slide (windows, as SCLIP and its family), unsupervised (clusters matched to classes).
    cfg.TEST.PROTOCOL = "whole"
    # cliptrase, unsupervised: side of the square in pixels. The paper's: 224 and 336, each with its own EPS and
    # MIN_SAMPLES, which then replace those of MODEL.CLIPTRASE for the paper's CLIP, ViT-B-16.
    cfg.TEST.SIZE = 336
    # slide: short side of the image (0: by dataset, 336, or 560 for Cityscapes), side of a window, and step, in pixels.
    cfg.TEST.SLIDE = slide = node()
    slide.SIDE = 0
    slide.WINDOW = 224
    slide.STRIDE = 112
    # What makes a pixel the dataset's "background", if it has one: words (the dataset's, or those of
    # MODEL.CLIPTRASE.BACKGROUND), threshold (no class has this probability; not tuned), learned (SAN's own background).
    cfg.TEST.BACKGROUND = "words"
    cfg.TEST.BACKGROUND_THRESHOLD = 0.5
    # unsupervised: what k-means clusters, regions (CLIPtrase's features, averaged over its regions) or patches (plain
    # CLIP's); and how many clusters it makes (0: as many as there are classes).
    cfg.TEST.UNSUPERVISED = unsupervised = node()
    unsupervised.FEATURES = "regions"
    unsupervised.CLUSTERS = 0
    # Leave out images whose files cannot be used, and report them, instead of ending at the first.
    cfg.TEST.SKIP_BAD = False
    # --eval-only saves what it has counted every so many seconds, for --resume; 0: after every batch.
    cfg.TEST.SAVE_SECONDS = 60.0


def _add_data_and_solver(cfg: Any, node: type) -> None:
    # The value of pixels that are never trained or scored, in memory; 65535 where a dataset has more than 255 classes.
    cfg.INPUT.IGNORE_LABEL = 255
    # A class file with one line for each class of the test set: these words are evaluated in place of its names.
    cfg.TEST.VOCABULARY = ""
    # Images of a test batch, and how many images of a test set are evaluated (0: all).
    cfg.TEST.BATCH_SIZE = 1
    cfg.TEST.MAX_IMAGES = 0
    _add_evaluation(cfg, type(cfg))
    # Training: the stream's next picture takes the place of one whose files cannot be used, instead of the run ending.
    cfg.DATALOADER.SKIP_BAD = False
    cfg.INPUT.COLOR_AUG_SSD = True
    # horizontal or none.
    cfg.INPUT.RANDOM_FLIP = "horizontal"
    cfg.INPUT.CROP.ENABLED = True
    cfg.INPUT.CROP.TYPE = "absolute"
    cfg.INPUT.CROP.SIZE = [640, 640]
    cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA = 1.0
    # AdamW with SAN's parameter groups, poly decay to zero without warm-up.
    cfg.SOLVER.OPTIMIZER = "ADAMW"
    cfg.SOLVER.BASE_LR = 1e-4
    cfg.SOLVER.WEIGHT_DECAY = 1e-4
    cfg.SOLVER.WEIGHT_DECAY_NORM = 0.0
    # Weight decay of embeddings: positional, query and class tokens.
    cfg.SOLVER.WEIGHT_DECAY_EMBED = 0.0
    # Learning rate of trainable CLIP parameters, and of the strengths of regions (prior, share), relative to BASE_LR.
    cfg.SOLVER.CLIP_MULTIPLIER = 1.0
    cfg.SOLVER.STRENGTH_MULTIPLIER = 1.0
    cfg.SOLVER.POLY_POWER = 0.9
    # An iteration computes its batch in so many parts, one after the other: the same losses and gradients, in the
    # memory of a part. One GPU trains with IMS_PER_BATCH 32 in 8 parts of 4 images.
    cfg.SOLVER.ACCUMULATE = 1
    cfg.SOLVER.AMP.ENABLED = True
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = True
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = "full_model"
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = 0.01
    cfg.SOLVER.CLIP_GRADIENTS.NORM_TYPE = 2.0
    # The data order and every random draw of iteration i follow from (SEED, i): runs can be paired and resumed.
    cfg.SEED = 0
    # Losses are written to screen, metrics.json and TensorBoard every so many iterations.
    cfg.LOG_PERIOD = 20
    # Write pictures of regions and predictions of this many validation images at every evaluation.
    cfg.VIS_IMAGES = 4


def _add_figures(cfg: Any, node: type) -> None:
    # Pictures of san-cliptrase reproduce: which image is looked at, by its place in the first data set of
    # DATASETS.TEST, or any image file instead.
    cfg.FIGURES = figures = node()
    figures.IMAGE_INDEX = 0
    figures.IMAGE_FILE = ""
    # figure2: patches to look from, ((row, column), ...) counted from the top left, 0 first; (): the middles of the
    # largest regions.
    figures.POINTS = ()
    # global_patches: CLIPs side by side, "NAME=MODEL@WEIGHTS, NAME=local-dir:FOLDER, ..."; without @WEIGHTS they are
    # random, or those of the folder. "": that of MODEL.CLIP, and the same with random weights.
    figures.MODELS = ""
