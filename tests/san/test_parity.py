"""Equal numbers with the official SAN (e19262d), which made ``fixtures/san_parity.npz`` on random weights."""

import numpy as np
import torch

from benchmarks.parity_san import COMPARED, ParitySan, compare_outputs
from benchmarks.parity_weights import draw_weights
from tests.checkpoints.official_keys import official_shapes

CLIP = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 112, "layers": 12, "width": 128, "head_width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 2},
    "quick_gelu": True,
}
WORDS = ["red square", "green field", "blue sky", "yellow sand", "grey road"]


def test_equals_the_official_implementation(fixtures):
    reference = np.load(fixtures / "san_parity.npz")
    shapes = {k: v for k, v in official_shapes("parity").items() if not k.endswith(("attn_mask", "empty_weight"))}
    model = ParitySan(shapes, CLIP).eval()
    model.load_official(draw_weights(shapes, seed=1))
    text_weights = model.clip.text(WORDS, templates="vild")
    classifier = model.classifier.weights(text_weights).detach()
    torch.testing.assert_close(classifier, torch.from_numpy(reference["classifier"]), atol=1e-4, rtol=0)
    rows = compare_outputs(model(reference["image"], text_weights), reference)
    assert len(rows) == len([key for key in COMPARED if key in reference])
    assert [row for row in rows if not row.passed] == []
