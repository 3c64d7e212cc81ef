"""Archives need pyarrow."""

import pytest

pytest.importorskip("pyarrow", reason="the extra 'archives' (pyarrow) is not installed")
