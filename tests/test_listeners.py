"""Simulated listeners: votes follow the stated utility, names make takes again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from tests.conftest import build_tiny_preset
from training.corpus.degradations import Degradation
from training.data import CORPUS_RATE, Corpus
from training.listeners import Listeners, RoundTrip, Take, oracle_accuracy, takes_of
from training.recipe import ListenersRecipe
from training.takes import Takes
from ttmpref.config import Preset, load_preset
from ttmpref.loudness import integrated_loudness
from ttmpref.types import Clip, InvalidRequest

PIECES, SECONDS, RATE = 12, 0.8, 44_100
LEADS, GENRES = ("piano", "flute", "violin"), ("jazz", "rock")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("listeners")
    (folder / "cache").mkdir()
    rng = np.random.default_rng(0)
    samples = int(SECONDS * RATE)
    waves = (rng.standard_normal((PIECES, samples)) * 3000).astype(np.int16)
    np.save(folder / "cache" / "waveforms.train.npy", waves)
    rows = [
        {
            "id": i, "split": "train", "file": f"{i}.flac", "seconds": SECONDS,
            "captions": [f"piece {i}"],
            "tags": {"lead": LEADS[i % 3], "genre": GENRES[i % 2], "tempo_class": "slow",
                     "tempo_bpm": 6000.0, "beats_per_bar": 4},
        }
        for i in range(PIECES)
    ]  # fmt: skip
    (folder / "index.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Corpus(folder, "train")


@pytest.fixture
def listeners(corpus: Corpus) -> Listeners:
    return Listeners(ListenersRecipe(seconds=0.2), corpus)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Preset:
    return load_preset(str(build_tiny_preset(tmp_path_factory.mktemp("preset"))))


def test_a_name_makes_the_take_again() -> None:
    faults = (Degradation("hiss", 0.25, 7), Degradation("mud", 1.0, 0))
    for take in (Take("piece", 12, 88_200, faults), Take("noise", 0, 0)):
        assert Take.of_name(take.name) == take
    assert Take("piece", 12, 88_200, faults).name == "piece-12-88200-hiss_250_7-mud_1000_0"


@pytest.mark.parametrize("name", ["", "piece", "piece-1-2-", "song-1-2", "../piece-1-2"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(InvalidRequest, match="does not name a take"):
        Take.of_name(name)


def test_votes_of_a_prompt_depend_on_its_row_alone(listeners: Listeners) -> None:
    together = list(listeners.votes(range(PIECES)))
    alone = list(listeners.votes([5]))
    assert together[20:24] == alone
    assert len(together) == 4 * PIECES
    assert len({one.preference.id for one in together}) == len(together)
    assert len(takes_of(together)) <= len(together)


def test_more_rounds_bring_votes_of_others_on_the_same_takes(listeners: Listeners) -> None:
    first = [one.preference for one in listeners.votes([1])]
    all_rounds = [one.preference for one in listeners.votes([1], rounds=3)]
    assert all_rounds[:4] == first
    assert len({one.id for one in all_rounds}) == 12
    assert {one.clip_a for one in all_rounds} == {one.clip_a for one in first}
    met = [{one.clip_a, one.clip_b} for one in all_rounds]
    assert met[8:] == met[:4]
    assert not any(pair in met[:4] for pair in met[4:8])
    assert all(len(pair) == 2 for pair in met)


def test_takes_begin_on_bar_lines(listeners: Listeners) -> None:
    bar = 4 * 60 / 6000 * CORPUS_RATE
    starts = [Take.of_name(name).start for name in takes_of(list(listeners.votes(range(PIECES))))]
    assert len(set(starts)) > 2
    assert all(start == round(round(start / bar) * bar) for start in starts)


def test_everything_the_prompt_asks_for_and_every_fault_counts(listeners: Listeners) -> None:
    recipe = listeners.recipe
    right = Take("piece", 0, 0)
    assert listeners.utility(right, 0) == 0
    assert listeners.utility(Take("piece", 6, 9), 0) == 0  # another piece with the same tags
    assert listeners.utility(Take("piece", 2, 0), 0) == -recipe.tag_costs["lead"]
    both = recipe.tag_costs["lead"] + recipe.tag_costs["genre"]
    assert listeners.utility(Take("piece", 1, 0), 0) == -both
    hissing = Take("codec", 0, 0, (Degradation("hiss", 0.5),))
    expected = -0.5 * recipe.fault_cost - recipe.sound_costs["codec"]
    assert listeners.utility(hissing, 0) == pytest.approx(expected)


def test_votes_follow_the_utility_as_the_model_says(corpus: Corpus) -> None:
    """Without tastes, answers have the Davidson probabilities of their advantage."""
    votes = []
    for seed in range(60):
        some = Listeners(ListenersRecipe(seconds=0.2, taste=0.0, seed=seed), corpus)
        votes += some.votes(range(PIECES))
    advantage = np.array([one.advantage for one in votes])
    target = np.array([one.preference.target for one in votes])
    weights = np.stack([np.exp(advantage / 2), np.exp(-advantage / 2), np.full(len(votes), 0.35)])
    chances = weights / weights.sum(0)
    deviation = np.sqrt((chances * (1 - chances)).sum(1))
    counts = [(target == value).sum() for value in (1.0, 0.0, 0.5)]
    assert np.abs((counts - chances.sum(1)) / deviation).max() < 4
    right, decided = oracle_accuracy(votes)
    best = np.maximum(chances[0], chances[1]) / (chances[0] + chances[1])
    assert right / decided == pytest.approx(best[target != 0.5].mean(), abs=0.03)


def test_takes_are_equally_loud(corpus: Corpus) -> None:
    """To the ear (BS.1770): a dull round trip of equal power would be quieter than its piece."""
    listeners = Listeners(ListenersRecipe(seconds=0.5), corpus)
    plain = listeners.clip("piece-3-100", dull)
    assert plain.samples == listeners.samples
    for name in ("noise-3-100", "piece-3-100-hiss_500_1", "codec-3-100", "codec-3-100-mud_900_1"):
        made = listeners.clip(name, dull)
        assert integrated_loudness(made) == pytest.approx(integrated_loudness(plain), abs=0.1)
        assert np.abs(made.waveform).max() <= 1.0
        assert not np.array_equal(made.waveform, plain.waveform)


def dull(clip: Clip) -> Clip:
    """A round trip that loses the treble and some of the level."""
    smooth = ndimage.uniform_filter1d(clip.waveform, 24, axis=1)
    return Clip(smooth, clip.sample_rate)


def test_takes_on_disk_are_the_takes_in_order_by_one_process_or_two(
    listeners: Listeners, tiny: Preset, tmp_path: Path
) -> None:
    names = takes_of(list(listeners.votes(range(3))))
    here = Takes(listeners, tiny, names, tmp_path / "here", workers=1)
    there = Takes(listeners, tiny, names, tmp_path / "there", workers=2)
    assert here.path.name == there.path.name and here.path.name.endswith(".train.npy")
    assert np.array_equal(here.waveforms, there.waveforms)
    assert here.waveforms.shape == (len(names), listeners.samples)
    clean = next(name for name in names if name.startswith("piece"))
    plain = listeners.clip(clean, lambda clip: clip)
    assert np.abs(here.hear(clean).mono - plain.mono).max() < 1e-4
    others = Takes(listeners, tiny, names[:-1], tmp_path / "here", workers=1)
    assert others.path != here.path


def test_takes_that_were_interrupted_go_on_at_the_row_where_they_were(
    listeners: Listeners, tiny: Preset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = takes_of(list(listeners.votes(range(2))))
    made: list[str] = []
    clip = Listeners.clip

    def stopped(self: Listeners, name: str, round_trip: RoundTrip) -> Clip:
        if len(made) == 3:
            raise KeyboardInterrupt
        made.append(name)
        return clip(self, name, round_trip)

    monkeypatch.setattr(Listeners, "clip", stopped)
    with pytest.raises(KeyboardInterrupt):
        _ = Takes(listeners, tiny, names, tmp_path, workers=1).waveforms
    assert made == names[:3]
    made.clear()
    monkeypatch.setattr(Listeners, "clip", lambda *given: made.append(given[1]) or clip(*given))
    takes = Takes(listeners, tiny, names, tmp_path, workers=1)
    assert takes.waveforms.shape[0] == len(names)
    assert made == names[3:]
    assert sorted(path.name for path in tmp_path.iterdir()) == [takes.path.name]
