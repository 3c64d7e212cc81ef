"""What a kill leaves of vocabularies: all that was acknowledged, and nothing by halves."""

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shell import ROOT
from stores import SOON, Gate, opened, put

from ovml_deploy.runtime.engine import Engine

KILLED = """
import json, random, sys
from itertools import count
from pathlib import Path
from ovml_deploy.errors import VocabularyError
from ovml_deploy.runtime.engine import Engine
from ovml_deploy.serving.vocabularies import VocabularyStore
store = VocabularyStore(Engine.open(sys.argv[1], "cpu"), Path(sys.argv[2]))
run = sys.argv[3]
chance = random.Random(int(run))
print("ready", flush=True)
for turn in count():
    what, name = chance.choice(["put", "put", "activate", "delete"]), chance.choice("abc")
    labels = [f"{name} {run} {turn} {i}" for i in range(6)] if what == "put" else []
    print(json.dumps([what, name, labels]), flush=True)
    try:
        if what == "put":
            store.put(name, labels)
        elif what == "activate":
            store.activate(name)
        else:
            store.delete(name)
        print("done", flush=True)
    except VocabularyError:
        print("refused", flush=True)
    if chance.random() < 0.3 and name in store:
        store.wait(name)
"""


def test_a_deletion_that_is_cut_short_leaves_no_older_version(
    engine: Engine, tmp_path: Path, monkeypatch
) -> None:
    """Killed among the files of a vocabulary whose newer labels were accepted, not yet embedded."""
    gate: Any = Gate(engine)
    with opened(gate, tmp_path) as store:
        gate.open.set()
        put(store, "mine", ["cat"])
        gate.open.clear()
        store.put("mine", ["dog"])
        with monkeypatch.context() as context:
            context.setattr(Path, "unlink", killed)
            context.setattr(shutil, "rmtree", killed)
            with pytest.raises(KeyboardInterrupt):
                store.delete("mine")
        gate.open.set()
    with opened(engine, tmp_path) as store:
        assert "mine" not in store
    assert {path.name for path in tmp_path.iterdir()} <= {".lock"}


def killed(path: Path, *_: object, **__: object) -> None:
    if Path(path).exists():
        raise KeyboardInterrupt


def test_a_kill_at_any_moment_loses_nothing(
    engine: Engine, tiny_bundle: Path, tmp_path: Path
) -> None:
    """What was acknowledged holds; of what was not, either the old or the new is there, whole."""
    chance = random.Random(0)
    labels: dict[str, list[str] | None] = dict.fromkeys("abc")
    active = "few"
    seen: dict[str, int] = {}
    for run in range(12):
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, tiny_bundle, tmp_path / "state", str(run)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        lines = [process.stdout.readline() for _ in range(chance.randrange(80))]
        time.sleep(chance.uniform(0.0, 0.02))
        process.send_signal(signal.SIGKILL)
        lines += process.stdout.read().splitlines()
        process.wait()
        process.stdout.close()
        ever = [[*known] for known in labels.values() if known]
        unsure = None
        for line, answer in zip(lines[::2], [*lines[1::2], ""], strict=False):
            try:
                what, name, words = json.loads(line)
            except ValueError:
                break  # killed while it wrote the line
            ever.append(words)
            if answer.strip() == "refused":
                continue
            if answer.strip() != "done":
                unsure = (what, name, words)
                break
            seen[what] = seen.get(what, 0) + 1
            if what == "activate":
                active = name
            else:
                labels[name] = words or None
        with opened(engine, tmp_path / "state") as store:
            assert not any(entry.state == "failed" for entry in store.entries())
            for name in labels:
                may = [labels[name]]
                if unsure and unsure[1] == name and unsure[0] != "activate":
                    may.append(unsure[2] or None)
                if name in store:
                    for entry in (store.entry(name), store.wait(name, SOON)):
                        if entry.id is not None:
                            assert [*store.labels(name)] in ever
                    vocabulary = store.get(name)
                    expected = engine.text_encoder.embed(vocabulary.labels)
                    np.testing.assert_allclose(vocabulary.embeddings, expected, atol=1e-5)
                    labels[name] = [*vocabulary.labels]
                else:
                    labels[name] = None
                assert labels[name] in may
            now = store.active()[1].name
            assert now == active or (unsure and unsure[:2] == ("activate", now))
            active = now
    assert min(seen[what] for what in ("put", "activate", "delete")) >= 5, seen
