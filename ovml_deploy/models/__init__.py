"""The PyTorch side: backbones, heads, and the checkpoints that hold them."""
