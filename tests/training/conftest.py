"""Generated images of coloured discs, tiny official layouts, a CLIP whose labels lie far apart."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 200, 30),
    "blue": (40, 40, 230),
    "yellow": (230, 220, 30),
    "purple": (150, 30, 170),
    "white": (245, 245, 245),
}


@dataclass(frozen=True)
class Discs:
    """A folder of images, each with its labels, in file order."""

    folder: Path
    labels: tuple[tuple[str, ...], ...]

    @property
    def paths(self) -> list[Path]:
        return [self.folder / f"{index}.png" for index in range(len(self.labels))]

    def write_csv(self, name: str, rows: Sequence[int]) -> Path:
        """Write some images in the official layout, exhaustively annotated."""
        lines = [f"{row}.png,{'|'.join(self.labels[row])}," for row in rows]
        path = self.folder / name
        path.write_text("\n".join(["image_path,posi_labels,nega_labels", *lines]) + "\n")
        return path


def draw_discs(names: Sequence[str], path: Path, random: np.random.Generator) -> None:
    """Save an image with a disc of each colour."""
    image = Image.new("RGB", (48, 40), (70, 70, 70))
    for name in names:
        left, top = int(random.integers(0, 32)), int(random.integers(0, 24))
        ImageDraw.Draw(image).ellipse((left, top, left + 14, top + 14), fill=COLOURS[name])
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def write_lines(path: Path, lines: Sequence[object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join(f"{line}\r\n" for line in lines).encode())  # as on Windows


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Tiny models run fastest on one thread, and sums come out the same everywhere."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def discs(tmp_path_factory: pytest.TempPathFactory) -> Discs:
    """160 images, each with one to three discs of the six COLOURS."""
    folder, random = tmp_path_factory.mktemp("discs"), np.random.default_rng(0)
    labels = []
    for index in range(160):
        names = tuple(str(n) for n in random.choice(list(COLOURS), random.integers(1, 4), False))
        draw_discs(names, folder / f"{index}.png", random)
        labels.append(names)
    return Discs(folder, tuple(labels))


@pytest.fixture(scope="session")
def wordy_clip(tiny_clip: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """``tiny_clip`` whose text features depend on the words more than on the frame around them."""
    import torch

    from ovml_deploy.models.backbone import BackboneSpec

    weights = torch.load(tiny_clip.pretrained, weights_only=True)
    weights["token_embedding.weight"] *= 20
    weights["token_embedding.weight"][49406:] = 0  # start and end of text
    weights["positional_embedding"] *= 0.1
    path = tmp_path_factory.mktemp("wordy") / "weights.pt"
    torch.save(weights, path)
    return BackboneSpec(tiny_clip.name, str(path))


#: What the eight images of a test part show; a training part has them three times.
SHOWN = (
    ("red",),
    ("red", "green"),
    ("blue",),
    (),
    ("green", "yellow"),
    ("purple", "red"),
    ("white",),
    ("blue", "yellow", "white"),
)


@pytest.fixture(scope="session")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with SHOWN in every official layout, in small. Copy a layout before changing it."""
    data = tmp_path_factory.mktemp("official") / "data"
    make_voc(data / "VOC2007")
    make_nus_wide(data / "NUS-WIDE")
    make_open_images(data / "OpenImages")
    make_coco(data / "coco")
    return data


def make_voc(folder: Path) -> None:
    """Three classes; blue is the class "diningtable", and difficult where there is yellow too."""
    for part, start, shown in (("trainval", 1, SHOWN * 3), ("test", 101, SHOWN)):
        names = [f"{start + index:06}" for index in range(len(shown))]
        for name, labels in zip(names, shown, strict=True):
            draw_discs(labels, folder / "JPEGImages" / f"{name}.jpg", np.random.default_rng(0))
        for label, colour in (("green", "green"), ("red", "red"), ("diningtable", "blue")):
            values = [
                0 if colour == "blue" and "yellow" in labels else 1 if colour in labels else -1
                for labels in shown
            ]
            lines = [f"{name} {value:2}" for name, value in zip(names, values, strict=True)]
            write_lines(folder / "ImageSets" / "Main" / f"{label}_{part}.txt", lines)
        write_lines(folder / "ImageSets" / "Main" / f"{part}.txt", names)


def make_nus_wide(folder: Path) -> None:
    """Tags red, green, yellow, blue; concepts yellow, purple, white, of which people are sure."""
    tags, concepts = ("red", "green", "yellow", "blue"), ("purple", "white", "yellow")
    write_lines(folder / "NUS_WID_Tags" / "TagList1k.txt", tags)
    write_lines(folder / "ConceptsList" / "Concepts81.txt", concepts)
    for part, shown in (("Train", SHOWN * 3), ("Test", SHOWN)):
        names = [f"{part.lower()}\\{index:04}_7.jpg" for index in range(len(shown))]
        write_lines(folder / "ImageList" / f"{part}Imagelist.txt", names)
        for name, labels in zip(names, shown, strict=True):
            path = folder / "Flickr" / name.replace("\\", "/")
            draw_discs(labels, path, np.random.default_rng(0))
        write_lines(
            folder / "NUS_WID_Tags" / f"{part}_Tags1k.dat",
            ["".join(f"{int(tag in labels)}\t" for tag in tags) for labels in shown],
        )
        for concept in concepts:
            write_lines(
                folder / "Groundtruth" / "TrainTestLabels" / f"Labels_{concept}_{part}.txt",
                [int(concept in labels) for labels in shown],
            )


def make_open_images(folder: Path) -> None:
    """MIDs /m/red and so on; the next colour is verified absent; /m/strange has no name."""
    colours = list(COLOURS)
    rows = ["LabelName,DisplayName", *(f'/m/{c},"{c.capitalize()}, disc"' for c in colours)]
    write_lines(folder / "oidv6-class-descriptions.csv", rows)
    write_lines(folder / "classes-trainable.txt", ["/m/red", "/m/green", "/m/blue"])
    write_lines(folder / "unseen.txt", ["/m/yellow", "White, disc"])
    for part, shown in (("train", SHOWN * 3), ("test", SHOWN)):
        human, machine = (["ImageID,Source,LabelName,Confidence"] for _ in range(2))
        for index, labels in enumerate(shown):
            name = f"{index:016x}"
            draw_discs(labels, folder / part / f"{name}.jpg", np.random.default_rng(0))
            human += [f"{name},verification,/m/{label},1" for label in labels]
            absent = [c for c in colours if c not in labels][:2]
            human += [f"{name},crowdsource-verification,/m/{c},0" for c in absent]
            human.append(f"{name},verification,/m/strange,1")
            machine += [
                f"{name},machine,/m/{label},{0.9 - 0.3 * rank:.1f}"
                for rank, label in enumerate(labels)
            ]
        prefix = "oidv6-" if part == "train" else ""
        write_lines(folder / f"{prefix}{part}-annotations-human-imagelabels.csv", human)
        write_lines(folder / f"{part}-annotations-machine-imagelabels.csv", machine)


def make_coco(folder: Path) -> None:
    """The colours as categories with gaps in their ids; one image has no annotation."""
    categories = [{"id": 10 * i + 1, "name": name} for i, name in enumerate(COLOURS)]
    numbers = {category["name"]: category["id"] for category in categories}
    images, annotations = [], []
    for index, labels in enumerate(SHOWN):
        name = f"COCO_val2014_{index:012}.jpg"
        draw_discs(labels, folder / "val2014" / name, np.random.default_rng(0))
        images.append({"id": 1000 - index, "file_name": name})
        annotations += [
            {"id": len(annotations) + i, "image_id": 1000 - index, "category_id": numbers[label]}
            for i, label in enumerate(labels)
        ]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations").mkdir()
    (folder / "annotations" / "instances_val2014.json").write_text(json.dumps(content))
