import numpy as np
import pytest
import torch
from sklearn.cluster import DBSCAN

from san_cliptrase.regions.clustering import CORE_SHARE, cluster_rows, core_radius, default_clustering


def blocks(*sizes):
    """Rows of an image whose patches correlate by 1 inside groups of these sizes, and not at all across."""
    return torch.block_diag(*(torch.ones(n, n) for n in sizes))


def test_groups_become_clusters_and_single_patches_noise():
    rows = blocks(4, 3, 1)[None]
    labels = cluster_rows(rows, torch.ones(1, 8, dtype=torch.bool), eps=0.5, min_samples=3)
    assert labels.dtype == torch.int64
    assert labels.tolist() == [[0, 0, 0, 0, 1, 1, 1, -1]]


def test_padding_changes_nothing():
    valid = torch.tensor([[True, True, False, True, True, True, False, True, True]])
    rows = torch.full((1, 9, 9), 5.0)
    rows[0][valid[0][:, None] & valid[0]] = blocks(3, 4).flatten()
    labels = cluster_rows(rows, valid, eps=0.5, min_samples=3)
    assert labels.tolist() == [[0, 0, -1, 0, 1, 1, -1, 1, 1]]


def scattered(seed, count, spread):
    """Points around a few centres: a batch has cores, chains, border points between two clusters, and noise."""
    generator = torch.Generator().manual_seed(seed)
    centres = 4 * torch.rand(5, 3, generator=generator)
    return centres[torch.randint(5, (count,), generator=generator)] + spread * torch.randn(
        count, 3, generator=generator
    )


@pytest.mark.parametrize(("eps", "min_samples"), [(0.3, 3), (0.5, 4), (0.8, 7), (0.4, 1), (2.0, 10)])
def test_labels_are_those_of_sklearn(eps, min_samples):
    batch = torch.stack([torch.nn.functional.pad(scattered(i, 60, 0.1 + 0.1 * i), (0, 57)) for i in range(8)])
    labels = cluster_rows(batch, torch.ones(8, 60, dtype=torch.bool), eps, min_samples)
    expected = [DBSCAN(eps=eps, min_samples=min_samples).fit_predict(rows.numpy()) for rows in batch]
    assert labels.tolist() == np.stack(expected).tolist()
    assert labels.max() > 0 or eps == 2.0


def test_labels_are_those_of_sklearn_where_rows_are_much_longer_than_the_radius():
    rows = torch.nn.functional.pad(scattered(0, 200, 0.3), (0, 197)) + 30
    labels = cluster_rows(rows[None], torch.ones(1, 200, dtype=torch.bool), 0.3, 3)
    assert labels[0].tolist() == DBSCAN(eps=0.3, min_samples=3).fit_predict(rows.numpy()).tolist()
    assert labels.max() > 5


def test_a_long_chain_is_one_cluster_wherever_it_starts():
    order = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    rows = torch.zeros(1, 200, 200)
    rows[0, :, 0] = order.float()
    assert cluster_rows(rows, torch.ones(1, 200, dtype=torch.bool), 1.0, 2).eq(0).all()


def test_images_of_a_batch_may_have_their_own_parameters():
    rows = torch.stack([scattered(i, 40, 0.3) for i in range(2)])
    rows = torch.nn.functional.pad(rows, (0, 37))
    valid = torch.ones(2, 40, dtype=torch.bool)
    labels = cluster_rows(rows, valid, torch.tensor([0.3, 0.6]), torch.tensor([3, 5]))
    for index, (eps, min_samples) in enumerate([(0.3, 3), (0.6, 5)]):
        one = slice(index, index + 1)
        assert torch.equal(labels[one], cluster_rows(rows[one], valid[one], eps, min_samples))


def test_published_settings_and_what_lies_around_them():
    assert default_clustering((14, 14)) == (pytest.approx(0.7), 3)
    assert default_clustering((21, 21)) == (pytest.approx(1.1), 7)
    # Same number of patches, same setting: 7x28 has as many as 14x14.
    assert default_clustering((7, 28)) == (pytest.approx(0.7), 3)
    assert default_clustering((7, 7)) == (pytest.approx(0.35), 2)
    assert default_clustering((42, 42)) == (pytest.approx(2.2), 28)


def test_settings_grow_with_the_grid():
    settings = [default_clustering((side, side)) for side in range(2, 60)]
    assert settings == sorted(settings)
    assert all(later[1] >= earlier[1] for earlier, later in zip(settings, settings[1:], strict=False))


@pytest.mark.parametrize(("eps", "min_samples"), [(0.0, 3), (-1.0, 3), (0.7, 0)])
def test_parameters_out_of_range(eps, min_samples):
    with pytest.raises(ValueError, match=f"eps={eps}, min_samples={min_samples}"):
        cluster_rows(torch.ones(1, 2, 2), torch.ones(1, 2, dtype=torch.bool), eps, min_samples)


def test_the_radius_is_a_quantile_of_the_distances_to_the_kth_neighbour():
    rows = torch.rand(2, 6, 6, generator=torch.Generator().manual_seed(0))
    valid = torch.tensor([[True] * 6, [True, True, False, True, True, False]])
    rows *= valid[:, :, None] & valid[:, None, :]
    found = core_radius(rows, valid, torch.tensor([3, 2]), share=0.4)
    for image, keep, k, radius in zip(rows, valid, (3, 2), found, strict=True):
        distances = torch.cdist(image[keep], image[keep]).sort(1).values
        assert radius == pytest.approx(distances[:, k - 1].quantile(0.4).item(), rel=1e-4)


@pytest.mark.parametrize("min_samples", [2, 5])
def test_nine_tenths_of_the_patches_are_cores_wherever_they_lie(min_samples):
    # Rows of a tower that tells patches apart well; of one whose patches are all alike; of one where none are.
    apart = torch.rand(1, 40, 40, generator=torch.Generator().manual_seed(0))
    valid = torch.ones(1, 40, dtype=torch.bool)
    for rows in (apart, 0.01 * apart + 0.9, 0.01 * apart + torch.eye(40)):
        eps = core_radius(rows, valid, min_samples)
        distances = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")
        near = distances <= eps * (1 + 1e-3)
        assert (near.sum(2) >= min_samples).float().mean() >= CORE_SHARE


def test_equal_distances_are_not_lost_by_rounding():
    valid = torch.ones(1, 10, dtype=torch.bool)
    for scale in torch.rand(50, generator=torch.Generator().manual_seed(0)):
        rows = scale * torch.eye(10)[None]  # every patch as far from every other
        assert cluster_rows(rows, valid, core_radius(rows, valid, 2), 2).eq(0).all()


def test_the_same_regions_are_found_however_small_or_alike_the_rows_are():
    rows = blocks(4, 3, 5)[None] + 0.05 * torch.rand(1, 12, 12, generator=torch.Generator().manual_seed(0))
    valid = torch.ones(1, 12, dtype=torch.bool)
    for changed in (rows, 0.05 * rows, 20 * rows, 0.05 * rows + 0.9):
        labels = cluster_rows(changed, valid, core_radius(changed, valid, 3), 3)[0]
        assert [set(part.tolist()) - {-1} for part in labels.split([4, 3, 5])] == [{0}, {1}, {2}]
    # A radius for the first of them takes the smaller ones for one region.
    assert cluster_rows(0.05 * rows, valid, 0.7, 3).eq(0).all()


@pytest.mark.parametrize("value", [0.0, 0.3])
def test_rows_that_are_all_equal_are_one_region(value):
    rows, valid = torch.full((1, 9, 9), value), torch.ones(1, 9, dtype=torch.bool)
    assert cluster_rows(rows, valid, core_radius(rows, valid, 3), 3).eq(0).all()
