"""Plans: TensorRT engines built ahead of time from a bundle's graphs, and the JSON that tells of them.

``qks.plan`` is the encoder, ``qks.matcher.plan`` and ``qks.text_encoder.plan`` are the label side, and
``qks.json`` describes all three. Nothing here needs a GPU or TensorRT.
"""

import hashlib
import json
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ovml_deploy.errors import BundleError, DeviceError
from ovml_deploy.files import sha256_file, write_atomically
from ovml_deploy.runtime.bundle import ENCODER, GOLDEN, MATCHER, TEXT_ENCODER, Bundle

FORMAT = "ovml-deploy/plan"
VERSION = 1
SUFFIX = ".plan"
RTX, ENTERPRISE = "rtx", "enterprise"  #: the flavours of TensorRT
GRAPHS = (ENCODER, MATCHER, TEXT_ENCODER)


@dataclass(frozen=True)
class Tensor:
    """An input or output. Free dimensions go by name: ``("batch", 224, 224, 3)``."""

    dtype: str
    shape: tuple[str | int, ...]


@dataclass(frozen=True)
class PlanGraph:
    """One engine: its file, what it takes and gives, and what was read back from it.

    ``profile``: smallest, best and greatest size of each free dimension. ``products``: how many
    matrix products and convolutions compute in each precision; ``precision``: the lowest of those.
    ``layers``: how many layers there are of each kind.
    """

    file: str
    sha256: str
    bytes: int
    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]
    profile: Mapping[str, tuple[int, int, int]]
    precision: str
    products: Mapping[str, int]
    layers: Mapping[str, int]


@dataclass(frozen=True)
class Plan:
    """The engines of a bundle for some GPUs. ``targets``: their architectures, such as "sm89"."""

    path: Path  #: of the encoder's plan
    bundle_hash: str
    flavour: str  #: "rtx" or "enterprise"
    tensorrt: str  #: the version of TensorRT that built it, and alone can load it
    targets: tuple[str, ...]
    graphs: Mapping[str, PlanGraph]

    @classmethod
    def read(cls, path: str | Path) -> "Plan":
        """Read the JSON beside a ``.plan`` file. Raises BundleError."""
        plan = Path(path)
        source = metadata_path(plan)
        if not source.is_file():
            raise BundleError(
                f"There is no {source.name} beside {plan}, which tells what the plan is. Copy it, too, or "
                f"build the plan again: {rebuild_command(plan.parent, plan)}"
            )
        try:
            value = json.loads(source.read_text("utf-8"))
            if value["format"] != FORMAT or value["version"] != VERSION:
                raise ValueError(f"format {value['format']!r}, version {value['version']!r}")
            return _from_json(plan, value)
        except (ValueError, KeyError, TypeError, AttributeError, OSError, RecursionError) as error:
            raise BundleError(
                f"{source} does not describe a plan of this release ({type(error).__name__}: {error}). "
                f"Build the plan again: {rebuild_command(plan.parent, plan)}"
            ) from error

    def write(self) -> None:
        """Write the JSON beside the plan."""
        value = {
            "format": FORMAT,
            "version": VERSION,
            "bundle": self.bundle_hash,
            "tensorrt": {"flavour": self.flavour, "version": self.tensorrt},
            "targets": self.targets,
            "graphs": {name: asdict(graph) for name, graph in self.graphs.items()},
        }
        with write_atomically(metadata_path(self.path)) as temporary:
            temporary.write_text(json.dumps(value, indent=2) + "\n", "utf-8")

    @property
    def precision(self) -> str:
        """Of the encoder."""
        return self.graphs[ENCODER].precision

    def summary(self) -> str:
        """Return in a line what this is, for people."""
        size = sum(graph.bytes for graph in self.graphs.values()) / 1e6
        return (
            f"{self.path.name}: {self.flavour} TensorRT {self.tensorrt} for {', '.join(self.targets)}, "
            f"{self.precision}, {size:.1f} MB"
        )

    def check_bundle(self, bundle: Bundle) -> None:
        """Raise BundleError if the plan was built from another bundle."""
        if self.bundle_hash != bundle_hash(bundle):
            raise BundleError(
                f"{self.path} was built from another bundle than {bundle.path} (hash "
                f"{self.bundle_hash}, not {bundle_hash(bundle)}). {self._remedy(bundle.path)}"
            )

    def check_version(self, installed: str) -> None:
        """Raise DeviceError if another version of TensorRT than the installed one built the plan."""
        if self.tensorrt != installed:
            raise DeviceError(
                f"{self.path} was built by another version of TensorRT ({self.flavour} {self.tensorrt}; "
                f"installed is {installed}), and only that one can load it. {self._remedy()}"
            )

    def check_device(self, name: str, compute_capability: tuple[int, int]) -> None:
        """Raise DeviceError if the plan was not built for such a GPU."""
        target = target_of(compute_capability)
        if target not in self.targets:
            raise DeviceError(
                f"{self.path} was built for another device: for {', '.join(self.targets)}, and {name} "
                f"is {target}. {self._remedy(target=target)}"
            )

    def file(self, name: str) -> Path:
        """Return a graph's plan file after checking its SHA-256. Raises BundleError."""
        graph = self.graphs[name]
        path = self.path.parent / graph.file
        if not path.is_file():
            raise BundleError(f"{path} is missing. Copy all files of the plan. {self._remedy()}")
        if sha256_file(path) != graph.sha256:
            raise BundleError(
                f"{path} was changed after it was built: its SHA-256 is not the one in "
                f"{metadata_path(self.path).name}. {self._remedy()}"
            )
        return path

    def _remedy(self, bundle: Path | None = None, target: str | None = None) -> str:
        command = rebuild_command(
            bundle or self.path.parent, self.path, target or ",".join(self.targets), self.flavour
        )
        return f"Build it again: {command}"


def find_plans(folder: Path) -> tuple[list[Plan], dict[Path, str]]:
    """Return the plans in a folder, and why those that cannot be read cannot."""
    plans, faults = [], {}
    for file in sorted(folder.glob(f"*{SUFFIX}")):
        if metadata_path(file).is_file():
            try:
                plans.append(Plan.read(file))
            except BundleError as error:
                faults[file] = str(error)
    return plans, faults


def metadata_path(plan: Path) -> Path:
    """Return the path of the JSON beside a plan."""
    return plan.with_suffix(".json")


def graph_path(plan: Path, name: str) -> Path:
    """Return the path of a graph's engine: the encoder's is the plan itself."""
    return plan if name == ENCODER else plan.with_suffix(f".{Path(name).stem}{SUFFIX}")


def target_of(compute_capability: tuple[int, int]) -> str:
    """Return the name of an architecture: (8, 9) is "sm89"."""
    major, minor = compute_capability
    return f"sm{major}{minor}"


def bundle_hash(bundle: Bundle) -> str:
    """Name what a plan is built from: the three graphs and the golden outputs (16 digits)."""
    files = bundle.manifest["files"]
    names = [part for name in (*GRAPHS, GOLDEN) for part in (name, f"{name}.data") if part in files]
    hashes = [files[name]["sha256"] for name in names]
    return hashlib.sha256(json.dumps(hashes).encode()).hexdigest()[:16]


def rebuild_command(
    bundle: Path, plan: Path, target: str = "current", flavour: str = "auto"
) -> str:
    """Return the command that builds a plan."""
    command = ["python", "-m", "export.tensorrt", "--bundle", str(bundle), "--target", target]
    flavours = [] if flavour == "auto" else ["--flavour", flavour]
    return shlex.join([*command, *flavours, "--out", str(plan)])


def _from_json(path: Path, value: Mapping[str, Any]) -> Plan:
    graphs = {name: _graph(value["graphs"][name]) for name in GRAPHS}
    for name, graph in graphs.items():
        if graph.file != graph_path(path, name).name:  # renamed, or leading out of the folder
            raise ValueError(f"{name} is in {graph.file!r}")
    if value["tensorrt"]["flavour"] not in (RTX, ENTERPRISE):
        raise ValueError(f"flavour {value['tensorrt']['flavour']!r}")
    return Plan(
        path=path,
        bundle_hash=_text(value["bundle"]),
        flavour=_text(value["tensorrt"]["flavour"]),
        tensorrt=_text(value["tensorrt"]["version"]),
        targets=tuple(_text(target) for target in value["targets"]),
        graphs=graphs,
    )


def _graph(value: Mapping[str, Any]) -> PlanGraph:
    tensors = {
        side: {
            name: Tensor(_text(tensor["dtype"]), tuple(tensor["shape"]))
            for name, tensor in value[side].items()
        }
        for side in ("inputs", "outputs")
    }
    profile = {}
    for name, sizes in value["profile"].items():
        least, best, most = map(int, sizes)
        profile[name] = (least, best, most)
        if not 1 <= least <= best <= most:
            raise ValueError(f"profile {name} = {sizes}")
    return PlanGraph(**{**value, **tensors, "profile": profile})


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value
