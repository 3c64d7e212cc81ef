"""Tiny backbones of every kind, with seeded random weights."""

import functools
import json
from pathlib import Path
from typing import Any

# torch and open_clip are imported inside: the runtime's tests must also run without them.

_TEXT = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2}
_VIT = {"image_size": 32, "patch_size": 8, "width": 64, "head_width": 32, "layers": 2}
_WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "photo", "of", "the", "cat", "dog"]
_WORDS += ["car", "there", "is", "in", "scene", ".", "##s", "##er", "red", "small", "bench"]

#: What the prompt-tuned models are tuned for: labels, and the group of each.
TUNED = {"cat": "animals", "red car": "things", "dog": "animals", "tree": "plants"}

#: CoCa's image tower, which ends in an attentional pooler.
POOLER_VISION = {**_VIT, "layers": 1, "attentional_pool": True, "attn_pooler_heads": 2}

#: The shape of CoCa: an attentional pooler, and texts with a class token and a mask of their own.
COCA: dict[str, Any] = {
    "embed_dim": 32,
    "custom_text": True,
    "vision_cfg": {**POOLER_VISION, "output_tokens": True},
    "text_cfg": {
        "context_length": 12,
        "width": 32,
        "heads": 2,
        "layers": 1,
        "embed_cls": True,
        "output_tokens": True,
    },
    "multimodal_cfg": {"context_length": 12, "width": 32, "heads": 2, "layers": 1},
}

CONFIGS: dict[str, dict[str, Any]] = {
    "tiny-clip": {"embed_dim": 32, "quick_gelu": False, "vision_cfg": _VIT, "text_cfg": _TEXT},
    "tiny-resnet": {
        "embed_dim": 32,
        "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 64},
        "text_cfg": _TEXT,
    },
    "tiny-map": {  # the shape of SigLIP: attention pooling, a bias, text read at its last position
        "embed_dim": 64,
        "init_logit_bias": -10,
        "custom_text": True,
        "vision_cfg": {
            "image_size": 160,
            "timm_model_name": "test_vit",
            "timm_pool": "map",
            "timm_proj": "none",
        },
        "text_cfg": {
            **_TEXT,
            "context_length": 16,
            "no_causal_mask": True,
            "proj_bias": True,
            "pool_type": "last",
        },
    },
    "tiny-cnn": {
        "embed_dim": 32,
        "vision_cfg": {
            "image_size": 64,
            "timm_model_name": "test_efficientnet",
            "timm_pool": "avg",
            "timm_proj": "linear",
        },
        "text_cfg": _TEXT,
    },
    "tiny-average": {  # the shape of CLIPA: patches averaged, then the LayerNorm
        "embed_dim": 32,
        "vision_cfg": {**_VIT, "no_ln_pre": True, "pool_type": "avg", "final_ln_after_pool": True},
        "text_cfg": {**_TEXT, "context_length": 16, "no_causal_mask": True, "pool_type": "last"},
    },
}


def randomise(model: Any, seed: int) -> None:
    """Give every parameter and statistic a value of its own, so that none can be forgotten."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if not tensor.is_floating_point() or name in ("logit_scale", "logit_bias"):
                continue
            noise = torch.randn(tensor.shape, generator=generator)
            if name.endswith("running_var"):
                tensor.copy_(noise.abs() + 0.5)
            elif tensor.ndim > 1:
                gain = 2.0 if tensor.ndim == 4 else 1.0  # or a deep CNN forgets its input
                tensor.copy_(noise * gain * tensor[0].numel() ** -0.5)
            elif "mask" not in name:
                tensor.add_(noise * 0.1)


@functools.cache
def load(spec: Any) -> Any:
    """A backbone, loaded once: it is frozen, so tests may share it (and must not change it)."""
    from ovml_deploy.models.backbone import Backbone

    return Backbone.load(spec)


def make_hf_folder(folder: Path) -> Any:
    """Write an open_clip folder whose text tower is a Hugging Face model; return its spec."""
    import torch
    from transformers import BertConfig, BertTokenizerFast

    from ovml_deploy.models.backbone import Backbone, BackboneSpec

    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text("\n".join(_WORDS))
    BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    BertConfig(
        vocab_size=len(_WORDS),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=32,
    ).save_pretrained(folder)
    text = {
        "hf_model_name": ".",
        "hf_tokenizer_name": ".",
        "hf_proj_type": "linear",
        "hf_pooler_type": "mean_pooler",
        "context_length": 24,
    }
    model = {"embed_dim": 32, "vision_cfg": _VIT, "text_cfg": text}
    preprocess = {"size": [32, 32], "mean": [0.5] * 3, "std": [0.25] * 3, "resize_mode": "squash"}
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": model, "preprocess_cfg": preprocess})
    )
    spec = BackboneSpec(f"local-dir:{folder}")
    inner = Backbone.load(spec, load_weights=False).model
    randomise(inner, 5)
    torch.save(inner.state_dict(), folder / "open_clip_pytorch_model.bin")
    return spec
