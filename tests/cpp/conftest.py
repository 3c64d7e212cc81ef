import pytest
from cpp import require_onnxruntime


@pytest.fixture(scope="module", params=["openvino", "cpu"])
def device(request: pytest.FixtureRequest) -> str:
    """Each of the devices that C++ is built for."""
    if request.param == "cpu":
        require_onnxruntime()
    return str(request.param)
