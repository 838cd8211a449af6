"""Weights are found, checked and read; what is missing or damaged is said in one line."""

import hashlib
import json

import pytest
import torch
from safetensors.torch import save_file

from ttmpref import assets
from ttmpref.types import ConfigError, DamagedWeights, MissingWeights

WEIGHTS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4, dtype=torch.float16)}


@pytest.fixture
def bundled(tmp_path, monkeypatch):
    """A bundled set "demo" with one file and one folder, and its manifest."""
    root = tmp_path / "assets" / "demo"
    (root / "folder").mkdir(parents=True)
    save_file(WEIGHTS, root / "net.safetensors")
    (root / "folder" / "config.json").write_text("{}")
    write_manifest(root)
    monkeypatch.setenv("TTMPREF_ASSETS", str(tmp_path / "assets"))
    return root


def write_manifest(root):
    files = {
        path.relative_to(root).as_posix(): {
            "bytes": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        for path in root.rglob("*")
        if path.is_file()
    }
    (root / "manifest.json").write_text(json.dumps({"format": 1, "files": files}))


def test_bundled_weights_are_read_verified_and_widened(bundled):
    tensors = assets.load_tensors("asset://demo/net.safetensors")
    assert torch.equal(tensors["a"], WEIGHTS["a"])
    assert tensors["b"].dtype == torch.float32


def test_remote_weights_are_looked_for_in_the_cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TTMPREF_CACHE", str(tmp_path))
    with pytest.raises(MissingWeights) as caught:
        assets.locate("hf://org/repo/net.safetensors")
    assert str(tmp_path / "hf/org/repo/net.safetensors") in str(caught.value)
    assert "\n" not in str(caught.value)
    path = tmp_path / "https/example.org/net.safetensors"
    path.parent.mkdir(parents=True)
    path.touch()
    assert assets.locate("https://example.org/net.safetensors") == path


def test_a_missing_bundled_file_names_place_and_remedy(bundled):
    with pytest.raises(MissingWeights, match="python -m training chain --recipe demo") as caught:
        assets.locate("asset://demo/gone.safetensors")
    assert str(bundled / "gone.safetensors") in str(caught.value)


@pytest.mark.parametrize(
    "uri", ["ftp://a/b", "http://a/b", "asset://../x", "hf://a//b", "https://a/./b", "asset://a\\b"]
)
def test_a_uri_of_another_scheme_or_out_of_its_folder_is_refused(uri):
    with pytest.raises(ConfigError) as caught:
        assets.locate(uri)
    assert repr(uri) in str(caught.value)


def test_a_truncated_file_is_refused(bundled):
    path = bundled / "net.safetensors"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(DamagedWeights, match=r"has \d+ bytes, not \d+"):
        assets.load_tensors("asset://demo/net.safetensors")
    with pytest.raises(DamagedWeights, match="is damaged"):
        assets.load_tensors(str(path))


def test_an_altered_file_is_refused_with_both_hashes(bundled):
    path = bundled / "net.safetensors"
    good = hashlib.sha256(path.read_bytes()).hexdigest()
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    bad = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(DamagedWeights) as caught:
        assets.load_tensors("asset://demo/net.safetensors")
    assert good in str(caught.value) and bad in str(caught.value)


def test_a_folder_is_verified_file_by_file(bundled):
    assets.verify("asset://demo/folder")
    (bundled / "folder/config.json").write_text("[]")
    with pytest.raises(DamagedWeights, match="folder/config.json"):
        assets.verify("asset://demo/folder")
    (bundled / "folder/config.json").unlink()
    with pytest.raises(MissingWeights, match="folder/config.json"):
        assets.verify("asset://demo/folder")


def test_a_file_the_manifest_does_not_know_is_refused(bundled):
    save_file(WEIGHTS, bundled / "new.safetensors")
    with pytest.raises(DamagedWeights, match="not listed"):
        assets.verify("asset://demo/new.safetensors")


@pytest.mark.parametrize("content", ["", "[]", '{"format": 2}', '{"format": 1, "files": {"a": 1}}'])
def test_a_manifest_that_is_none_is_refused_in_one_line(bundled, content):
    (bundled / "manifest.json").write_text(content)
    with pytest.raises(DamagedWeights, match="manifest.json") as caught:
        assets.verify("asset://demo/net.safetensors")
    assert "\n" not in str(caught.value)


def test_a_set_without_manifest_is_missing_weights(bundled):
    (bundled / "manifest.json").unlink()
    with pytest.raises(MissingWeights, match="manifest.json"):
        assets.verify("asset://demo/net.safetensors")


def test_a_pickle_is_never_opened(tmp_path):
    path = tmp_path / "net.safetensors"
    torch.save(WEIGHTS, path)
    with pytest.raises(DamagedWeights):
        assets.load_tensors(str(path))


def test_a_hash_follows_a_change_of_the_file(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"one")
    first = assets.sha256(path)
    path.write_bytes(b"three")
    assert first == hashlib.sha256(b"one").hexdigest()
    assert assets.sha256(path) == hashlib.sha256(b"three").hexdigest()
