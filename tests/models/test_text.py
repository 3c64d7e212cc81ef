"""Text features at the texts' own length equal open_clip's at full length."""

import pytest
import torch
from backbones import load

PROMPTS = [
    "a photo of the cat .",
    "cat",
    "there is a red car in the scene .",
    "a photo of a small bench in the scene ! ?!",
    "?! é 猫",
]
TOWERS = ["tiny_clip", "tiny_resnet", "tiny_siglip", "tiny_cnn", "tiny_average", "tiny_hf"]


@pytest.mark.parametrize("name", TOWERS)
@torch.no_grad()
def test_own_length_equals_full_length(request, name: str) -> None:
    backbone = load(request.getfixturevalue(name))
    ids = backbone.tokenizer(PROMPTS)
    expected = backbone.model.encode_text(ids)
    features = backbone.text_features(PROMPTS)
    assert features.shape == (len(PROMPTS), backbone.embed_dim)
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)
    # one at a time: other lengths, the same features
    alone = torch.cat([backbone.text_features([prompt]) for prompt in PROMPTS])
    torch.testing.assert_close(alone, expected, rtol=1e-4, atol=1e-5)
    assert (expected[0] - expected[1]).abs().max() > 1e-2


@pytest.mark.parametrize(
    ("name", "cuts"),
    [("tiny_clip", True), ("tiny_hf", True), ("tiny_siglip", False), ("tiny_average", False)],
)
@torch.no_grad()
def test_only_towers_where_it_is_exact_run_at_a_shorter_length(request, name, cuts) -> None:
    backbone = load(request.getfixturevalue(name))
    assert backbone.text.any_length is cuts
    ids = backbone.tokenizer(["cat"])
    if cuts:
        short = backbone.text.encode(ids)
        torch.testing.assert_close(backbone.text(ids[:, :3], (ids[:, :3] != 0).long()), short)
        lengths: list[int] = []

        def note(module, args, kwargs) -> None:
            lengths.append((args[0] if args else kwargs["input_ids"]).shape[1])

        transformer = backbone.text.tower.transformer
        hook = transformer.register_forward_pre_hook(note, with_kwargs=True)
        backbone.text.encode(ids)
        hook.remove()
        assert lengths == [3]  # start, cat, end
    else:
        shifted = ids.clone()
        shifted[:, -1] = 7  # the last position counts, padding or not
        assert (backbone.text.encode(ids) - backbone.text.encode(shifted)).abs().max() > 1e-3


@torch.no_grad()
def test_hugging_face_padding_is_masked_out(tiny_hf) -> None:
    """Mean over the text's own tokens, computed from the hidden states by hand."""
    backbone = load(tiny_hf)
    ids = backbone.tokenizer(["a photo of the cat .", "dog"])
    length = int((ids[1] != 0).sum())
    tower = backbone.text.tower
    hidden = tower.transformer(
        input_ids=ids[1:, :length], attention_mask=torch.ones(1, length, dtype=torch.long)
    ).last_hidden_state
    expected = tower.proj(hidden.mean(dim=1))
    torch.testing.assert_close(
        backbone.text_features(["a photo of the cat .", "dog"])[1:], expected, rtol=1e-4, atol=1e-5
    )


@torch.no_grad()
def test_a_text_longer_than_the_context_is_cut_as_open_clip_cuts_it(tiny_clip) -> None:
    backbone = load(tiny_clip)
    long = "cat " * 200
    expected = backbone.model.encode_text(backbone.tokenizer([long]))
    torch.testing.assert_close(backbone.text_features([long]), expected, rtol=1e-4, atol=1e-5)


def test_batches_do_not_matter(tiny_clip) -> None:
    backbone = load(tiny_clip)
    torch.testing.assert_close(
        backbone.text_features(PROMPTS, batch_size=2),
        backbone.text_features(PROMPTS),
        rtol=1e-4,
        atol=1e-5,
    )


def test_text_features_can_be_trained_against(tiny_clip) -> None:
    """They are constants, yet a gradient passes through a product with them."""
    features = load(tiny_clip).text_features(PROMPTS)
    weight = torch.ones(32, requires_grad=True)
    (features @ weight).sum().backward()
    torch.testing.assert_close(weight.grad, features.sum(dim=0))
