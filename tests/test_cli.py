"""The command line answers at once, writes whole files, and fails in one line."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from tests.conftest import PRESET
from ttmpref import audio
from ttmpref.cli import main
from ttmpref.cli.output import output_paths
from ttmpref.studio import Studio

HEAVY = ("torch", "scipy", "transformers", "gradio", "pydantic", "soundfile")


@pytest.fixture
def run(tiny_preset, monkeypatch, tmp_path, capfd):
    """Run a command in an empty folder on the tiny preset: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def command(*arguments):
        code = main([*arguments])
        out, err = capfd.readouterr()
        return code, out, err

    return command


@pytest.fixture
def generate(run, tiny_preset):
    def command(*arguments):
        return run("generate", *arguments, "--preset", str(tiny_preset), "--device", "cpu")

    return command


def in_a_process(*arguments, **options):
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=120, **options
    )


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from ttmpref.cli import main; code = main(['--help']);"
        f"print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr); sys.exit(code)"
    )
    done = in_a_process("-c", code)
    assert done.returncode == 0 and done.stderr.strip() == "[]"
    commands = ("generate", "replay", "score", "best-of-n", "optimise", "anchors", "presets")
    for command in (*commands, "doctor", "app"):
        assert command in done.stdout


def test_help_answers_within_a_second_of_processor_time():
    """Processor time, because the wall clock measures the other programs too."""
    code = (
        "import time; from ttmpref.cli import main; main(['--help']);"
        "print('seconds', time.process_time())"
    )
    assert float(in_a_process("-c", code).stdout.rsplit(maxsplit=1)[1]) < 1.0


def test_listing_presets_does_not_import_torch():
    code = (
        "import sys; from ttmpref.cli import main; main(['presets']);print('torch' in sys.modules)"
    )
    assert in_a_process("-c", code).stdout.strip().endswith("False")


def test_no_arguments_print_the_help(run):
    code, out, _ = run()
    assert code == 0 and "Usage: ttmpref" in out


def test_generate_writes_a_clip_and_its_sidecar(generate, tmp_path):
    code, out, err = generate("calm piano 🎹", "--seed", "3", "--steps", "2", "--out", "a/clip.wav")
    assert code == 0, err
    assert out == "a/clip.wav\n" and "seed 3" in err and "LUFS" in err
    assert audio.read_clip(tmp_path / "a/clip.wav").samples == 8_000
    request = json.loads((tmp_path / "a/clip.json").read_text())["request"]
    assert request["seed"] == 3 and request["prompt"] == "calm piano 🎹"


def test_every_option_reaches_the_request(generate, tmp_path):
    code, _, err = generate(
        "calm piano", "--seed", "3", "--stage", "scored", "--score", "-1.5", "--guidance", "2",
        "--steps", "2", "--negative", "noise", "--solver", "heun", "--schedule", "anneal",
        "--passes", "0", "--lufs", "-20", "--no-level", "--quiet", "--out", "clip.flac",
    )  # fmt: skip
    assert (code, err) == (0, "")
    assert json.loads((tmp_path / "clip.json").read_text())["request"] == {
        "prompt": "calm piano", "seed": 3, "stage": "scored", "score": -1.5, "guidance": 2.0,
        "num_steps": 2, "negative_prompt": "noise", "variations": 1, "solver": "heun",
        "guidance_schedule": "anneal", "separation_passes": 0, "normalise_loudness": False,
        "target_lufs": -20.0,
    }  # fmt: skip


def test_several_variations_are_numbered_and_replaced_files_are_mentioned(generate, tmp_path):
    arguments = ("calm piano", "--seed", "3", "--steps", "1", "--variations", "2")
    code, out, err = generate(*arguments)
    assert code == 0 and out.split() == ["clip-1.wav", "clip-2.wav"] and "replaced" not in err
    assert {path.name for path in tmp_path.iterdir()} == {
        "clip-1.wav", "clip-1.json", "clip-2.wav", "clip-2.json"
    }  # fmt: skip
    assert "replaced an older file" in generate(*arguments)[2]


def test_output_paths_keep_folder_and_suffix(tmp_path):
    assert output_paths(tmp_path / "x.wav", 1) == [tmp_path / "x.wav"]
    assert output_paths(tmp_path / "x.wav", 2)[1] == tmp_path / "x-2.wav"


def test_replay_makes_the_same_file(generate, run, tiny_preset, tmp_path):
    generate("calm piano", "--steps", "2", "--variations", "2")
    code, out, err = run("replay", "clip-2.json", "--out", "b.wav", "--preset", str(tiny_preset))
    assert code == 0 and out == "b.wav\n", err
    assert (tmp_path / "b.wav").read_bytes() == (tmp_path / "clip-2.wav").read_bytes()


def test_replay_without_preset_takes_the_one_of_the_sidecar(generate, run):
    generate("calm piano", "--steps", "1")
    code, _, err = run("replay", "clip.json", "--out", "b.wav")
    assert code == 2 and "preset 'tiny' is unknown" in err


BAD = [
    (("",), "prompt is empty"),
    (("x" * 10_000,), "10000 characters; at most 2000"),
    (("a\x07b",), r"'\x07'"),
    (("x", "--seed", "-1"), "seed is -1"),
    (("x", "--seed", "abc"), "'abc' is not a whole number"),
    (("x", "--seed", "1.5"), "'1.5' is not a whole number"),
    (("x", "--seed", str(2**64)), f"seed is {2**64}"),
    (("x", "--score", "nan"), "score is nan; it must be a number from -2 to 10"),
    (("x", "--score", "11"), "score is 11.0"),
    (("x", "--guidance", "inf"), "guidance is inf"),
    (("x", "--guidance", "-1"), "guidance is -1.0; it must be a number from 0 to 15"),
    (("x", "--guidance", "much"), "'much' is not a number"),
    (("x", "--steps", "0"), "num_steps is 0; it must be a whole number from 1 to 200"),
    (("x", "--variations", "9"), "variations is 9"),
    (("x", "--solver", "rk4"), "solver is 'rk4'; accepted: euler, heun"),
    (("x", "--schedule", "cosine"), "'cosine'; accepted: constant, anneal, interval"),
    (("x", "--stage", "nope"), "'nope'; accepted: baseline, scored, lost, planned"),
    (("x", "--stage", "planned"), "stage 'planned' cannot be used: not trained yet"),
    (("x", "--stage", "lost"), "lost.safetensors is missing"),
    (("x", "--out", "clip.ogg"), "'.ogg'; accepted: .wav, .flac, .mp3"),
    (("x", "--out", "clip"), "''; accepted: .wav, .flac, .mp3"),
    (("x", "--out", "/proc/nowhere/clip.wav"), "/proc/nowhere/clip.wav: cannot be written"),
    (("x", "--tempo", "3"), "--tempo"),
    ((), "prompt"),
]


@pytest.mark.parametrize(("arguments", "said"), BAD, ids=[said for _, said in BAD])
def test_bad_input_is_one_line_on_standard_error(generate, tmp_path, arguments, said):
    code, out, err = generate(*arguments)
    assert code == 2 and out == ""
    assert err.startswith("error: ") and said in err
    assert err.count("\n") == 1 and "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("generate", "x", "--preset", "nope"), "preset 'nope' is unknown; accepted: demo"),
        (("generate", "x", "--preset", "gone.yaml"), "gone.yaml: no such file"),
        (("generate", "x", "--device", "tpu"), "device is 'tpu'; accepted: auto, cpu, cuda"),
        (("replay", "gone.json", "--out", "a.wav"), "sidecar gone.json: cannot be read"),
        (("replay", "gone.json"), "--out"),
        (("sing",), "'sing'"),
    ],
)
def test_other_mistakes_are_one_line_too(run, arguments, said):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ") and said in err and err.count("\n") == 1


def test_an_unknown_key_in_a_preset_is_named_with_its_path(run, tiny_preset, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(tiny_preset.read_text().replace("mlp_round_to: 8", "mlp_round: 8"))
    code, _, err = run("generate", "x", "--preset", str(path))
    assert code == 2 and "mine.yaml: backbone.mlp_round: unknown key" in err


def test_damaged_weights_are_one_line_and_leave_no_file(run, tiny_preset, tmp_path):
    root = tmp_path / "own"
    shutil.copytree(tiny_preset.parent, root)
    (root / "tiny.yaml").write_text(PRESET.format(root=root))
    path = root / "vae.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    code, out, err = run("generate", "x", "--preset", str(root / "tiny.yaml"))
    assert (code, out) == (2, "") and str(path) in err and err.count("\n") == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["own"]


def test_a_full_disk_is_one_line_and_leaves_no_file(generate, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(audio, "_write_synced", full)
    code, out, err = generate("x", "--steps", "1")
    assert (code, out) == (2, "")
    assert err == "error: clip.wav: cannot be written (No space left on device)\n"
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_ends_without_traceback(generate, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Studio, "generate", interrupted)
    code, out, err = generate("x")
    assert code == 130 and "Traceback" not in err and list(tmp_path.iterdir()) == []


def test_presets_are_listed_for_people_and_for_programs(run):
    code, out, _ = run("presets")
    assert code == 0 and out.startswith("demo: ") and "baseline" in out
    code, out, _ = run("presets", "--json")
    listing = json.loads(out)
    assert code == 0 and listing[0]["name"] == "demo"
    stage = listing[0]["stages"][0]
    assert stage["available"] is (stage["missing"] is None)


def test_the_doctor_names_each_weight_and_what_is_broken(run, tiny_preset, monkeypatch):
    from ttmpref import doctor

    monkeypatch.setattr(doctor, "PACKAGES", (("numpy", "numpy"), ("nosuch", "nosuch")))
    monkeypatch.setattr(doctor, "_laion_clap", lambda: doctor.Finding(True, "laion_clap", "x"))
    code, out, _ = run("doctor", "--preset", str(tiny_preset), "--device", "cpu")
    lines = {line.split()[1]: line.split()[0] for line in out.splitlines() if line.strip()}
    assert code == 1
    assert lines["numpy"] == "ok" and lines["nosuch"] == "BROKEN"
    assert "ModuleNotFoundError" in out and np.__version__ in out
    root = str(tiny_preset.parent)
    assert lines[f"{root}/baseline.safetensors"] == "ok"
    assert lines[f"{root}/lost.safetensors"] == "BROKEN"
    assert "unavailable: not trained yet" in out


def test_the_doctor_is_content_when_nothing_is_broken(run, tiny_preset, monkeypatch, tmp_path):
    from ttmpref import doctor

    path = tmp_path / "whole.yaml"
    lines = tiny_preset.read_text().splitlines()
    lost = next(i for i, line in enumerate(lines) if "name: lost" in line)
    path.write_text("\n".join(lines[:lost] + lines[lost + 1 :]))
    monkeypatch.setattr(doctor, "PACKAGES", (("numpy", "numpy"),))
    monkeypatch.setattr(doctor, "_laion_clap", lambda: doctor.Finding(True, "laion_clap", "x"))
    monkeypatch.setattr("ttmpref.encoders.clap.COLLAPSED", 1.01)  # random weights hear all alike
    code, out, _ = run("doctor", "--preset", str(path), "--device", "cpu")
    assert code == 0, out
    assert "mean cosine of four unlike sounds" in out


def test_the_doctor_survives_an_unknown_preset(run, monkeypatch):
    from ttmpref import doctor

    monkeypatch.setattr(doctor, "PACKAGES", ())
    monkeypatch.setattr(doctor, "_laion_clap", lambda: doctor.Finding(True, "laion_clap", "x"))
    code, out, _ = run("doctor", "--preset", "nope")
    assert code == 1 and "'nope' is unknown" in out
