"""The PyTorch side: backbones, heads, and the checkpoints that hold them."""

from ovml_deploy.runtime.telemetry import silence_hugging_face

silence_hugging_face()  # before open_clip imports huggingface_hub, which reads the variable then
