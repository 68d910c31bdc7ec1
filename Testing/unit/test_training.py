"""Training: it learns, it stops in time, it never sees a subject twice, and its head start changes no architecture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from ADAttributionLogic.architectures.catalogue import build_network, initialise
from ADAttributionLogic.training.fit import Epoch, fit, predict
from ADAttributionLogic.training.head_start import StandardisedFeatures, start_head
from ADAttributionLogic.training.metrics import performance
from ADAttributionLogic.training.recipe import BOEHLE_2019, RIEKE_2018, Recipe
from ADAttributionLogic.training.scans import augment, batches, move, require_disjoint_subjects

SHAPE = (78, 78, 78)


@dataclass
class Scan:
    subject: str
    label: int
    array: np.ndarray

    def load(self) -> np.ndarray:
        return self.array


def scans(count: int, seed: int) -> list[Scan]:
    """Noise, with a dark spot in class 1: easy, in the published network's smallest size."""
    generator = np.random.default_rng(seed)
    made = []
    for number in range(count):
        array = (0.5 + 0.1 * generator.standard_normal(SHAPE)).astype(np.float32)
        if number % 2:
            array[30:44, 30:44, 30:44] -= 0.4
        made.append(Scan(f"{seed}-{number}", number % 2, array))
    return made


def test_the_published_recipes() -> None:
    b, r = BOEHLE_2019, RIEKE_2018
    assert (b.batch_size, b.learning_rate, b.weight_decay, b.patience, b.epochs) == (4, 1e-4, 1e-4, 8, 200)
    assert (b.flip_probability, b.translation_voxels) == (0.5, 2)
    assert (r.batch_size, r.learning_rate, r.epochs) == (5, 1e-4, 20)


@pytest.mark.slow
def test_the_network_learns_and_keeps_the_best_epoch() -> None:
    network = build_network("boehle2019", SHAPE)
    initialise(network, 0)
    keys = list(network.state_dict())
    seen: list[Epoch] = []
    fitted = fit(network, scans(12, 1), scans(6, 2), Recipe(epochs=3, head_start=True), report=seen.append)
    assert list(fitted.history) == seen and [e.number for e in seen] == [0, 1, 2, 3]
    assert fitted.best_epoch == 1 + int(np.argmin([e.validation_loss for e in seen[1:]]))
    assert list(fitted.state) == keys and not network.training
    test = scans(8, 3)
    figures = performance([s.label for s in test], predict(network, test))
    assert figures.balanced_accuracy == 1 and figures.auc == 1


@pytest.mark.slow
def test_training_stops_when_nothing_improves() -> None:
    """Labels without any sign in the images: the validation loss cannot fall for long."""
    network = build_network("boehle2019", SHAPE)
    noise = [Scan(f"n{i}", i % 2, np.random.default_rng(i).random(SHAPE, np.float32)) for i in range(8)]
    fitted = fit(network, noise[:4], noise[4:], Recipe(epochs=30, patience=2, learning_rate=3e-3))
    assert len(fitted.history) < 30 and len(fitted.history) - fitted.best_epoch == 2


@pytest.mark.slow
def test_the_head_start_merges_into_the_published_network() -> None:
    """The network with its standardised features, and the network after merging, say the same."""
    network = build_network("boehle2019", SHAPE)
    initialise(network, 0)
    learner = start_head(network, scans(8, 1), scans(4, 2), Recipe(), torch.device("cpu")).eval()
    assert isinstance(learner, StandardisedFeatures)
    x = torch.from_numpy(np.stack([s.array for s in scans(4, 3)]))[:, None]
    with torch.no_grad():
        expected = learner(x)
        assert learner.merge() is network
        torch.testing.assert_close(network(x), expected, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(learner(x), expected, atol=1e-4, rtol=1e-4)
    with pytest.raises(TypeError, match="no separate head"):
        start_head(build_network("korolev2017", (124, 124, 124)), [], [], Recipe(), torch.device("cpu"))


def test_the_penalty_leaves_only_weights_that_are_needed() -> None:
    """A soft threshold: what is within a step of zero becomes exactly zero, the rest comes nearer by one step."""
    network = build_network("boehle2019", SHAPE)
    learner = StandardisedFeatures(network, torch.zeros(64), torch.ones(64), sparsity=0.5)
    before = network.dense_1.weight.detach().clone()
    learner.shrink(0.1)
    after = network.dense_1.weight.detach()
    small = before.abs() <= 0.05
    assert small.any() and not small.all() and not after[small].any()
    torch.testing.assert_close(after[~small], before[~small] - 0.05 * before[~small].sign())


def test_a_subject_in_two_splits_is_refused() -> None:
    """Scans of one person on both sides make any accuracy meaningless (trap 6)."""
    one, two = scans(4, 1), scans(4, 2)
    require_disjoint_subjects(training=one, validation=two)
    two[3].subject = one[0].subject
    with pytest.raises(ValueError, match="1-0 is in the training split and in the validation split"):
        fit(build_network("boehle2019", SHAPE), one, two, Recipe())


def test_batches_hold_everything_once_and_never_a_single_scan() -> None:
    many = scans(9, 1)
    for size in (4, 5, 8):
        found = list(batches(many, size, np.random.default_rng(0)))
        assert sorted(s.subject for b in found for s in b) == sorted(s.subject for s in many)
        assert min(len(b) for b in found) > 1


def test_mirroring_and_shifting() -> None:
    array = np.arange(2 * 5 * 2, dtype=np.float32).reshape(2, 5, 2) + 1
    np.testing.assert_array_equal(move(array, True, 0), array[::-1])
    forward = move(array, False, 2)
    np.testing.assert_array_equal(forward[:, 2:], array[:, :3])
    assert not forward[:, :2].any()
    np.testing.assert_array_equal(move(array, False, -1)[:, :4], array[:, 1:])
    still = Recipe(flip_probability=0, translation_voxels=0)
    np.testing.assert_array_equal(augment(array, still, np.random.default_rng(0)), array)
    generator = np.random.default_rng(0)
    kinds = {augment(array, Recipe(), generator).tobytes() for _ in range(200)}
    assert len(kinds) == 10, "two mirrorings times five shifts"


def test_performance_is_measured_on_probabilities() -> None:
    """The AUC of hard decisions (trap 6) would be 0.75 here."""
    labels, probabilities = [0, 0, 1, 1], [0.1, 0.6, 0.7, 0.9]
    found = performance(labels, probabilities)
    assert (found.auc, found.balanced_accuracy, found.sensitivity, found.specificity) == (1.0, 0.75, 1.0, 0.5)
    with pytest.raises(ValueError, match="Both classes"):
        performance([1, 1], [0.2, 0.3])
