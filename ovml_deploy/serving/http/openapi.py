"""The OpenAPI document: written from the routes, and kept in ``docs/openapi.json``.

::

    python -m ovml_deploy.serving.http.openapi [--out docs/openapi.json] [--check]
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from ovml_deploy.files import write_atomically
from ovml_deploy.serving.http.app import create_routes

_OUT = "docs/openapi.json"


def text() -> str:
    """Return the document as it is kept: JSON, one value a line."""
    return json.dumps(create_routes().openapi(), indent=1, ensure_ascii=False) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Write the document, or say whether it is as it should be (exit code 1 where it is not)."""
    parser = argparse.ArgumentParser(description="Write the API's OpenAPI document.")
    parser.add_argument("--out", type=Path, default=Path(_OUT))
    parser.add_argument("--check", action="store_true", help="change nothing, only compare")
    given = parser.parse_args(argv)
    if not given.check:
        with write_atomically(given.out) as temporary:
            temporary.write_text(text(), "utf-8")
    elif not given.out.is_file() or given.out.read_text("utf-8") != text():
        print(
            f"{given.out} is not what the API is. Write it anew: "
            f"python -m ovml_deploy.serving.http.openapi --out {given.out}",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
