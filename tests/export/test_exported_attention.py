"""The attention that is exported: the same results as the modules it stands in for, with less work."""

from pathlib import Path

import onnx
import pytest
import torch
from open_clip.transformer import ResidualAttentionBlock
from torch import nn

from export.attention import CrossAttention, SelfAttention, written_out
from export.graphs import export_encoder
from ovml_deploy.models.qks import QKSConfig, QKSHead


@pytest.mark.parametrize("masked", [False, True])
def test_self_attention(masked: bool) -> None:
    torch.manual_seed(0)
    block = ResidualAttentionBlock(24, 3).eval()
    nn.init.normal_(block.attn.in_proj_bias)
    assert SelfAttention.takes(block)
    tokens = torch.randn(2, 7, 24)
    mask = torch.full((7, 7), float("-inf")).triu(1) if masked else None
    with torch.inference_mode():
        expected, _ = block.attn(tokens, tokens, tokens, need_weights=False, attn_mask=mask)
        found, _ = SelfAttention(block.attn)(tokens, tokens, tokens, attn_mask=mask)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_what_it_does_not_take() -> None:
    assert not SelfAttention.takes(ResidualAttentionBlock(24, 3, is_cross_attention=True))
    assert not SelfAttention.takes(ResidualAttentionBlock(24, 3, batch_first=False))
    block = ResidualAttentionBlock(24, 3)
    block.attn = nn.MultiheadAttention(24, 3, bias=False, batch_first=True)
    assert not SelfAttention.takes(block)


def test_cross_attention() -> None:
    torch.manual_seed(0)
    head = QKSHead(QKSConfig(width=24, layers=1, attention_heads=3, intermediate=8, embed_dim=4))
    attention = head.net.encoder.layer[0].crossattention.self.eval()
    for parameter in attention.parameters():
        nn.init.normal_(parameter, std=0.5)
    queries, tokens = torch.randn(2, 5, 24), torch.randn(2, 17, 24)
    with torch.inference_mode():
        expected = attention.look(queries, tokens)
        written = CrossAttention(attention)
        found = written.look(queries, tokens)
        torch.testing.assert_close(written(queries, tokens), found[0], rtol=0, atol=0)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_a_model_is_afterwards_as_it_was(tiny_model) -> None:
    before = dict(tiny_model.named_modules())

    def stopped() -> None:
        with written_out(tiny_model):
            kinds = {type(module) for module in tiny_model.modules()}
            assert {SelfAttention, CrossAttention} <= kinds
            assert nn.MultiheadAttention not in kinds
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert dict(tiny_model.named_modules()) == before


def test_no_key_and_no_value_is_made_of_image_tokens(tiny_model, tmp_path: Path) -> None:
    """The head's products with weights are of queries alone."""
    export_encoder(tiny_model, tmp_path / "encoder.onnx")
    graph = onnx.shape_inference.infer_shapes(onnx.load(tmp_path / "encoder.onnx")).graph
    width = tiny_model.head.config.width
    stacks = [tensor for tensor in graph.initializer if len(tensor.dims) == 3]
    by_head = [tensor for tensor in stacks if width in tensor.dims[1:]]
    assert len(by_head) >= 2 * tiny_model.head.config.layers
    names = {tensor.name for tensor in by_head}
    products = [node for node in graph.node if node.op_type == "MatMul" and node.input[1] in names]
    assert len(products) == 2 * tiny_model.head.config.layers
