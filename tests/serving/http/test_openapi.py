"""The OpenAPI document: committed, complete, and of the API as it is."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from in_process import Served

from ovml_deploy.serving.http import openapi

DOCUMENT = Path(__file__).parents[3] / "docs/openapi.json"


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return json.loads(DOCUMENT.read_text("utf-8"))


def test_the_committed_document_is_the_apis(server: Served, capsys) -> None:
    assert openapi.main(["--check", "--out", str(DOCUMENT)]) == 0, capsys.readouterr().err
    assert server.get("/openapi.json").json == json.loads(DOCUMENT.read_text("utf-8"))


def test_another_document_is_not(tmp_path: Path, capsys) -> None:
    path = tmp_path / "openapi.json"
    assert openapi.main(["--check", "--out", str(path)]) == 1
    assert openapi.main(["--out", str(path)]) == 0
    assert openapi.main(["--check", "--out", str(path)]) == 0
    path.write_text(path.read_text().replace("top_k", "top_j"))
    assert openapi.main(["--check", "--out", str(path)]) == 1
    assert "Write it anew: python -m ovml_deploy.serving.http.openapi" in capsys.readouterr().err


def test_all_that_it_refers_to_is_there(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    referred = set(re.findall(r'"\$ref": "([^"]*)"', json.dumps(document)))
    assert referred
    for reference in referred:
        assert reference.startswith("#/components/schemas/"), reference
        assert reference.rpartition("/")[2] in schemas


def test_it_says_what_errors_there_are(document: dict[str, Any]) -> None:
    for path, methods in document["paths"].items():
        for method, about in methods.items():
            known = set(about["responses"])
            assert {"401", "403", "408", "413", "429", "503"} <= known, (path, method)
            assert about["summary"], (path, method)
            assert about["description"].strip(), (path, method)


def test_it_says_that_a_key_is_needed(document: dict[str, Any]) -> None:
    assert document["security"] == [{"bearer": []}, {"header": []}]
    schemes = document["components"]["securitySchemes"]
    assert schemes["header"] == {"type": "apiKey", "in": "header", "name": "X-API-Key"}
    opened = {
        path for path, m in document["paths"].items() if m.get("get", {}).get("security") == []
    }
    assert opened == {"/healthz", "/readyz"}
