"""Training the ranker: a planted utility comes back, ties count, runs resume, reports add up."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from typer.testing import CliRunner

from benchmarks.ranker_training import Size
from benchmarks.ranker_training import planted as planted_population
from benchmarks.ranker_training import trained as trained_figures
from training.__main__ import app
from training.loop import Pace, Schedule, run
from training.pair_features import FeatureStore, PairFeatures, encode_pairs, pair_features
from training.preferences import Split, write_preferences, write_split
from training.ranker import RankerJob, fitted_scale, margins_of, scale_rewards, train_head
from training.ranker_report import ALL, by_source, evaluate, gain_over, report_of, write_report
from training.ranker_runs import (
    ABLATIONS,
    Inputs,
    ablations,
    read_material,
    sources_left_out,
    train_heads,
)
from training.recipe import RankerRecipe
from ttmpref.audio import read_clip, write_clip
from ttmpref.reward.features import RewardFeatures
from ttmpref.reward.ranker import RankerHead, clap_mert, read_ranker
from ttmpref.types import Clip, DamagedWeights, InvalidRequest, MissingWeights, Preference

LAYOUT = clap_mert(6, 8)
CLIPS, PAIRS = 400, 1200
QUICK = RankerRecipe(
    epochs=8, batch=64, learning_rate=1e-2, initial_scale=0.1, patience=3, hidden=(16,),
    dropout=0.2, joined=True,
)  # fmt: skip


def sigmoid(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-values))


@pytest.fixture(scope="module")
def planted() -> tuple[FeatureStore, list[Preference], np.ndarray]:
    """Random features, a utility linear in the audio blocks, votes drawn from it; true margins."""
    rng = np.random.default_rng(0)
    shapes = {"clap_audio": (CLIPS, 6), "mert": (CLIPS, 8), "clap_text": (2, 6)}
    blocks = {
        name: torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))
        for name, shape in shapes.items()
    }
    utility = np.concatenate([blocks["clap_audio"], blocks["mert"]], 1) @ rng.normal(0, 0.6, 14)
    chosen = [rng.choice(CLIPS, 2, replace=False) for _ in range(PAIRS)]
    margins = np.array([utility[a] - utility[b] for a, b in chosen])
    votes = (rng.random(PAIRS) < sigmoid(margins)).astype(float)
    votes[rng.random(PAIRS) < 0.1] = 0.5
    pairs = [
        Preference(
            f"p{i}", f"c{a}", f"c{b}", "calm" if i % 2 else "", vote, "big" if i % 4 else "small"
        )
        for i, ((a, b), vote) in enumerate(zip(chosen, votes, strict=True))
    ]
    store = FeatureStore(tuple(f"c{i}" for i in range(CLIPS)), ("", "calm"), blocks, "seeded")
    return store, pairs, margins


@pytest.fixture(scope="module")
def parts(planted) -> tuple[PairFeatures, PairFeatures, PairFeatures]:
    store, pairs, _ = planted
    found, faults = pair_features(pairs, store, LAYOUT)
    assert faults == []
    edges = {f"p{i}": i for i in range(PAIRS)}
    return tuple(
        found.where(lambda pair, a=a, b=b: a <= edges[pair.id] < b)
        for a, b in ((0, 800), (800, 1000), (1000, PAIRS))
    )


def test_votes_on_the_same_pair_become_one_with_their_mean(planted) -> None:
    store, pairs, _ = planted
    one, other = pairs[0], pairs[1]
    votes = [replace(one, id=f"v{i}", target=target) for i, target in enumerate((1.0, 0.0, 1.0))]
    turned = replace(one, id="turned", clip_a=one.clip_b, clip_b=one.clip_a)
    whole, _ = pair_features([votes[0], other, *votes[1:], turned], store, LAYOUT)
    merged = whole.merged()
    found = {(p.clip_a, p.clip_b): t for p, t in zip(merged.pairs, merged.targets, strict=True)}
    assert len(merged) == 3
    assert found[one.clip_a, one.clip_b].item() == pytest.approx(2 / 3)
    assert found[other.clip_a, other.clip_b].item() == other.target
    assert found[one.clip_b, one.clip_a].item() == one.target
    for i, pair in enumerate(merged.pairs):
        assert store.clips[merged.clip_rows[i, 0]] == pair.clip_a



@pytest.fixture(scope="module")
def trained(parts, tmp_path_factory: pytest.TempPathFactory) -> RankerHead:
    return train_head(QUICK, 0, parts[0], parts[1], tmp_path_factory.mktemp("run"))


def test_a_planted_utility_comes_back(trained, parts, planted) -> None:
    """At this size within five points of the voters' own utility; benchmarks measure the real."""
    truth, targets = planted[2][1000:], parts[2].targets.numpy()
    decided = targets != 0.5
    best = ((truth > 0) == (targets > 0.5))[decided].mean()
    found = evaluate(margins_of(trained, parts[2]).numpy(), targets)
    assert found.accuracy > best - 0.05 > 0.65
    assert np.corrcoef(margins_of(trained, parts[2]).numpy(), truth)[0, 1] > 0.9


def test_swapping_the_clips_flips_the_sign_exactly(trained, parts) -> None:
    test = parts[2]
    swapped = replace(test, clip_rows=test.clip_rows.flip(1))
    assert torch.equal(margins_of(trained, swapped), -margins_of(trained, test))


def test_a_batch_equals_single_pairs(trained, parts) -> None:
    test = parts[2].where(lambda pair: int(pair.id[1:]) < 1040)
    single = [margins_of(trained, test.where(lambda p, i=one.id: p.id == i)) for one in test.pairs]
    assert torch.allclose(torch.cat(single), margins_of(trained, test), atol=1e-5)


def test_ties_pull_margins_to_zero(parts, tmp_path: Path) -> None:
    tied = replace(parts[0], targets=torch.full((len(parts[0]),), 0.5))
    before = margins_of(RankerJob(QUICK, 0, tied, tied).head, tied).abs().mean()
    head = train_head(QUICK, 0, tied, tied, tmp_path)
    assert margins_of(head, tied).abs().mean() < 0.2 * before


def test_the_loss_is_the_same_with_the_clips_swapped(parts) -> None:
    pairs = parts[0]
    swapped = replace(pairs, clip_rows=pairs.clip_rows.flip(1), targets=1 - pairs.targets)
    # Without dropout, whose masks would fall on other clips.
    steady = QUICK.model_copy(update={"dropout": 0.0})
    first, second = (
        RankerJob(steady, 0, one, one).train_step(0)["loss"] for one in (pairs, swapped)
    )
    assert first == pytest.approx(second, rel=1e-5)


@pytest.mark.parametrize("joined", [True, False])
def test_a_resumed_run_ends_with_the_same_bits(joined: bool, parts, tmp_path: Path) -> None:
    recipe = QUICK.model_copy(update={"epochs": 3, "joined": joined, "balanced": joined})

    def job() -> RankerJob:
        torch.manual_seed(len(list(tmp_path.iterdir())))  # another process, another global state
        return RankerJob(recipe, 7, parts[0], parts[1])

    whole, stopped, resumed = job(), job(), job()
    epoch = whole.steps_per_epoch
    schedule, pace = Schedule(3 * epoch, 1e-3, 0, 1.0), Pace(epoch, epoch, epoch)
    run(whole, schedule, tmp_path / "whole", pace)
    updates = count()
    run(
        stopped, schedule, tmp_path / "parts",
        replace(pace, enough=lambda: next(updates) == epoch + 2),
    )  # fmt: skip
    run(resumed, schedule, tmp_path / "parts", pace)
    for name, module in whole.modules().items():
        other = resumed.modules()[name].state_dict()
        assert all(torch.equal(v, other[k]) for k, v in module.state_dict().items()), name


def test_training_stops_when_nothing_improves_and_keeps_the_best(parts, tmp_path: Path) -> None:
    recipe = QUICK.model_copy(update={"epochs": 50, "min_improvement": 1e6, "patience": 2})
    train_head(recipe, 0, parts[0], parts[1], tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    losses = [row["val_loss"] for row in rows if "val_loss" in row]
    assert len(losses) == 3  # the first is kept, two are no better
    again = RankerJob(recipe, 0, parts[0], parts[1])
    run(again, Schedule(10**6, 1.0), tmp_path, Pace(enough=again.enough))
    assert again.best.loss.item() == pytest.approx(losses[0], abs=1e-5)
    kept = margins_of(again.best.head, parts[1])
    assert not torch.equal(kept, margins_of(again.head, parts[1]))


def test_an_epoch_takes_every_pair_once_in_even_batches(parts) -> None:
    job = RankerJob(QUICK.model_copy(update={"batch": 9}), 0, parts[0], parts[1])
    batches = [job._batch(step) for step in range(job.steps_per_epoch)]
    assert sorted(torch.cat(batches).tolist()) == list(range(800))
    assert {len(batch) for batch in batches} <= {8, 9}  # 800 = 88 * 9 + 8
    other = [job._batch(step + job.steps_per_epoch) for step in range(job.steps_per_epoch)]
    assert not torch.equal(torch.cat(batches), torch.cat(other))


def test_balanced_epochs_take_every_source_alike(parts) -> None:
    job = RankerJob(QUICK.model_copy(update={"balanced": True}), 0, parts[0], parts[1])
    drawn = torch.cat([job._batch(step) for step in range(3 * job.steps_per_epoch)])
    small = np.mean([parts[0].pairs[i].source == "small" for i in drawn.tolist()])
    assert small == pytest.approx(0.5, abs=0.04)  # a quarter of the pairs


def test_parts_without_pairs_are_refused(parts) -> None:
    none = parts[1].where(lambda pair: False)
    with pytest.raises(InvalidRequest, match="800 training and 0 validation pairs"):
        RankerJob(QUICK, 0, parts[0], none)


def test_the_fitted_scale_has_its_closed_form() -> None:
    margins, targets = torch.full((100,), 2.0), torch.ones(100)
    targets[:20] = 0.0  # 80 % right: sigma(2 a) = 0.8
    assert fitted_scale(margins, targets) == pytest.approx(math.log(4) / 2)
    with_ties = torch.cat([targets, torch.full((50,), 0.5)])
    assert fitted_scale(torch.full((150,), 2.0), with_ties) == fitted_scale(margins, targets)
    assert fitted_scale(margins, torch.full((100,), 0.5)) == 1.0
    assert fitted_scale(margins, torch.ones(100)) == 100.0
    assert fitted_scale(margins, torch.zeros(100)) == 0.01
    head = RankerHead(LAYOUT, (4,)).eval()
    features = torch.randn(5, LAYOUT.dim)
    before = head(features)
    scale_rewards(head, 0.25)
    assert torch.allclose(head(features), 0.25 * before)


def test_scales_at_the_start_and_the_end_are_those_of_the_recipe(parts, tmp_path: Path) -> None:
    full, small = (
        RankerJob(QUICK.model_copy(update={"initial_scale": scale}), 0, parts[0], parts[1])
        for scale in (1.0, 0.1)
    )
    expected = 0.1 * margins_of(full.head, parts[1])
    assert torch.allclose(margins_of(small.head, parts[1]), expected, atol=1e-5)
    recipe = QUICK.model_copy(update={"fit_scale": True, "epochs": 1, "initial_scale": 1.0})
    head = train_head(recipe, 0, parts[0], parts[1], tmp_path)
    found = margins_of(head, parts[1])
    assert fitted_scale(found, parts[1].targets) == pytest.approx(1.0, abs=1e-3)
    logged = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()][-1]
    loss = F.binary_cross_entropy_with_logits(found, parts[1].targets)
    assert logged["val_loss"] == pytest.approx(loss.item(), abs=1e-4)


def test_prompts_of_some_sources_can_be_hidden(planted) -> None:
    store, pairs, _ = planted
    seen, _ = pair_features(pairs, store, LAYOUT)
    hidden, _ = pair_features(pairs, store, LAYOUT, zero_text_for=("small",))
    small = torch.tensor([pair.source == "small" for pair in pairs])
    assert not hidden.prompt_rows[small].any()
    assert torch.equal(seen.prompt_rows[~small], hidden.prompt_rows[~small])


def test_a_pair_without_features_is_named(planted) -> None:
    store, pairs, _ = planted
    strange = [replace(pairs[0], clip_b="lost"), replace(pairs[1], prompt="loud"), pairs[2]]
    found, faults = pair_features(strange, store, LAYOUT)
    assert [pair.id for pair in found.pairs] == ["p2"]
    assert faults == [
        "pair 'p0': clip 'lost' has no features",
        "pair 'p1': prompt 'loud' has no features",
    ]
    with pytest.raises(InvalidRequest, match="block 'mert' is 8; .* needs 9"):
        pair_features(pairs, store, clap_mert(6, 9))


def test_a_store_survives_its_file_and_refuses_others(planted, tmp_path: Path) -> None:
    store, path = planted[0], tmp_path / "features.safetensors"
    store.write(path)
    again = FeatureStore.read(path)
    assert (again.clips, again.prompts, again.protocol) == (store.clips, store.prompts, "seeded")
    assert all(torch.equal(again.blocks[name], block) for name, block in store.blocks.items())
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(DamagedWeights):
        FeatureStore.read(path)
    with pytest.raises(MissingWeights):
        FeatureStore.read(tmp_path / "absent.safetensors")
    with pytest.raises(ValueError, match="not finite"):
        FeatureStore(("a",), ("",), {"mert": torch.tensor([[math.nan]])})
    with pytest.raises(ValueError, match="expected .2, width."):
        FeatureStore(("a", "b"), ("",), {"mert": torch.zeros(1, 4)})


class CountingClap:
    """An encoder of one number, the mean level; counts what it is given."""

    dim, sample_rate, window_samples = 2, 8000, 8000

    def __init__(self) -> None:
        self.heard, self.read = 0, 0

    def encode_text(self, texts):
        self.read += len(texts)
        return torch.tensor([[float(len(text)), 1.0] for text in texts])

    def embed_audio(self, windows):
        self.heard += len(windows)
        return torch.tensor([[float(w.abs().mean()), 1.0] for w in windows])


def test_clips_are_encoded_once_and_bad_ones_are_named(tmp_path: Path) -> None:
    for name, level in (("a", 0.1), ("b", 0.5)):
        write_clip(Clip(np.full((1, 4000), level, np.float32), 8000), tmp_path / f"{name}.wav")
    (tmp_path / "c.wav").write_text("no sound")
    pairs = [
        Preference("1", "a.wav", "b.wav", "soft", 1.0, "study"),
        Preference("2", "a.wav", "c.wav", "", 0.0, "study"),
    ]
    clap, path = CountingClap(), tmp_path / "features.safetensors"

    def hear(name: str) -> Clip:
        return read_clip(tmp_path / name)

    def nothing(name: str) -> Clip:
        return read_clip(tmp_path / "none" / name)

    features = RewardFeatures(("clap_audio", "clap_text"), clap)
    for heard in (2, 2):
        store, faults = encode_pairs(pairs, features, hear, path, "counting")
        assert clap.heard == heard and clap.read == 1
        assert len(faults) == 1 and "c.wav" in faults[0]
    assert store.clips == ("a.wav", "b.wav") and set(store.prompts) == {"", "soft"}
    assert store.blocks["clap_text"][store.prompts.index("")].tolist() == [0.0, 0.0]
    quiet, loud = store.blocks["clap_audio"][:, 0]
    assert quiet < loud
    with pytest.raises(InvalidRequest, match="was made by counting; name another file"):
        encode_pairs(pairs, features, hear, path, "otherwise")
    with pytest.raises(InvalidRequest, match="none of 3 clips can be read; the first: .*a.wav"):
        encode_pairs(pairs, features, nothing, tmp_path / "new.safetensors", "")


def test_evaluations_by_source_hold_what_they_say() -> None:
    margins = np.array([2.0, -1.0, 0.25, 3.0, -0.5, 0.0])
    targets = np.array([1.0, 0.0, 0.0, 0.5, 1.0, 0.5])
    found = by_source(margins, targets, ["x", "x", "x", "x", "y", "z"])
    assert set(found) == {ALL, "x", "y"}  # z has nothing but a tie
    whole = found[ALL]
    assert (whole.pairs, whole.ties, whole.accuracy) == (6, 2, 0.5)
    assert found["x"].accuracy == pytest.approx(2 / 3) and found["y"].accuracy == 0.0
    assert whole.margin_mean == pytest.approx(3.75 / 4) and whole.margin_max == 2.0
    assert whole.margin_below_half == 0.25 and whole.tie_margin == 1.5
    assert whole.accuracy_interval[0] < 0.5 < whole.accuracy_interval[1]


def test_a_gain_has_the_interval_of_its_prompts_and_ties_count_for_nothing() -> None:
    targets = np.array([1.0, 1.0, 0.0, 0.0, 0.5])
    before, after = np.array([1.0, -1.0, 1.0, 1.0, -1.0]), np.array([1.0, 1.0, -1.0, -1.0, 1.0])
    prompts = ["p", "p", "q", "q", "r"]
    gain = gain_over(before, after, targets, prompts)  # one of two gained in p, both in q
    half = 12.706204736 * np.sqrt(2 * (0.5**2 + 0.5**2)) / 4  # Student's, one degree of freedom
    assert (gain.value, gain.prompts, gain.verdict) == (0.75, 2, "not clearly better or worse")
    assert gain.interval == pytest.approx((0.75 - half, 0.75 + half))
    back = gain_over(after, before, targets, prompts)
    assert back.value == -0.75 and back.interval == pytest.approx((-0.75 - half, half - 0.75))
    alone = gain_over(before, after, targets, ["p"] * 5)
    assert alone.interval is None and alone.verdict == "not clearly better or worse"
    many = [str(i) for i in range(40)]
    drawn = np.tile(targets[:4], 10)
    better, worse = 2.0 * drawn - 1, np.where(np.arange(40) < 8, 2 * drawn - 1, 1 - 2 * drawn)
    assert gain_over(worse, better, drawn, many).verdict == "better"
    assert gain_over(better, worse, drawn, many).verdict == "worse"


def test_a_calibrated_model_is_called_so(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    margins = rng.normal(0, 1.5, 2000)
    targets = (rng.random(2000) < sigmoid(margins)).astype(float)
    report = report_of(np.stack([margins, margins]), targets, ["x"] * 2000, {"layout": "none"})
    write_report(report, tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert report.test[ALL].calibrated and "inside the band" in text
    assert report.ensemble == report.test[ALL]
    record = json.loads((tmp_path / "report.json").read_text())
    assert record["test"]["all"]["accuracy"] == report.heads[0] == record["macro_accuracy"]
    assert len(record["bins"]) == 10
    assert (tmp_path / "reliability.png").read_bytes().startswith(b"\x89PNG")
    wild = report_of(3 * margins[None], targets, ["x"] * 2000, {})
    assert not wild.test[ALL].calibrated and wild.ensemble is None


@pytest.fixture
def files(planted, tmp_path: Path) -> Inputs:
    """The planted pairs as files."""
    store, pairs, _ = planted
    write_preferences(pairs, tmp_path / "pairs.jsonl")
    store.write(tmp_path / "features.safetensors")
    ids = [pair.id for pair in pairs]
    split = Split(tuple(ids[:800]), tuple(ids[800:1000]), (*ids[1000:], "unknown"))
    write_split(split, {}, tmp_path / "split.json")
    return Inputs(
        (tmp_path / "pairs.jsonl",), tmp_path / "features.safetensors", (tmp_path / "split.json",)
    )


def test_material_is_divided_by_the_split_file(files: Inputs) -> None:
    material = read_material(files, LAYOUT.names, QUICK)
    assert [len(part) for part in material.parts] == [800, 200, 200]
    assert material.train.layout == LAYOUT
    assert material.faults == ("split: pair 'unknown' is in no table",)
    assert material.notes["test pairs with a clip that is trained on"] > 150
    by_clips = read_material(replace(files, splits=()), LAYOUT.names, QUICK)
    assert by_clips.notes["test pairs with a clip that is trained on"] == 0
    with pytest.raises(InvalidRequest, match="lack block 'muq_audio'; they hold clap_audio"):
        read_material(files, ("muq_audio",), QUICK)


def test_ablations_remove_blocks_and_sources_leave_training_but_not_the_test(files: Inputs) -> None:
    material = read_material(files, LAYOUT.names, QUICK)
    dims = [one.train.layout.dim for one in ablations(material).values()]
    assert dims == [6, 8, 6, 14, 12, 14, 20] and len(dims) == len(ABLATIONS)
    assert ablations(material)["A6 mert, clap_text"].test.layout.names == ("mert", "clap_text")
    left = sources_left_out(material)
    assert list(left) == ["all sources", "without big", "without small"]
    assert left["without big"].sources == ["small"]
    assert {pair.source for pair in left["without big"].valid.pairs} == {"small"}
    assert left["without big"].test is material.test
    with pytest.raises(InvalidRequest, match="have one source"):
        sources_left_out(left["without big"])
    with pytest.raises(InvalidRequest, match="not from .'clap_audio',."):
        ablations(material.reading(("clap_audio",)))


def test_the_heads_of_an_ensemble_differ_and_are_not_trained_twice(
    files: Inputs, tmp_path: Path
) -> None:
    material = read_material(files, LAYOUT.names, QUICK)
    recipe = QUICK.model_copy(update={"epochs": 1, "heads": 2})
    first, second = train_heads(recipe, material, tmp_path / "runs")
    assert not torch.equal(margins_of(first, material.test), margins_of(second, material.test))
    folders = sorted(path.name for path in (tmp_path / "runs").iterdir())
    assert [name.split("-")[1] for name in folders] == ["42", "43"]
    (again,) = train_heads(recipe.model_copy(update={"heads": 1}), material, tmp_path / "runs")
    assert torch.equal(margins_of(again, material.test), margins_of(first, material.test))
    other = recipe.model_copy(update={"dropout": 0.4})
    train_heads(other, material, tmp_path / "runs")
    assert len(list((tmp_path / "runs").iterdir())) == 4


def test_the_benchmark_finds_its_planted_utility_at_a_small_size() -> None:
    size = Size(clap_mert(12, 16), (900, 200, 400), (300, 100, 200), prompts=3, factors=4)
    train, _, test = planted_population(size)
    assert train.truth.std() == pytest.approx(size.spread, rel=0.15)
    assert not set(train.pairs.clip_rows.flatten().tolist()) & set(
        test.pairs.clip_rows.flatten().tolist()
    )
    ties = (train.pairs.targets == 0.5).float().mean()
    assert ties == pytest.approx(size.ties, abs=0.03)
    figures = {figure.name: figure for figure in trained_figures(size, QUICK)}
    json.dumps([figure.to_dict() for figure in figures.values()])
    assert figures["accuracy lost against Bayes"].value < 0.05
    assert figures["sum of margins with A and B swapped, largest"].met
    assert figures["reward in a batch and alone, largest difference"].met


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    """The demo recipe with a ranker that trains at once."""
    demo = (Path(__file__).parents[1] / "training" / "recipes" / "demo.yaml").read_text()
    kept = "".join(f"{line}\n" for line in demo.splitlines() if not line.startswith("ranker:"))
    path = tmp_path / "quick.yaml"
    path.write_text(f"{kept}ranker: {{epochs: 2, batch: 64, hidden: [8], patience: 1}}\n")
    return path


@pytest.mark.parametrize("compare", [None, "ablations", "sources"])
def test_the_command_trains_reports_and_names_faults(
    compare: str | None, files: Inputs, recipe_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    arguments = ["ranker", str(files.tables[0]), "--features", str(files.features)]
    arguments += ["--splits", str(files.splits[0]), "--recipe", str(recipe_file)]
    arguments += ["--out", str(out), "--threads", "1"]
    arguments += ["--heads", "2"] if compare is None else ["--compare", compare]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1, result.output  # the split names a pair that is in no table
    assert (out / "faults.txt").read_text() == "split: pair 'unknown' is in no table\n"
    if compare is None:
        assert read_ranker(str(out / "ranker-1.safetensors")).layout == LAYOUT
        assert "Accuracy of the heads by seed" in (out / "report.md").read_text()
    else:
        page = (out / f"{compare}.md").read_text()
        rows = {"ablations": "A6 mert, clap_text", "sources": "without small"}
        assert f"| {rows[compare]} |" in page
        assert json.loads((out / f"{compare}.json").read_text())["variants"]


def test_the_pairs_command_writes_pairs_split_and_faults(tmp_path: Path) -> None:
    table = tmp_path / "survey.csv"
    table.write_text("a_audio,b_audio,best\nx.wav,y.wav,model_a\nx.wav,z.wav,neither\n")
    out = tmp_path / "out"
    arguments = ["pairs", "aime", "--input", str(table), "--out", str(out)]
    result = CliRunner().invoke(app, [*arguments, "--column", "vote=best"])
    assert result.exit_code == 1 and "1 pairs" in result.output
    assert "'neither'" in (out / "aime-faults.txt").read_text()
    assert json.loads((out / "aime-split.json").read_text())["test"] == ["aime_000000"]


@pytest.mark.parametrize("words", [["vae", "vocoder"], ["steps", "ranker"]])
def test_steps_need_no_command_word(words: list[str]) -> None:
    result = CliRunner().invoke(app, [*words, "--help"])
    assert result.exit_code == 0 and " steps [OPTIONS]" in result.output
