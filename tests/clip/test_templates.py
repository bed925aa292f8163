import pytest

from san_cliptrase.clip.templates import TEMPLATES, load_templates


def test_the_published_sets():
    assert [len(TEMPLATES[name]) for name in ("imagenet", "vild", "none")] == [80, 14, 1]
    assert TEMPLATES["imagenet"][0] == "a bad photo of a {}."
    assert all(template.count("{}") == 1 for templates in TEMPLATES.values() for template in templates)


def test_own_sentences():
    assert load_templates(["a drawing of {}"]) == ("a drawing of {}",)


def test_bad_templates():
    with pytest.raises(ValueError, match="'imagnet'.*imagenet, none, vild"):
        load_templates("imagnet")
    with pytest.raises(ValueError, match="'a photo' has no place"):
        load_templates(["a photo"])
    with pytest.raises(ValueError, match="no templates"):
        load_templates([])
