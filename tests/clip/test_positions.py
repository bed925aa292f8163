import pytest
import torch

from san_cliptrase.clip.positions import interpolate_positions


@pytest.fixture
def embedding():
    return torch.randn(49, 3, generator=torch.Generator().manual_seed(0))


def test_native_grid_is_untouched(embedding):
    maps = interpolate_positions(embedding, (7, 7), (7, 7), offset=0.1)
    torch.testing.assert_close(maps.flatten(1).T, embedding, atol=0, rtol=0)


@pytest.mark.parametrize("offset", [0.0, 0.1])
def test_every_grid_gets_its_own_shape(embedding, offset):
    for side in range(1, 70):
        assert interpolate_positions(embedding, (7, 7), (side, 2 * side), offset).shape == (3, side, 2 * side)


def test_offset_is_dinos(embedding):
    # The definition: bicubic with scale_factor=(grid + offset) / native, as in CLIPtrase's and DINO's code.
    maps = embedding.T.reshape(1, 3, 7, 7)
    expected = torch.nn.functional.interpolate(maps, scale_factor=(11.1 / 7, 9.1 / 7), mode="bicubic")[0]
    ours = interpolate_positions(embedding, (7, 7), (11, 9), offset=0.1)
    torch.testing.assert_close(ours, expected)
    assert not torch.allclose(ours, interpolate_positions(embedding, (7, 7), (11, 9)), atol=1e-3)
