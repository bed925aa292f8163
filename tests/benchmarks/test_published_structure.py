import torch
from detectron2.utils.events import EventStorage

from benchmarks.published_structure import use_published_structure


def losses_and_gradients(model, entries):
    torch.manual_seed(0)
    with EventStorage():
        losses = model.train()(entries)
    sum(losses.values()).backward()
    return losses, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def test_the_published_structure_computes_the_same(world):
    ours, published = world.model(), world.model()
    published.load_state_dict(ours.state_dict())
    use_published_structure(published)
    entries = world.batch()
    (losses, gradients), (expected, expected_gradients) = (losses_and_gradients(m, entries) for m in (ours, published))
    torch.testing.assert_close(losses, expected, rtol=1e-3, atol=1e-5)
    assert gradients.keys() == expected_gradients.keys()
    for name, gradient in gradients.items():
        assert (gradient - expected_gradients[name]).norm() <= 1e-3 * expected_gradients[name].norm() + 1e-6, name
    for found, other in zip(ours.eval().label_maps(entries), published.eval().label_maps(entries), strict=True):
        assert (found == other).float().mean() > 0.99
