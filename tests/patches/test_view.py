import numpy as np

from san_cliptrase.patches.view import patch_classes


def test_a_patch_has_the_class_of_most_of_its_labelled_pixels():
    truth = np.array([[0, 0, 1, -1, 2], [0, 3, -1, -1, 2], [1, 1, -1, -1, -1]])
    # Patches of 2x2 pixels: the last column and row of patches lie half outside.
    assert patch_classes(truth, (2, 3), (2.0, 2.0)).tolist() == [0, 1, 2, 1, -1, -1]
