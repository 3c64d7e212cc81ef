import numpy as np
import pytest

from ovml_deploy.runtime.calibration import Calibration
from ovml_deploy.runtime.results import Tag, TagResult, scores_of, select_tags
from ovml_deploy.runtime.vocabulary import Vocabulary


def select(logits, top_k=None, threshold=None, activation="sigmoid", calibration=None):
    labels = tuple(f"l{i}" for i in range(len(logits)))
    vocabulary = Vocabulary("v", labels, np.zeros((len(labels), 1)), "t", "p", calibration)
    winners = np.arange(len(labels)) * 10
    values = np.array(logits, dtype=np.float32)
    return select_tags(values, winners, vocabulary, activation, top_k, threshold)


def test_best_first_with_score_logit_and_query() -> None:
    tags = select([0.0, 2.0, -1.0])
    assert [tag.label for tag in tags] == ["l1", "l0", "l2"]
    assert [tag.query for tag in tags] == [10, 0, 20]
    assert [tag.logit for tag in tags] == [2.0, 0.0, -1.0]
    assert tags[0].score == pytest.approx(1 / (1 + np.exp(-2)))


@pytest.mark.parametrize("top_k", [1, 2, 3, 4, 9])
def test_top_k_keeps_the_best(top_k: int) -> None:
    assert [tag.label for tag in select([3, 1, 4, 2], top_k)] == ["l2", "l0", "l3", "l1"][:top_k]


@pytest.mark.parametrize("top_k", range(1, 41))
def test_ties_stay_in_the_order_of_the_vocabulary(top_k: int) -> None:
    """Also the ties of which only some are kept."""
    logits = [float(i % 3 == 0) for i in range(40)]
    expected = sorted(range(40), key=lambda i: -logits[i])[:top_k]
    assert [tag.label for tag in select(logits, top_k)] == [f"l{i}" for i in expected]


def test_many_labels_agree_with_a_plain_sort() -> None:
    logits = np.random.default_rng(0).integers(-50, 50, 5000) / 7
    expected = np.argsort(-logits.astype(np.float32), kind="stable")[:100]
    assert [tag.label for tag in select(logits, 100)] == [f"l{i}" for i in expected]


def test_threshold_keeps_scores_that_reach_it() -> None:
    assert [tag.label for tag in select([0, 1, -1], threshold=0.5)] == ["l1", "l0"]
    assert select([0, 1, -1], threshold=0.9) == ()
    assert len(select([0, 1, -1], threshold=0.0)) == 3
    assert len(select([0, 1, -1], top_k=1, threshold=0.5)) == 1


def test_extreme_logits_give_scores() -> None:
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        sigmoid = scores_of(np.array([-1e30, -800, 0, 800, 1e30]), "sigmoid")
        np.testing.assert_array_equal(sigmoid, [0, 0, 0.5, 1, 1])
        softmax = scores_of(np.array([[1e4, 1e4, 0.0]], dtype=np.float32), "softmax")
    np.testing.assert_allclose(softmax, [[0.5, 0.5, 0]])


def test_softmax_scores_sum_to_one_over_the_whole_vocabulary() -> None:
    tags = select([5, 4, 3, 2], top_k=2, activation="softmax")
    assert tags[0].score == pytest.approx(1 / (1 + np.exp([-1, -2, -3]).sum()))
    assert sum(tag.score for tag in select([5, 4, 3], activation="softmax")) == pytest.approx(1)


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_a_calibrated_score_is_the_sigmoid_of_slope_and_offset(activation: str) -> None:
    calibration = Calibration(2.0, np.array([-1, 3, 0.5]), threshold=0.0)
    tags = select([1.0, -1.0, 0.0], activation=activation, calibration=calibration)
    assert [(t.label, t.logit, t.query) for t in tags] == [
        ("l0", 1.0, 0),
        ("l1", -1.0, 10),  # as probable as l0: the vocabulary's order
        ("l2", 0.0, 20),
    ]
    expected = 1 / (1 + np.exp(-np.array([1, 1, 0.5])))
    np.testing.assert_allclose([t.score for t in tags], expected)


def test_top_k_is_by_calibrated_score() -> None:
    calibration = Calibration(1.0, np.array([0, 9, 5, 0]))
    tags = select([8.0, 0.0, 1.0, 7.0], top_k=2, calibration=calibration)
    assert [tag.label for tag in tags] == ["l1", "l0"]


def test_certain_labels_are_still_ranked() -> None:
    """Beyond 37 or so, a float64 sigmoid is 1."""
    calibration = Calibration(1.0, np.array([50, 60, 70]))
    tags = select([0.0, 0.0, 0.0], top_k=2, calibration=calibration)
    assert [tag.label for tag in tags] == ["l2", "l1"]
    assert [tag.score for tag in tags] == [1.0, 1.0]


@pytest.mark.parametrize(
    ("threshold", "labels"),
    [(None, ["l2"]), (0.0, ["l2", "l1", "l0"]), (0.5, ["l2", "l1"]), (1.0, [])],
)
def test_a_calibrations_threshold_is_the_default(threshold, labels: list[str]) -> None:
    calibration = Calibration(1.0, np.zeros(3), threshold=0.8)
    tags = select([-1.0, 0.5, 2.0], threshold=threshold, calibration=calibration)
    assert [tag.label for tag in tags] == labels


def test_there_may_be_no_tag() -> None:
    assert select([0.0, 1.0], calibration=Calibration(1.0, np.full(2, -9))) == ()


def test_a_result_is_a_sequence_of_tags() -> None:
    tags = tuple(Tag(name, 0.5, 0.0, 0) for name in "abc")
    result = TagResult("x.jpg", tags, "id")
    assert len(result) == 3
    assert [tag.label for tag in result] == ["a", "b", "c"]
    assert result[1] in result
    assert result[:2] == tags[:2]
    assert not TagResult("x.jpg", (), "id", "bad")
