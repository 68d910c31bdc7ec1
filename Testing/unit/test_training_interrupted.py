"""A training that is killed goes on as if nothing had happened, and never goes on from what it cannot trust."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_training import SHAPE, Scan, scans
from torch import Tensor, nn

from ADAttributionLogic.architectures.catalogue import build_network, initialise
from ADAttributionLogic.errors import NetworkError
from ADAttributionLogic.training.checkpoint import CheckpointFolder
from ADAttributionLogic.training.fit import Epoch, Fit, fit
from ADAttributionLogic.training.recipe import BOEHLE_2019, Recipe
from ADAttributionLogic.training.trained import NetworkPlan, train_network
from ADAttributionLogic.training_data.augmentation import Augmentation
from ADAttributionLogic.training_data.prefetching import prefetched
from ADAttributionLogic.volume import Volume

ROOT = Path(__file__).resolve().parents[2]
QUESTION = {"seed": 0}


class Small(nn.Module):
    """With dropout and batch normalisation, and a head as the published networks have one; a moment per epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.drop = nn.Conv3d(1, 4, 3, stride=2), nn.BatchNorm3d(4), nn.Dropout(0.4)
        self.dense_1, self.dense_2 = nn.Linear(4 * 27, 8), nn.Linear(8, 2)

    def features(self, x: Tensor) -> Tensor:
        return torch.relu(self.norm(self.conv(x))).flatten(1)

    def classify(self, features: Tensor) -> Tensor:
        return self.dense_2(torch.relu(self.dense_1(self.drop(features))))

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.features(x))


RECIPES = {
    "adam": Recipe(epochs=5, learning_rate=1e-2),
    "head start": Recipe(epochs=4, learning_rate=1e-2, head_start=True),
    "varied": Recipe(epochs=4, learning_rate=1e-2, augmentation=Augmentation(0.5, (1, 1, 1), noise=0.1)),
    "nesterov": Recipe(epochs=5, learning_rate=1e-2, optimiser="nesterov", decay=0.5, decay_epochs=2),
    "weighted": Recipe(epochs=4, learning_rate=1e-2, class_weights=True, patience=2),
}


def tiny(count: int, seed: int) -> list[Scan]:
    generator = np.random.default_rng(seed)
    return [Scan(f"{seed}-{n}", n % 2, generator.random((8, 8, 8), np.float32) + n % 2 / 9) for n in range(count)]


def run(recipe: Recipe, folder: Path | None = None, stop_after: int = 0) -> Fit:
    torch.manual_seed(3)
    network, seen = Small(), []
    initialise(network, 0)
    checkpoint = None if folder is None else CheckpointFolder(folder, QUESTION)

    def may_go_on() -> bool:
        return len([epoch for epoch in seen if epoch.number > 0]) != stop_after

    torch.manual_seed(int.from_bytes(os.urandom(4), "little"))  # nothing hangs on what was drawn elsewhere
    return fit(network, tiny(9, 1), tiny(6, 2), recipe, None, seen.append, may_go_on, checkpoint)


def same(one: Fit, other: Fit) -> None:
    assert one.best_epoch == other.best_epoch
    assert [replace(e, seconds=0).describe() for e in one.history] == [
        replace(e, seconds=0).describe() for e in other.history
    ]
    assert list(one.state) == list(other.state)
    assert all(torch.equal(one.state[name], other.state[name]) for name in one.state)


@pytest.mark.parametrize("name", RECIPES)
def test_stopped_after_any_epoch_it_goes_on_bit_for_bit(tmp_path: Path, name: str) -> None:
    recipe = RECIPES[name]
    whole = run(recipe)
    for stop in range(1, len([epoch for epoch in whole.history if epoch.number > 0])):
        folder = tmp_path / str(stop)
        run(recipe, folder, stop)
        same(run(recipe, folder), whole)
        same(run(recipe, folder), whole)  # one that was over is not trained again
        assert len(list(folder.iterdir())) == 2, "one state and its record"


CHILD = """
import sys; sys.path[:0] = ["Testing", "Testing/unit"]
from pathlib import Path
from test_training_interrupted import RECIPES, run
run(RECIPES["varied"], Path(sys.argv[1]))
"""


def test_killed_at_any_moment_it_goes_on_bit_for_bit(tmp_path: Path) -> None:
    """kill -9 in the head start, within epochs, while a state is written: wherever it happens to be."""
    whole, ends, kills = run(RECIPES["varied"]), 0, 0
    command = [sys.executable, "-c", CHILD, str(tmp_path / "kept")]
    generator = np.random.default_rng(0)
    while not ends and kills < 5:
        child = subprocess.Popen(command, cwd=ROOT)
        record = tmp_path / "kept" / "checkpoint.json"
        before = record.stat().st_mtime_ns if record.exists() else 0
        while child.poll() is None and (record.stat().st_mtime_ns if record.exists() else 0) == before:
            time.sleep(0.001)
        if child.poll() is None:
            try:
                child.wait(timeout=float(generator.random()) * 0.03)
            except subprocess.TimeoutExpired:
                child.send_signal(signal.SIGKILL)
                kills += child.wait() == -signal.SIGKILL
        ends += child.returncode == 0
    assert kills >= 2, "too few kills to prove anything"
    same(run(RECIPES["varied"], tmp_path / "kept"), whole)


def test_a_damaged_or_foreign_state_is_refused_by_name(tmp_path: Path) -> None:
    run(RECIPES["adam"], tmp_path, 2)
    record, (state,) = tmp_path / "checkpoint.json", tmp_path.glob("state-*")
    content, text = state.read_bytes(), record.read_text()
    state.write_bytes(content[:-7] + b"changed")
    with pytest.raises(NetworkError, match=rf"{state.name}, the state of an interrupted.*not what was written.*Remove"):
        run(RECIPES["adam"], tmp_path)
    state.unlink()
    with pytest.raises(NetworkError, match="is damaged.*No such file"):
        run(RECIPES["adam"], tmp_path)
    state.write_bytes(content)
    for broken in ("", "{", json.dumps({**json.loads(text), "file": "../elsewhere"}), "[" * 100_000):
        record.write_text(broken)
        with pytest.raises(NetworkError, match=r"checkpoint\.json, the state of an interrupted training, is damaged"):
            run(RECIPES["adam"], tmp_path)
    record.write_text(text)
    with pytest.raises(NetworkError, match="the state of another training"):
        CheckpointFolder(tmp_path, {"seed": 1}).load()
    with pytest.raises(NetworkError, match="does not fit this network"):
        fit(
            build_network("boehle2019", SHAPE),
            scans(4, 1),
            scans(2, 2),
            Recipe(),
            checkpoint=CheckpointFolder(tmp_path, QUESTION),
        )
    assert len(run(RECIPES["adam"], tmp_path).history) == 5


def test_a_training_that_diverges_is_named() -> None:
    far = [replace(scan, array=scan.array * 1e38) for scan in tiny(6, 1)]
    with pytest.raises(NetworkError, match=r"diverged: in epoch 1 .* lower learning rate \(now 100\)"):
        fit(Small(), far, tiny(4, 2), Recipe(learning_rate=100.0, epochs=3))


def test_what_is_made_in_the_background_comes_in_order_and_its_errors_arrive() -> None:
    assert list(prefetched(range(20))) == list(range(20))

    def broken():
        yield 1
        raise ValueError("the disk is gone")

    found = prefetched(broken())
    assert next(found) == 1
    with pytest.raises(ValueError, match="the disk is gone"):
        next(found)
    made: list[int] = []
    endless = prefetched(made.append(n) or n for n in range(10**9))
    assert next(endless) == 0
    endless.close()
    assert len(made) <= 4, "at most a few ahead, and no more once nobody takes them"


@pytest.mark.slow
def test_an_epoch_of_the_published_network_at_its_real_size(tmp_path: Path, template: Volume) -> None:
    """193×229×193, from float16 on disk: it learns, is kept, and goes on from there without learning anew."""
    brain, made = (template.array / template.array.max()).astype(np.float16), []
    for number in range(6):
        array = brain.copy()
        array[60:130, 100:140, 60:100] *= 1 - 0.3 * (number % 2)
        np.save(tmp_path / f"{number}.npy", array)
        made.append(Scan(f"s{number}", number % 2, np.load(tmp_path / f"{number}.npy", mmap_mode="r")))
    plan, recipe = NetworkPlan("boehle2019", brain.shape), replace(BOEHLE_2019, epochs=1)
    seen: list[Epoch] = []
    trained = train_network(plan, made[:4], made[4:], recipe, checkpoint=tmp_path / "kept", report=seen.append)
    assert trained.fit.history[0].training_loss > 0 and sum(p.numel() for p in trained.network.parameters()) == 728_898
    again = train_network(plan, made[:4], made[4:], recipe, checkpoint=tmp_path / "kept", report=seen.append)
    assert seen[0] == seen[1] and torch.equal(
        torch.tensor(again.validation_logits), torch.tensor(trained.validation_logits)
    )
    with pytest.raises(NetworkError, match="the state of another training"):
        train_network(plan, made[:4], made[4:], replace(recipe, seed=1), checkpoint=tmp_path / "kept")
