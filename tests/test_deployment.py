"""What can be known of the deployment files without Docker, a cluster, or systemd as process 1."""

import configparser
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fire
import pytest
import yaml
from fire.core import FireExit
from shell import ROOT

from ovml_deploy.cli import Commands
from ovml_deploy.commandline import Job
from ovml_deploy.runtime.labels import parse_grouped_labels
from ovml_deploy.serving.settings import Settings

KEY = "0123456789abcdef" * 2
UNIT = ROOT / "deploy/ovml-deploy.service"


def accepted(arguments: Sequence[str]) -> bool:
    """Whether the command's own parser takes a command line, which is not run."""
    try:
        found = fire.Fire(Commands(), list(arguments), name="ovml-deploy", serialize=lambda _: None)
    except FireExit:
        return False
    return isinstance(found, Job)


def instructions(stage: int = -1) -> list[tuple[str, str]]:
    """A stage of the Dockerfile: words and what follows them, on one line each."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text("utf-8"), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    pairs = [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines)]
    starts = [i for i, (word, _) in enumerate(pairs) if word == "FROM"]
    stages = [
        pairs[start:end] for start, end in zip(starts, [*starts[1:], len(pairs)], strict=True)
    ]
    return [pair for pair in stages[stage] if pair[0]]


def last(word: str, stage: int = -1) -> str:
    return [rest for found, rest in instructions(stage) if found == word][-1]


def image_command() -> list[str]:
    assert json.loads(last("ENTRYPOINT")) == ["ovml-deploy"]
    return json.loads(last("CMD"))


def option(arguments: Sequence[str], name: str) -> str:
    joined = [part for argument in arguments for part in argument.split("=", 1)]
    return joined[joined.index(f"--{name}") + 1]


def documents(name: str) -> dict[str, Any]:
    """A file's Kubernetes objects by kind."""
    found = yaml.safe_load_all((ROOT / "deploy" / name).read_text("utf-8"))
    return {each["kind"]: each for each in found if each}


def seconds(text: str) -> float:
    return float(text.removesuffix("s"))


def test_the_parser_refuses_what_is_no_option() -> None:
    assert not accepted([*image_command(), "--no-such-option", "1"])


def test_what_the_image_is_built_from_is_here_and_sent_to_docker() -> None:
    sent = {
        line[1:]
        for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines()
        if line.startswith("!")
    }
    copied = {
        source
        for word, rest in instructions(0)
        if word == "COPY"
        for source in shlex.split(rest)[:-1]
    }
    assert copied == sent
    assert all((ROOT / source).exists() for source in copied)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert {project["readme"], *project["license-files"], "pyproject.toml"} <= copied


def test_the_image_is_built_by_the_step_of_make() -> None:
    extras = last("ARG", 0).partition("=")[2]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert {*extras.split(",")} <= {*project["optional-dependencies"]}
    build = last("RUN", 0)
    step = shlex.split(build.partition("&&")[0].replace("${EXTRAS}", extras))
    printed = subprocess.run(
        [*step, "--dry-run", "--always-make"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    (installs,) = (
        line for line in printed.splitlines() if " pip install " in line and "-c " in line
    )
    words = shlex.split(installs)
    assert words[-1] == f".[{extras}]"
    assert "-e" not in words
    assert words[words.index("-c") + 1] == "constraints.txt"


def test_the_image_runs_the_server_as_nobody_in_particular() -> None:
    command = image_command()
    assert accepted(command)
    assert command[0] == "serve"
    user = last("USER").partition(":")[0]
    assert user.isdecimal()
    assert int(user) > 0
    volume = last("VOLUME")
    assert option(command, "state").startswith(f"{volume}/")
    assert f"OVML_CACHE={volume}/cache" in shlex.split(last("ENV"))
    assert option(command, "port") == last("EXPOSE")
    assert last("STOPSIGNAL") == "SIGTERM"
    assert "torch" not in (ROOT / "Dockerfile").read_text("utf-8").split("FROM", 1)[1]


@contextmanager
def serving(engine: Path, folder: Path, key: str | None) -> Iterator[tuple[Any, str]]:
    """The image's own command, on a port that is free; and the address it listens on."""
    places = {"engine": str(engine), "state": str(folder / "state"), "port": "0"}
    command = image_command()
    for name, value in places.items():
        command[command.index(f"--{name}") + 1] = value
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    if key is not None:
        (folder / "key").write_text(key)
        environment["OVML_API_KEY_FILE"] = str(folder / "key")
    process = subprocess.Popen(
        [sys.executable, "-m", "ovml_deploy.cli", *command],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    address = ""
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if '"listening"' in line:
                address = json.loads(line)["url"]
                break
        yield process, address
    finally:
        process.kill()
        process.wait()


def test_its_health_check_tells_a_server_that_is_ready(tiny_bundle: Path, tmp_path: Path) -> None:
    check = json.loads(last("HEALTHCHECK").partition("CMD ")[2])
    with serving(tiny_bundle, tmp_path, KEY) as (process, address):
        port = address.rpartition(":")[2]
        check = [sys.executable, *(part.replace(":8000/", f":{port}/") for part in check[1:])]
        proxy = {**os.environ, "http_proxy": "http://127.0.0.1:9"}  # nobody is there
        assert subprocess.run(check, env=proxy).returncode == 0
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 0
        assert subprocess.run(check, env=proxy, capture_output=True).returncode != 0


def test_it_does_not_start_without_a_key(tiny_bundle: Path, tmp_path: Path) -> None:
    with serving(tiny_bundle, tmp_path, None) as (process, address):
        assert process.wait() == 2
        assert not address


def test_compose() -> None:
    whole = yaml.safe_load((ROOT / "compose.yaml").read_text("utf-8"))
    (service,) = whole["services"].values()
    command = image_command()
    places = dict(volume.split(":")[:2][::-1] for volume in service["volumes"])
    assert places == {option(command, "engine"): "./build/qks", last("VOLUME"): "state"}
    assert set(whole["volumes"]) == {"state"}
    (secret,) = service["secrets"]
    assert set(whole["secrets"]) == {secret}
    assert service["environment"] == {"OVML_API_KEY_FILE": f"/run/secrets/{secret}"}
    assert service["ports"] == [f"127.0.0.1:8000:{option(command, 'port')}"]
    assert seconds(service["stop_grace_period"]) > Settings().drain
    assert service["read_only"]
    assert "/tmp" in service["tmpfs"]
    key = whole["secrets"][secret]["file"]
    kept_out = subprocess.run(["git", "check-ignore", "-q", key], cwd=ROOT)
    assert (
        kept_out.returncode == 0
    )  # of git; and of the image by .dockerignore, which names what goes in


def container() -> tuple[dict[str, Any], dict[str, Any]]:
    pod = documents("kubernetes.yaml")["Deployment"]["spec"]["template"]["spec"]
    (only,) = pod["containers"]
    return pod, only


def test_kubernetes_runs_the_image() -> None:
    pod, only = container()
    assert accepted(only["args"])
    image = image_command()
    for name in ("engine", "host", "port"):
        assert option(only["args"], name) == option(image, name)
    (user,) = {pod["securityContext"][name] for name in ("runAsUser", "runAsGroup", "fsGroup")}
    assert last("USER") == f"{user}:{user}"
    assert pod["securityContext"]["runAsNonRoot"]
    assert only["securityContext"]["readOnlyRootFilesystem"]
    mounts = {mount["mountPath"]: mount for mount in only["volumeMounts"]}
    assert {mount["name"] for mount in mounts.values()} == {each["name"] for each in pod["volumes"]}
    writable = {path for path, mount in mounts.items() if not mount.get("readOnly")}
    assert writable == {last("VOLUME"), "/tmp"}
    (variable,) = only["env"]
    assert variable["name"] == "OVML_API_KEY_FILE"
    assert str(Path(variable["value"]).parent) in mounts


def test_kubernetes_words() -> None:
    pod, only = container()
    words = documents("kubernetes.yaml")["ConfigMap"]
    (volume,) = (each for each in pod["volumes"] if "configMap" in each)
    assert volume["configMap"]["name"] == words["metadata"]["name"]
    (mount,) = (each for each in only["volumeMounts"] if each["name"] == volume["name"])
    file = Path(option(only["args"], "vocab"))
    assert str(file.parent) == mount["mountPath"]
    assert len(parse_grouped_labels(words["data"][file.name])) == 3


def test_probes_ask_what_the_server_answers() -> None:
    from ovml_deploy.serving.http.app import create_routes

    routes = create_routes().openapi()["paths"]
    _, only = container()
    asked = {name: only[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")}
    assert {name: probe["path"] for name, probe in asked.items()} == {
        "startup": "/readyz",
        "liveness": "/healthz",
        "readiness": "/readyz",
    }
    ports = {port["name"]: port["containerPort"] for port in only["ports"]}
    for probe in asked.values():
        assert probe["path"] in routes
        assert ports[probe["port"]] == int(option(only["args"], "port"))
    service = documents("kubernetes.yaml")["Service"]
    assert service["spec"]["ports"][0]["targetPort"] in ports


def test_pods_have_the_time_to_end() -> None:
    pod, only = container()
    command, pause = only["lifecycle"]["preStop"]["exec"]["command"]
    assert command == "sleep"
    assert pod["terminationGracePeriodSeconds"] > float(pause) + Settings().drain


def test_one_label_selects_all() -> None:
    objects = documents("kubernetes.yaml") | documents("kubernetes-autoscaling.yaml")
    spec = objects["Deployment"]["spec"]
    labels = spec["template"]["metadata"]["labels"]
    assert spec["selector"]["matchLabels"] == labels
    assert objects["Service"]["spec"]["selector"] == labels
    for kind in ("PodDisruptionBudget", "PodMonitor"):
        assert objects[kind]["spec"]["selector"]["matchLabels"] == labels


def test_scaling_looks_at_what_the_server_counts() -> None:
    from ovml_deploy.serving.metrics import Metrics

    pod, only = container()
    objects = documents("kubernetes-autoscaling.yaml")
    (metric,) = objects["HorizontalPodAutoscaler"]["spec"]["metrics"]
    adapter = yaml.safe_load((ROOT / "deploy/prometheus-adapter.yaml").read_text("utf-8"))
    (rule,) = adapter["rules"]["custom"]
    assert metric["pods"]["metric"]["name"] == rule["name"]["as"]
    counted = set(re.findall(r"^(\w+)", Metrics().text().decode(), re.MULTILINE))
    used = set(re.findall(r"ovml_\w+(?=\{)", rule["seriesQuery"] + rule["metricsQuery"]))
    assert used == {"ovml_queue_seconds_count", "ovml_queue_seconds_sum"} <= counted
    assert re.match(rule["name"]["matches"], "ovml_queue_seconds_count")
    (endpoint,) = objects["PodMonitor"]["spec"]["podMetricsEndpoints"]
    assert endpoint["port"] in {port["name"] for port in only["ports"]}
    key = endpoint["authorization"]["credentials"]
    (volume,) = (each for each in pod["volumes"] if "secret" in each)
    assert volume["secret"]["secretName"] == key["name"]
    assert Path(only["env"][0]["value"]).name == key["key"]
    target = objects["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert target["name"] == documents("kubernetes.yaml")["Deployment"]["metadata"]["name"]


def unit() -> dict[str, list[str]]:
    """The settings of the unit's [Service], each with its values."""
    parser = configparser.RawConfigParser(strict=False, interpolation=None, delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(UNIT.read_text("utf-8"))  # that it is a unit file at all
    found: dict[str, list[str]] = {}
    for line in UNIT.read_text("utf-8").partition("[Service]")[2].splitlines():
        name, separator, value = line.partition("=")
        if separator and not name.startswith("#"):
            found.setdefault(name, []).append(value)
    return found


def test_the_unit_runs_the_server() -> None:
    settings = unit()
    program, *arguments = shlex.split(settings["ExecStart"][0])
    assert Path(program).name == "ovml-deploy"
    assert accepted(arguments)
    assert option(arguments, "state").startswith(f"%S/{settings['StateDirectory'][0]}/")
    credential = settings["LoadCredential"][0].partition(":")[0]
    assert f"OVML_API_KEY_FILE=%d/{credential}" in settings["Environment"]
    assert f"OVML_CACHE=%C/{settings['CacheDirectory'][0]}" in settings["Environment"]
    assert settings["Type"] == ["exec"]
    assert settings["DynamicUser"] == ["yes"]
    assert settings["KillSignal"] == ["SIGTERM"]
    assert seconds(settings["TimeoutStopSec"][0]) > Settings().drain


def test_telemetry_is_off_where_own_scripts_run_too() -> None:
    image = shlex.split(last("ENV"))
    assert {"ORT_DISABLE_TELEMETRY=1", "RAY_USAGE_STATS_ENABLED=0"} <= set(image)
    assert "ORT_DISABLE_TELEMETRY=1" in unit()["Environment"]


def test_pods_open_no_connection() -> None:
    objects = documents("kubernetes.yaml")
    policy = objects["NetworkPolicy"]["spec"]
    assert policy["podSelector"] == objects["Deployment"]["spec"]["selector"]
    assert (policy["policyTypes"], policy["egress"]) == (["Egress"], [])


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed")
    program = shlex.split(unit()["ExecStart"][0])[0]
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text("utf-8").replace(program, sys.executable))  # it must exist
    for command in (
        ["verify", "--man=no"],
        ["security", "--offline=yes", "--threshold=20"],  # tenths: at most 2.0 of 10 exposed
    ):
        result = subprocess.run([analyze, *command, copy], capture_output=True, text=True)
        assert result.returncode == 0, result.stdout + result.stderr
    assert not result.stderr


DOCUMENT = ROOT / "docs/deployment.md"


def test_the_document_names_what_is_there() -> None:
    text = DOCUMENT.read_text("utf-8")
    links = re.findall(r"\]\(([^)#]+)\)", text)
    assert {f"../deploy/{path.name}" for path in (ROOT / "deploy").iterdir()} <= {*links}
    for link in links:
        if "://" not in link:
            assert (DOCUMENT.parent / link).exists(), link


def test_the_documents_commands_are_real() -> None:
    from export.triton import main
    from ovml_deploy.serving.ray_app import Arguments, build_app

    text = DOCUMENT.read_text("utf-8")
    blocks = re.findall(r"^```bash\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    lines = re.sub(r"\\\n\s*", "", "".join(blocks)).splitlines()
    commands = [shlex.split(line, comments=True) for line in lines]
    (triton,) = (words[3:] for words in commands if words[1:3] == ["-m", "export.triton"])
    assert isinstance(fire.Fire(main, triton, name="triton", serialize=lambda _: None), Job)
    (ray,) = (words[words.index("run") + 1 :] for words in commands if "serve" in words)
    Arguments(**dict(word.split("=", 1) for word in ray[1:]))
    (config,) = re.findall(r"^```yaml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    (application,) = yaml.safe_load(config)["applications"]
    assert application["import_path"] == ray[0] == f"{build_app.__module__}:{build_app.__name__}"
    Arguments(**application["args"])
    assert [*application["deployments"][0]["user_config"]] == ["name", "labels"]
