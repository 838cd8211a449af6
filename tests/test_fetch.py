"""Fetching from a stand-in server: resumed, verified, converted, alone, and never by itself."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections import namedtuple

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from tests.stand_in import Site, serving
from tests.studies import shared_data
from ttmpref import assets
from ttmpref.cli import main
from ttmpref.config import load_preset
from ttmpref.encoders.laion import TOKENIZER_FILES, renamed
from ttmpref.fetch.convert import read_checkpoint
from ttmpref.fetch.download import ATTEMPTS, address_of, download
from ttmpref.fetch.fetcher import fetch
from ttmpref.fetch.plan import Plan, Source, plan_for, remote_uris
from ttmpref.types import ConfigError, DamagedWeights, FetchError, InvalidRequest, OutputError

DATA = bytes(range(256)) * 4_000  # a megabyte
URL = "https://host/a/model.bin"
HUB_PATH = "/org/repo/resolve/main/{}"


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A server that stands for the hub and, as a mirror, for every other host."""
    with serving(Site()) as started:
        monkeypatch.setenv("HF_ENDPOINT", started.address)
        monkeypatch.setenv("TTMPREF_MIRROR", started.address)
        monkeypatch.setenv("TTMPREF_CACHE", str(tmp_path / "cache"))
        for variable in ("http_proxy", "HTTP_PROXY"):
            monkeypatch.delenv(variable, raising=False)
        yield started


class Waits(list):
    """Notes the pauses that a download asks for, and does not pause."""

    def __call__(self, seconds):
        self.append(seconds)


def ignore(*_):
    pass


def source(uri="hf://org/repo", convert="none", **files):
    """A source on the stand-in hub; files by name with their extra keys."""
    listed = [
        {"url": f"hf://org/repo/{name.replace('__', '.')}", "megabytes": 1, **extra}
        for name, extra in files.items()
    ]
    return Source.model_validate(
        {"uri": uri, "licence": "MIT", "convert": convert, "files": listed}
    )


def plan_of(*sources):
    return Plan((), sources, ())


def on_hub(site, **files):
    site.files.update(
        {HUB_PATH.format(name.replace("__", ".")): data for name, data in files.items()}
    )


def test_a_file_arrives_whole_and_progress_counts_its_bytes(site, tmp_path):
    site.files["/host/a/model.bin"] = DATA
    seen = []
    download(URL, tmp_path / "model.bin", lambda done, total: seen.append((done, total)))
    assert (tmp_path / "model.bin").read_bytes() == DATA
    assert seen[-1] == (len(DATA), len(DATA)) and seen == sorted(seen)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["model.bin"]


def test_a_cut_connection_goes_on_where_it_was_cut(site, tmp_path):
    site.files["/host/a/model.bin"] = DATA
    site.cuts = [300_000, 1_000]
    waits = Waits()
    download(URL, tmp_path / "model.bin", ignore, waits)
    assert (tmp_path / "model.bin").read_bytes() == DATA
    assert site.ranges() == [None, "bytes=300000-", "bytes=301000-"]
    assert waits == [0.0, 0.0]  # a server that delivers is asked again at once


def test_a_later_run_goes_on_too(site, tmp_path):
    site.files["/host/a/model.bin"] = DATA
    site.cuts = [5_000] + ATTEMPTS * [0]
    with pytest.raises(FetchError, match="cut after 5000 of 1024000 bytes; 5000 bytes are kept"):
        download(URL, tmp_path / "model.bin", ignore, Waits())
    assert not (tmp_path / "model.bin").exists()
    site.asked.clear()
    download(URL, tmp_path / "model.bin", ignore, Waits())
    assert (tmp_path / "model.bin").read_bytes() == DATA
    assert site.ranges() == ["bytes=5000-"]


def test_a_part_of_another_file_is_not_continued(site, tmp_path):
    site.files["/host/a/model.bin"] = DATA
    site.cuts = [5_000] + ATTEMPTS * [0]
    with pytest.raises(FetchError):
        download(URL, tmp_path / "model.bin", ignore, Waits())
    site.files["/host/a/model.bin"] = DATA[::-1]
    download(URL, tmp_path / "model.bin", ignore, Waits())
    assert (tmp_path / "model.bin").read_bytes() == DATA[::-1]


def test_a_part_that_is_whole_already_is_taken_anew(site, tmp_path):
    """A run may end between the last byte and the renaming; servers answer 416 then."""
    site.files["/host/a/model.bin"] = DATA
    (tmp_path / "model.bin.part").write_bytes(DATA)
    etag = f'"{hashlib.sha256(DATA).hexdigest()}"'
    (tmp_path / "model.bin.part.validator").write_text(etag)
    download(URL, tmp_path / "model.bin", ignore, Waits())
    assert (tmp_path / "model.bin").read_bytes() == DATA
    assert site.ranges() == [f"bytes={len(DATA)}-", None]


def test_a_file_that_is_not_there_is_said_at_once(site, tmp_path):
    with pytest.raises(FetchError, match=r"host/a/model.bin: there is no such file \(HTTP 404"):
        download(URL, tmp_path / "model.bin", ignore, Waits())
    assert len(site.asked) == 1


def test_a_busy_server_is_given_the_time_it_asks_for(site, tmp_path):
    site.files["/host/a/model.bin"] = DATA
    site.answers = [(429, {"Retry-After": "7"}), (503, {}), (429, {"Retry-After": "9999"})]
    waits = Waits()
    download(URL, tmp_path / "model.bin", ignore, waits)
    assert (tmp_path / "model.bin").read_bytes() == DATA
    assert waits == [7.0, 3.0, 120.0]


def test_a_server_that_stays_busy_is_given_up(site, tmp_path):
    site.answers = [(429, {})] * ATTEMPTS
    with pytest.raises(FetchError, match="the server answers 429; 0 bytes are kept"):
        download(URL, tmp_path / "model.bin", ignore, Waits())
    assert len(site.asked) == ATTEMPTS


def test_a_full_disk_is_one_line_and_nothing_is_in_place(site, tmp_path):
    on_hub(site, model__bin=DATA)
    wanted = source(model__bin={})
    staging = assets.cache_folder() / "downloads" / hashlib.sha256(b"hf://org/repo").hexdigest()
    staging.mkdir(parents=True)
    os.symlink("/dev/full", staging / "model.bin.part")  # every write: no space left on device
    with pytest.raises(OutputError, match="model.bin.part: cannot be written .No space left"):
        fetch(plan_of(wanted), None, ignore)
    assert not assets.expected_path(wanted.uri).exists() and assets.fetched() == {}


def test_a_place_that_cannot_take_the_tensors_is_one_line(tmp_path):
    (tmp_path / "taken").mkdir()
    with pytest.raises(OutputError, match="taken: cannot be written"):
        assets.write_tensors(tmp_path / "taken", {"a": torch.ones(1)}, {})


def test_a_plan_larger_than_the_disk_is_not_begun(site, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10, 9, 1_000_000))
    with pytest.raises(OutputError, match="1 MB are free and about 2 MB are needed"):
        fetch(plan_of(source(model__bin={})), None, ignore)
    assert site.asked == []


def test_a_wrong_checksum_removes_the_download_and_places_nothing(site):
    on_hub(site, model__bin=DATA)
    wrong = source(model__bin={"sha256": "0" * 64})
    with pytest.raises(DamagedWeights, match="expected 0000.*the download was removed"):
        fetch(plan_of(wrong), None, ignore)
    assert not assets.expected_path(wrong.uri).exists() and assets.fetched() == {}
    left = [p for p in (assets.cache_folder() / "downloads").rglob("*") if p.is_file()]
    assert left == []


@pytest.mark.parametrize("kind", ["sha256", "md5"])
def test_a_stated_checksum_is_compared_and_another_is_recorded(site, kind):
    on_hub(site, model__bin=DATA, config__json=b"{}")
    stated = {kind: hashlib.new(kind, DATA).hexdigest()}
    wanted = source(model__bin=stated, config__json={})
    fetch(plan_of(wanted), None, ignore)
    folder = assets.locate(wanted.uri)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.bin"]
    entry = assets.fetched()[wanted.uri]
    assert entry["downloaded"] == {
        "hf://org/repo/model.bin": hashlib.sha256(DATA).hexdigest(),
        "hf://org/repo/config.json": hashlib.sha256(b"{}").hexdigest(),
    }
    assert entry["placed"] == assets.hashes(wanted.uri)
    assert not list((assets.cache_folder() / "downloads").iterdir())


def test_what_changed_since_it_was_fetched_is_damaged(site):
    on_hub(site, model__bin=DATA, config__json=b"{}")
    wanted = source(model__bin={}, config__json={})
    fetch(plan_of(wanted), None, ignore)
    assets.verify(wanted.uri)
    (assets.locate(wanted.uri) / "config.json").write_bytes(b"{ }")
    with pytest.raises(DamagedWeights, match="org/repo/config.json is damaged.*fetch it again"):
        assets.verify(wanted.uri)


def test_a_record_that_is_not_json_is_said_in_one_line(site):
    assets.cache_folder().mkdir()
    (assets.cache_folder() / assets.FETCHED).write_text("{")
    with pytest.raises(DamagedWeights, match="fetched.json: not JSON"):
        assets.fetched()


def test_two_fetches_at_once_do_not_get_in_each_others_way(site):
    on_hub(site, model__bin=DATA)
    wanted = source(model__bin={})
    site.gate.clear()
    begun = threading.Thread(target=fetch, args=(plan_of(wanted), None, ignore))
    begun.start()
    while not site.asked:  # until the first one holds the lock and asks for its file
        begun.join(0.01)
    with pytest.raises(FetchError, match="another fetch is running"):
        fetch(plan_of(wanted), None, ignore)
    site.gate.set()
    begun.join()
    assert assets.locate(wanted.uri).is_dir() and len(site.asked) == 1


def test_files_at_hand_are_verified_used_and_left(site, tmp_path):
    flat, nested = tmp_path / "model.bin", tmp_path / "org" / "repo" / "config.json"
    nested.parent.mkdir(parents=True)
    flat.write_bytes(DATA)
    nested.write_bytes(b"{}")
    wanted = source(model__bin={}, config__json={})
    fetch(plan_of(wanted), tmp_path, ignore)
    assert site.asked == []
    assert (assets.locate(wanted.uri) / "model.bin").read_bytes() == DATA
    assert flat.read_bytes() == DATA and nested.exists()
    flat.write_bytes(DATA[::-1])  # what becomes of the user's file later does not matter
    assets.verify(wanted.uri)
    flat.write_bytes(DATA)
    wrong = source("hf://org/other", model__bin={"md5": "0" * 32})
    with pytest.raises(DamagedWeights, match="it was left as it is"):
        fetch(plan_of(wrong), tmp_path, ignore)
    assert flat.exists()


def test_a_folder_of_files_at_hand_must_exist(site, tmp_path):
    with pytest.raises(InvalidRequest, match="nowhere'; it does not exist"):
        fetch(plan_of(source(model__bin={})), tmp_path / "nowhere", ignore)


def saved(tmp_path, state):
    path = tmp_path / "saved.pt"
    torch.save(state, path)
    return path.read_bytes()


def test_a_checkpoint_becomes_safetensors_and_says_where_it_came_from(site, tmp_path):
    shared = torch.arange(6.0).reshape(2, 3)
    data = saved(tmp_path, {"generator": {"module.a": shared, "b": shared.T}, "epoch": 3})
    on_hub(site, generator__pt=data)
    wanted = source("hf://org/repo/generator.safetensors", "checkpoint", generator__pt={})
    fetch(plan_of(wanted), None, ignore)
    path = assets.locate(wanted.uri)
    found = load_file(path)
    assert found.keys() == {"a", "b"}
    assert torch.equal(found["a"], shared) and torch.equal(found["b"], shared.T)
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"source_md5": hashlib.md5(data).hexdigest()}


class Attack:
    """What a hostile file would run when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_checkpoint_that_would_run_code_is_refused_and_runs_none(site, tmp_path):
    marker = str(tmp_path / "ran")
    on_hub(site, model__pt=saved(tmp_path, {"a": torch.ones(1), "b": Attack(marker)}))
    wanted = source("hf://org/repo/model.safetensors", "checkpoint", model__pt={})
    with pytest.raises(DamagedWeights, match="not a checkpoint of tensors alone"):
        fetch(plan_of(wanted), None, ignore)
    assert not os.path.exists(marker) and not assets.expected_path(wanted.uri).exists()


@pytest.mark.parametrize("state", [{}, {"a": 1.0}, torch.ones(2), {"state_dict": {}}])
def test_other_files_are_no_checkpoints(tmp_path, state):
    path = tmp_path / "saved.pt"
    torch.save(state, path)
    with pytest.raises(DamagedWeights, match="not a checkpoint of tensors alone"):
        read_checkpoint(path)


def test_a_truncated_checkpoint_is_refused(site, tmp_path):
    path = tmp_path / "cut.pt"
    path.write_bytes(saved(tmp_path, {"a": torch.ones(1000)})[:1000])
    with pytest.raises(DamagedWeights, match="cut.pt: not a checkpoint"):
        read_checkpoint(path)


def test_a_released_head_is_read():
    tensors = read_checkpoint(shared_data("tunejury") / "tunejury_muq_leave_MA.pt")
    assert len(tensors) == 30 and tensors["score.0.weight"].shape == (512, 1024)


def test_a_transformers_folder_gets_safetensors_in_place_of_its_pickle(site, tmp_path):
    on_hub(site, pytorch_model__bin=saved(tmp_path, {"w": torch.ones(2)}), config__json=b"{}")
    wanted = source(convert="folder", pytorch_model__bin={}, config__json={})
    fetch(plan_of(wanted), None, ignore)
    folder = assets.locate(wanted.uri)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]


LAIONS_AUDIO_BRANCH = """
import json
from types import SimpleNamespace
from laion_clap.clap_module.htsat import HTSAT_Swin_Transformer

config = SimpleNamespace(
    sample_rate=48000, window_size=1024, hop_size=480, mel_bins=64, fmin=50, fmax=14000,
    class_num=5, clip_samples=480000,
)
network = HTSAT_Swin_Transformer(
    spec_size=256, patch_size=4, patch_stride=(4, 4), num_classes=5, embed_dim=8, depths=[2, 2],
    num_heads=[1, 1], window_size=8, config=config, enable_fusion=False, fusion_type="None",
)
print(json.dumps({name: list(value.shape) for name, value in network.state_dict().items()}))
"""


def laions_shapes(elsewhere):
    """Names and shapes of a small LAION-CLAP, as its checkpoints have them.

    The package is imported in a process of its own: it puts its folder on the module path.
    """
    from transformers import RobertaConfig, RobertaModel

    done = subprocess.run(
        [sys.executable, "-P", "-c", LAIONS_AUDIO_BRANCH],
        cwd=elsewhere, capture_output=True, text=True, check=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    shapes = json.loads(done.stdout.splitlines()[-1])
    text = RobertaModel(RobertaConfig(**SMALL_TEXT, max_position_embeddings=514, type_vocab_size=1))
    named = {f"audio_branch.{name}": shape for name, shape in shapes.items()}
    named |= {f"text_branch.{name}": value.shape for name, value in text.state_dict().items()}
    for branch, width in (("audio", 16), ("text", 16)):
        for layer, wide in ((0, width), (2, 8)):
            named[f"{branch}_projection.{layer}.weight"] = (8, wide)
            named[f"{branch}_projection.{layer}.bias"] = (8,)
        named[f"{branch}_transform.sequential.0.weight"] = (8, 8)
        named[f"logit_scale_{branch[0]}"] = ()
    named["text_branch.embeddings.position_ids"] = (1, 514)  # of checkpoints from 2023
    return named


SMALL_TEXT = {
    "vocab_size": 320, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 32,
}  # fmt: skip


def test_every_tensor_of_laions_network_fills_one_of_transformers_and_none_is_left(tmp_path):
    from transformers import ClapConfig, ClapModel

    audio = {"patch_embeds_hidden_size": 8, "hidden_size": 16, "depths": [2, 2], "spec_size": 256,
             "num_attention_heads": [1, 1], "projection_dim": 8, "num_mel_bins": 64}  # fmt: skip
    text = {**SMALL_TEXT, "projection_dim": 8}
    theirs = ClapModel(ClapConfig(text_config=text, audio_config=audio, projection_dim=8))
    shapes = {name: tuple(value.shape) for name, value in theirs.state_dict().items()}
    state = {name: torch.zeros(tuple(shape)) for name, shape in laions_shapes(tmp_path).items()}
    found = {name: tuple(value.shape) for name, value in renamed(state).items()}
    assert found.items() <= shapes.items()
    assert {name for name, _ in theirs.named_parameters()} <= found.keys()


def test_query_key_and_value_are_the_thirds_in_this_order():
    qkv = torch.arange(6.0)
    found = renamed({"audio_branch.layers.0.blocks.0.attn.qkv.bias": qkv})
    self_attention = "audio_model.audio_encoder.layers.0.blocks.0.attention.self"
    parts = [found[f"{self_attention}.{part}.bias"] for part in ("query", "key", "value")]
    assert torch.equal(torch.cat(parts), qkv)


def test_another_checkpoint_is_not_taken_for_laions():
    with pytest.raises(DamagedWeights, match="not a LAION-CLAP checkpoint"):
        renamed({"w": torch.ones(1)})


def test_a_clap_folder_holds_weights_settings_and_tokenizer(site, tmp_path):
    files = {"clap__pt": saved(tmp_path, {"state_dict": {"audio_branch.bn0.bias": torch.ones(4)}})}
    files |= {name.replace(".", "__"): b"{}" for name in TOKENIZER_FILES}
    on_hub(site, **files)
    wanted = source("hf://org/repo/clap", "clap", **dict.fromkeys(files, {}))
    fetch(plan_of(wanted), None, ignore)
    names = {path.name for path in assets.locate(wanted.uri).iterdir()}
    settings = {"model.safetensors", "config.json", "preprocessor_config.json"}
    assert names == settings | set(TOKENIZER_FILES)


def test_every_part_of_the_paper_preset_has_a_public_home(site):
    preset = load_preset("paper")
    plan = plan_for(preset)
    assert plan.homeless == () and plan.present == ()
    assert [source.uri for source in plan.missing] == list(remote_uris(preset))
    assert plan.megabytes > 5_000


def test_what_is_here_is_not_fetched_again(site):
    preset = load_preset("paper")
    first = remote_uris(preset)[0]
    assets.expected_path(first).mkdir(parents=True)
    plan = plan_for(preset)
    assert plan.present == (first,) and first not in [source.uri for source in plan.missing]


def test_the_demo_needs_nothing_from_elsewhere(site, capsys):
    assert main(["fetch", "--preset", "demo"]) == 0
    assert "needs nothing from elsewhere" in capsys.readouterr().out


def test_a_dry_run_shows_sizes_and_licences_and_asks_nobody(site, capsys):
    assert main(["fetch", "--preset", "paper", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "CC BY-NC 4.0; not for commercial use" in shown and "GB to fetch" in shown
    assert site.asked == []


@pytest.mark.parametrize("answer", ["n", "", "what?"])
def test_without_a_yes_nothing_is_fetched(site, monkeypatch, answer):
    monkeypatch.setattr("builtins.input", lambda _: answer)
    assert main(["fetch", "--preset", "paper"]) == 130
    assert site.asked == []


def test_an_error_of_the_server_is_one_line_on_the_command_line(site, monkeypatch, capsys):
    monkeypatch.setattr("builtins.input", lambda _: "y")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: namedtuple("usage", "free")(10**12))
    assert main(["fetch", "--preset", "paper"]) == 2
    error = capsys.readouterr().err.strip()
    assert "\n" not in error and "there is no such file (HTTP 404" in error


def test_endpoints_must_be_addresses(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "mirror.example")
    with pytest.raises(ConfigError, match="HF_ENDPOINT is 'mirror.example'; it must start with"):
        address_of("hf://org/repo/file")
    monkeypatch.delenv("HF_ENDPOINT")
    monkeypatch.delenv("TTMPREF_MIRROR", raising=False)
    assert address_of("hf://org/repo/a/b") == "https://huggingface.co/org/repo/resolve/main/a/b"
    assert address_of(URL) == URL
