"""A study's definition: strict, hashed by meaning, and its prompt list read with line numbers."""

import json
import shutil

import pytest
import yaml

from ttmpref.assets import assets_folder
from ttmpref.study.definition import load_study, read_prompts, shipped_studies
from ttmpref.types import ConfigError

MINIMAL = {
    "schema": 1,
    "slug": "tiny-study",
    "title": "Tiny",
    "question": {"en": "Which do you prefer?"},
    "systems": [{"label": "x", "audio": "x"}, {"label": "y", "audio": "y"}],
    "prompts": {"file": "prompts.txt"},
    "pairs": {"main": [["x", "y"]], "votes_per_pair": 2},
    "stopping": {"rule": "fixed", "participants": 3},
}


@pytest.fixture
def write(tmp_path):
    """Write a definition with changes at dotted paths, and load it."""
    (tmp_path / "prompts.txt").write_text("calm piano\n\nloud drums\n")

    def load(changes=None, text=None):
        data = json.loads(json.dumps(MINIMAL))
        for dotted, value in (changes or {}).items():
            *parents, last = dotted.split(".")
            place = data
            for name in parents:
                place = place.setdefault(name, {})
            place[last] = value
        path = tmp_path / "study.yaml"
        path.write_text(text or yaml.safe_dump(data))
        return load_study(path)

    return load


@pytest.mark.parametrize("name", shipped_studies())
def test_shipped_studies_load(name, tmp_path):
    shutil.copytree(assets_folder() / "studies", tmp_path / "studies")
    shutil.copytree(assets_folder() / "prompts", tmp_path / "prompts")
    (tmp_path / "studies" / "prompts.txt").write_text("calm piano\nloud drums\n")
    study = load_study(tmp_path / "studies" / f"{name}.yaml")
    assert study.definition.slug == name and study.prompts


def test_the_shipped_prompt_list_holds_a_hundred_texts_of_our_own():
    prompts = read_prompts(assets_folder() / "prompts" / "describer100.jsonl")
    assert len(prompts) == 100 and {prompt.licence for prompt in prompts} == {"MIT"}


def test_lines_of_a_text_file_are_prompts_numbered_from_one(write):
    assert [(p.id, p.text) for p in write().prompts] == [("1", "calm piano"), ("2", "loud drums")]


def test_the_hash_covers_meaning_and_not_spelling(write):
    plain = write()
    spelled = write({"session.trials": 20, "audio.sample_rate": 44100})
    commented = write(text=f"# a comment\n{spelled.text}")
    other = write({"session.trials": 21})
    assert plain.definition.sha256 == spelled.definition.sha256 == commented.definition.sha256
    assert other.definition.sha256 != plain.definition.sha256


@pytest.mark.parametrize(
    ("dotted", "value", "message"),
    [
        ("session.trails", 5, "session.trails: unknown key"),
        ("slug", "No Spaces", "slug: String should match"),
        ("schema", 2, "schema: Input should be 1, got 2"),
        ("audio.channels", 6, "audio.channels"),
        ("method.answers", ["A", "TIE"], "method: answers must hold A and B"),
        ("pairs.main", [["x", "z"]], "'z' is not a system; systems: x, y"),
        ("pairs.main", [["x", "x"]], "pairs: a system cannot meet itself"),
        ("pairs.main", [["x", "y"], ["y", "x"]], "pairs: main names a pair of systems twice"),
        ("pairs.main", [], "pairs: names neither main nor within"),
        ("analysis.primary", "x>y", "'x>y' is not of the form x<y"),
        ("question", {}, "question: needs at least one locale"),
        ("stopping", {"rule": "never"}, "stopping"),
        ("systems", [{"label": "x", "audio": "x", "csv": "x.csv"}], "systems.0: system 'x' needs"),
        ("systems", [{"label": "x", "audio": "x", "takes": 2}], "audio needs {take}"),
        ("audio.min_seconds", 11, "min_seconds 11 exceeds seconds 10"),
        ("ranker", {"name": "clap_score", "file": "x"}, "ranker: name is 'clap_score', which is"),
        ("prompts.file", "none.txt", "none.txt: no such file"),
        ("prompts.file", "list.exe", "prompt lists are"),
    ],
)
def test_a_mistake_is_named_with_its_path(write, dotted, value, message):
    with pytest.raises(ConfigError) as caught:
        write({dotted: value})
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.jsonl", '{"id": 1, "text": "calm"}\n{"id": 1, "text": "loud"}', "id '1' occurs twice"),
        ("a.jsonl", '{"id": "../x", "text": "calm"}', "a.jsonl:1: id"),
        ("a.jsonl", '{"id": "x"}', "a.jsonl:1: text"),
        ("a.jsonl", "not json", "cannot be read"),
        ("a.json", '["calm"]', "a.json:1: a record with id and text"),
        ("a.csv", "id,text\n1,calm\n2, \n", "a.csv:3: text is empty"),
        ("a.txt", "", "holds no prompts"),
        ("a.txt", "calm\ncalm", "text 'calm' occurs twice"),
    ],
)
def test_a_bad_prompt_list_is_named_with_file_and_line(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match="a\\.") as caught:
        read_prompts(tmp_path / name)
    assert message in str(caught.value)


def test_public_names_of_the_fields_are_understood(tmp_path):
    path = tmp_path / "list.csv"
    path.write_text("prompt_id,prompt,tags\n7,calm piano,calm;piano\n")
    prompt = read_prompts(path)[0]
    assert (prompt.id, prompt.text, prompt.tags) == ("7", "calm piano", ("calm", "piano"))
