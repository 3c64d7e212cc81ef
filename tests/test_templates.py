"""The prompt pools and how a label is put into them."""

import pytest

from ovml_deploy.templates import CLIP_TEMPLATES, QKS_TEMPLATES, fill, template_hash


def test_clip_pool_is_open_clips() -> None:
    metadata = pytest.importorskip("open_clip.zero_shot_metadata")
    theirs = [template("{}") for template in metadata.OPENAI_IMAGENET_TEMPLATES]
    assert list(CLIP_TEMPLATES) == theirs


def test_qks_pool_is_clips_and_five_about_scenes() -> None:
    assert len(CLIP_TEMPLATES) == 80
    assert len(QKS_TEMPLATES) == len(set(QKS_TEMPLATES)) == 85
    assert QKS_TEMPLATES[:80] == CLIP_TEMPLATES
    assert all("in the scene" in template for template in QKS_TEMPLATES[80:])
    assert all(template.count("{}") == 1 for template in QKS_TEMPLATES)


@pytest.mark.parametrize("label", ["cat", "{}", "{0} {x}", "100%", "\\1", ""])
def test_fill_takes_any_label_as_it_is(label: str) -> None:
    assert fill("a photo of a {}.", label) == "a photo of a " + label + "."


def test_hash_names_content_and_order() -> None:
    assert template_hash(["a {}", "b {}"]) == template_hash(("a {}", "b {}"))
    assert template_hash(["a {}", "b {}"]) != template_hash(["b {}", "a {}"])
    assert template_hash(["a {}", "b {}"]) != template_hash(["a {}b {}"])
    # it is written into vocabularies: it must never change
    assert template_hash(["a photo of a {}."]) == "3849a0dee9e53fa0"
    assert len(template_hash(QKS_TEMPLATES)) == 16
