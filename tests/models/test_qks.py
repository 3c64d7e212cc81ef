"""The QKS head against an independent computation of DESIGN.md section 5."""

import numpy as np
import pytest
import torch
from qks_reference import qks_attention, qks_features, qks_logits

from ovml_deploy.models.qks import QKSConfig, QKSHead


def random_head(config: QKSConfig, seed: int = 0) -> QKSHead:
    """A head whose every parameter, norms and biases included, is random."""
    head = QKSHead(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in head.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 1:
                parameter.add_(noise * 0.2)
            else:
                parameter.copy_(noise * 1.5 * parameter.shape[-1] ** -0.5)
    return head


def as_numpy(head: QKSHead) -> dict[str, np.ndarray]:
    return {name: value.detach().numpy() for name, value in head.state_dict().items()}


@pytest.mark.parametrize(
    "config",
    [
        QKSConfig(64, 32, layers=1, queries=1, attention_heads=1, intermediate=96),
        QKSConfig(64, 32, layers=3, queries=5, attention_heads=4, intermediate=128),
        QKSConfig(96, 96, layers=2, queries=12, attention_heads=12, intermediate=64),
    ],
)
@torch.no_grad()
def test_forward_equals_the_design(config: QKSConfig) -> None:
    head = random_head(config)
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randn(2, 7, config.width, generator=generator)
    labels = torch.randn(9, config.embed_dim, generator=generator)
    features = head(tokens)
    expected = qks_features(as_numpy(head), tokens.numpy(), config.attention_heads)
    assert features.shape == (2, config.queries, config.embed_dim)
    np.testing.assert_allclose(features.numpy(), expected, atol=1e-4, rtol=1e-4)
    logits, winners = head.match(features, labels)
    expected_logits, expected_winners = qks_logits(expected, labels.numpy())
    np.testing.assert_allclose(logits.numpy(), expected_logits, atol=2e-4, rtol=1e-4)
    np.testing.assert_array_equal(winners.numpy(), expected_winners)


@pytest.mark.parametrize(("layers", "heads"), [(1, 1), (3, 4)])
@torch.no_grad()
def test_where_it_looks_equals_the_design(layers: int, heads: int) -> None:
    config = QKSConfig(64, 32, layers=layers, queries=5, attention_heads=heads, intermediate=96)
    head = random_head(config)
    tokens = torch.randn(2, 7, config.width, generator=torch.Generator().manual_seed(1))
    features, looked = head.look(tokens)
    assert torch.equal(features, head(tokens))
    expected = qks_attention(as_numpy(head), tokens.numpy(), heads)
    assert looked.shape == (2, 5, 7)
    np.testing.assert_allclose(looked.numpy(), expected, atol=1e-5)
    np.testing.assert_allclose(looked.sum(dim=2), 1, atol=1e-5)


@torch.no_grad()
def test_every_parameter_matters() -> None:
    """No part of the stack is left out: changing any one tensor changes the features."""
    head = random_head(QKSConfig(32, 16, layers=2, queries=4, attention_heads=2, intermediate=48))
    tokens = torch.randn(1, 6, 32, generator=torch.Generator().manual_seed(3))
    before = head(tokens)
    for name, parameter in head.named_parameters():
        kept = parameter.clone()
        noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(4))
        parameter.add_(noise * 0.1)
        changed = (head(tokens) - before).abs().max() > 1e-4
        parameter.copy_(kept)
        # softmax does not see a constant added to all keys' scores
        assert changed != name.endswith("self.key.bias"), name


@torch.no_grad()
def test_tokens_are_a_set_and_images_are_independent() -> None:
    """There is no positional embedding, and nothing leaks within a batch."""
    config = QKSConfig(64, 32, layers=2, queries=3, attention_heads=4, intermediate=64)
    head = random_head(config)
    tokens = torch.randn(3, 10, 64, generator=torch.Generator().manual_seed(5))
    features = head(tokens)
    torch.testing.assert_close(head(tokens.flip(1)), features, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(head(tokens[2:]), features[2:], rtol=1e-4, atol=1e-5)


def test_state_dict_has_the_official_names() -> None:
    head = QKSHead(QKSConfig(64, 32, layers=2, queries=5, attention_heads=4, intermediate=96))
    layers = {
        f"net.encoder.layer.{i}.{part}.{kind}"
        for i in range(2)
        for part in (
            *(
                f"{attention}.{inner}"
                for attention in ("attention", "crossattention")
                for inner in (
                    "self.query",
                    "self.key",
                    "self.value",
                    "output.dense",
                    "output.LayerNorm",
                )
            ),
            "intermediate_query.dense",
            "output_query.dense",
            "output_query.LayerNorm",
        )
        for kind in ("weight", "bias")
    }
    norms = {"net.embeddings.LayerNorm.weight", "net.embeddings.LayerNorm.bias"}
    assert set(head.state_dict()) == {"proj", "query_tokens"} | norms | layers
    assert head.query_tokens.shape == (1, 5, 64)
    assert head.proj.shape == (64, 32)


def test_defaults_are_the_papers() -> None:
    config = QKSConfig()
    assert (config.width, config.embed_dim, config.layers, config.queries) == (768, 512, 7, 12)
    assert (config.attention_heads, config.intermediate, config.dropout) == (12, 3072, 0.1)


def test_initialisation() -> None:
    torch.manual_seed(0)
    projection = torch.randn(256, 64)
    config = QKSConfig(256, 64, layers=1, queries=40, attention_heads=4, intermediate=512)
    head = QKSHead(config, projection)
    assert torch.equal(head.proj, projection)
    assert head.proj.requires_grad
    assert head.query_tokens.std().item() == pytest.approx(0.02, rel=0.05)
    assert head.query_tokens.mean().item() == pytest.approx(0.0, abs=1e-3)
    # the head owns a copy: training it leaves the backbone's projection alone
    with torch.no_grad():
        head.proj.add_(1)
    assert not torch.equal(head.proj, projection)


def test_dropout_is_on_in_training_only_and_gradients_reach_everything() -> None:
    head = QKSHead(QKSConfig(64, 32, layers=2, queries=4, attention_heads=4, intermediate=64))
    tokens = torch.randn(2, 6, 64)
    head.eval()
    assert torch.equal(head(tokens), head(tokens))
    head.train()
    assert not torch.equal(head(tokens), head(tokens))
    logits, _ = head.match(head(tokens), torch.randn(8, 32))
    logits.square().sum().backward()
    assert all(parameter.grad is not None for parameter in head.parameters())


def test_match_takes_the_best_query() -> None:
    features = torch.tensor([[[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0]]])
    labels = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.5, 0.5]])
    head = QKSHead(QKSConfig(4, 2, layers=1, queries=3, attention_heads=2, intermediate=4))
    logits, winners = head.match(features, labels)
    assert logits.tolist() == [[1.0, 2.0, 3.0, 1.0]]
    assert winners.tolist() == [[0, 1, 2, 1]]


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match="width 64 is not divisible by attention_heads 7"):
        QKSConfig(width=64, attention_heads=7)
