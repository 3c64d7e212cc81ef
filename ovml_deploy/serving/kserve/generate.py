"""Writes ``open_inference_pb2.py`` from ``open_inference.proto``.

Run as ``python -m ovml_deploy.serving.kserve.generate``; it needs grpcio-tools.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

_HERE = Path(__file__).parent
SOURCE = _HERE / "open_inference.proto"
TARGET = _HERE / "open_inference_pb2.py"
_WIDTH = 88

_HEADER = '''"""Generated from open_inference.proto by ovml_deploy.serving.kserve.generate; do not edit."""

# What protoc itself writes puts the protocol's names into the pool that all of a process shares, where
# other implementations of the protocol have them already (tritonclient's), and runs on few versions
# of protobuf.

#: The file as a serialised FileDescriptorProto, base64.
DESCRIPTOR = (
'''


def generated() -> str:
    """Return the module's text."""
    import base64

    lines = base64.b64encode(_descriptor()).decode()
    parts = [lines[start : start + _WIDTH] for start in range(0, len(lines), _WIDTH)]
    return _HEADER + "".join(f'    "{part}"\n' for part in parts) + ")\n"


def _descriptor() -> bytes:
    """Return the protocol as protoc reads it, without what protoc derives from names."""
    from google.protobuf.descriptor_pb2 import FileDescriptorSet

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "set"
        command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{_HERE}"]
        subprocess.run([*command, f"--descriptor_set_out={out}", str(SOURCE)], check=True)
        (file,) = FileDescriptorSet.FromString(out.read_bytes()).file
    for message in file.message_type:
        _forget_json_names(message)
    return bytes(file.SerializeToString(deterministic=True))


def _forget_json_names(message: object) -> None:
    for field in message.field:  # type: ignore[attr-defined]
        field.ClearField("json_name")
    for nested in message.nested_type:  # type: ignore[attr-defined]
        _forget_json_names(nested)


if __name__ == "__main__":
    TARGET.write_text(generated())
