"""Sentences as images: the text tower's features of whole sentences and of their tokens."""

from typing import Any

import pytest
import torch
from backbones import load
from torch.nn import functional as F

from ovml_deploy.training.sentences import encode_sentences

TEXTS = ["a cat", "there is a red car in the scene .", "dog", "a photo of the small bench"]


@pytest.mark.parametrize("name", ["tiny_clip", "tiny_hf", "tiny_siglip"])
@torch.no_grad()
def test_features_are_those_of_the_text_tower(request: Any, name: str) -> None:
    backbone = load(request.getfixturevalue(name))
    told: list[int] = []
    found = encode_sentences(backbone, TEXTS, told.append)
    assert sum(told) == len(found) == len(TEXTS)
    expected = F.normalize(backbone.text_features(TEXTS), dim=-1)
    torch.testing.assert_close(found.whole, expected, rtol=1e-4, atol=1e-5)
    lengths = [len(ids) for ids in backbone.token_ids(TEXTS)]
    assert (found.starts[1:] - found.starts[:-1]).tolist() == lengths


@torch.no_grad()
def test_token_features_go_through_the_towers_projection(tiny_clip: Any) -> None:
    backbone = load(tiny_clip)
    model = backbone.model
    found = encode_sentences(backbone, TEXTS)
    for row, text in enumerate(TEXTS):
        (ids,) = backbone.token_ids([text])
        hidden = model.token_embedding(torch.tensor([ids])) + model.positional_embedding[: len(ids)]
        mask = model.attn_mask[: len(ids), : len(ids)]
        hidden = model.ln_final(model.transformer(hidden, attn_mask=mask))
        expected = F.normalize(hidden[0] @ model.text_projection, dim=-1)
        tokens = found.tokens[found.starts[row] : found.starts[row + 1]].float()
        torch.testing.assert_close(tokens, expected, rtol=0, atol=1e-3)  # kept as float16
        # the last token is the end of the text, from which the whole is read
        torch.testing.assert_close(tokens[-1], found.whole[row], rtol=0, atol=1e-3)


def test_a_batch_says_what_is_text(tiny_clip: Any) -> None:
    found = encode_sentences(load(tiny_clip), TEXTS)
    whole, tokens, real = found.batch(torch.tensor([2, 1]))
    lengths = (found.starts[1:] - found.starts[:-1])[[2, 1]]
    assert torch.equal(whole, found.whole[[2, 1]])
    assert torch.equal(real.sum(dim=1), lengths)
    for row, sentence in enumerate((2, 1)):
        own = found.tokens[found.starts[sentence] : found.starts[sentence + 1]].float()
        assert torch.equal(tokens[row][real[row]], own)
