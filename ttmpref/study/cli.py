"""`python -m ttmpref study ...`: from a definition to exports, without writing code.

An edge, like `ttmpref.cli`, which it is part of: it reads arguments, calls the package and prints.
Nothing heavy is imported before a command needs it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ttmpref.study.settings import DEFAULT_RESULTS
from ttmpref.types import InvalidRequest

if TYPE_CHECKING:
    from ttmpref.studio import Studio
    from ttmpref.study.definition import StageSource, Study
    from ttmpref.study.records import Build
    from ttmpref.study.stimuli import ClipScores, Progress, RewardScorer, StageRenderer
    from ttmpref.study.store import Store

ACTOR = "operator"
EXIT_FAULTS = 1
POWER_STUDIES = 500
FAULTS_SHOWN = 10

study_app = typer.Typer(help="Blind listening studies: define, build, open, export, report.")

StudyArgument = Annotated[str, typer.Argument(help="Path of a .yaml file, or a shipped study.")]
SlugArgument = Annotated[str, typer.Argument(help="Slug of a study, or <slug>-v<version>.")]
DeviceOption = Annotated[str, typer.Option(help="For clips made by stages: auto, cpu, cuda.")]
JsonOption = Annotated[bool, typer.Option("--json", help="As JSON.")]
ResultsOption = Annotated[Path, typer.Option(help="Folder of exports.")]


@study_app.command()
def validate(study: StudyArgument) -> None:
    """Check a definition, its prompts and whether every clip is there; change nothing."""
    from ttmpref.study.definition import load_study
    from ttmpref.study.records import build_folder
    from ttmpref.study.settings import StudySettings
    from ttmpref.study.sources import sources_of

    loaded = load_study(study)
    definition = loaded.definition
    folder = build_folder(StudySettings.from_environment().data_dir, definition)
    sources = sources_of(loaded, folder)
    _check_stages(definition.systems)
    to_render = sum(source.stage is not None and not source.path.is_file() for source in sources)
    _print_facts(
        {
            "study": f"{definition.name}: {definition.title}",
            "hash": definition.sha256,
            "systems": ", ".join(system.label for system in definition.systems),
            "prompts": str(len(loaded.prompts)),
            "clips": f"{len(sources)} ({to_render} to be generated)",
            **_pairs_and_session(loaded),
        }
    )


def _pairs_and_session(study: Study) -> dict[str, str]:
    """How many main pairs there are, and what they leave of the planned session."""
    from ttmpref.study.pairing import most_pairs

    pairs, planned = most_pairs(study), study.definition.session
    session = planned.within(pairs)
    missing = planned.length - session.length
    return {
        "main pairs": f"{pairs['main']}{' at most' * (study.definition.pairs.within is not None)}",
        "a session": f"{session.practice} practice, {session.trials} main, "
        f"{session.attention} attention, {session.repeats} repeats"
        + f" ({missing} trials fewer than planned: the pairs do not suffice)" * (missing > 0),
    }


@study_app.command()
def build(study: StudyArgument, device: DeviceOption = "auto") -> None:
    """Render every clip to one form, look for leaks, and say what stands against opening."""
    from ttmpref.study.definition import load_study
    from ttmpref.study.records import build_folder
    from ttmpref.study.settings import StudySettings
    from ttmpref.study.stimuli import build_study

    loaded = load_study(study)
    folder = build_folder(StudySettings.from_environment().data_dir, loaded.definition)
    studios = Studios(device)
    with _progress() as show:
        built = build_study(loaded, folder, studios.render, studios.score, show)
    _print_build(built)
    print(folder)
    if built.faults:
        raise typer.Exit(EXIT_FAULTS)


@study_app.command()
def simulate(
    study: StudyArgument,
    participants: Annotated[
        int | None, typer.Option(help="Default: what the study asks for.")
    ] = None,
    effect: Annotated[
        list[str] | None, typer.Option(help="system=log strength, such as new=0.4; repeatable.")
    ] = None,
    rater_sd: Annotated[float, typer.Option(help="Spread over raters, log odds.")] = 0.5,
    prompt_sd: Annotated[float, typer.Option(help="Spread over prompts, log odds.")] = 0.8,
    ties: Annotated[float, typer.Option(help="Share of ties between equal clips.")] = 0.15,
    side_bias: Annotated[float, typer.Option(help="Log odds towards clip A.")] = 0.0,
    lazy: Annotated[float, typer.Option(help="Share of people who click anything.")] = 0.05,
    seed: Annotated[int, typer.Option(help="Of the schedule and the people.")] = 0,
) -> None:
    """Run the study with invented listeners: coverage, the report, power. All of it simulated."""
    from ttmpref.study.analysis import Plan, analyse
    from ttmpref.study.definition import load_study
    from ttmpref.study.power import power
    from ttmpref.study.records import BUILD_FILE, build_folder, read_build
    from ttmpref.study.rehearsal import Rehearsal, coverage
    from ttmpref.study.report import tables
    from ttmpref.study.settings import StudySettings
    from ttmpref.study.simulation import Population

    loaded = load_study(study)
    folder = build_folder(StudySettings.from_environment().data_dir, loaded.definition)
    built = read_build(folder) if (folder / BUILD_FILE).is_file() else None
    rehearsal = Rehearsal.of(loaded, built)
    people = participants or rehearsal.participants()
    population = Population(
        _effects(effect or []), rater_sd=rater_sd, prompt_sd=prompt_sd, ties=ties,
        side_bias=side_bias, lazy=lazy,
    )  # fmt: skip
    votes = rehearsal.votes(population, people, seed)
    print(f"SIMULATED: {people} invented listeners\n")
    _print_facts({name: str(count) for name, count in coverage(votes, rehearsal).items()})
    plan = Plan.of(loaded.definition)
    for table in tables(analyse(votes, plan)):
        print("\n" + table.markdown(), end="")
    if plan.primary is not None:
        found = power(
            rehearsal.design(people), population, plan.primary, POWER_STUDIES, plan.alpha,
            plan.margin if plan.primary in plan.equivalence else None, seed=seed,
        )  # fmt: skip
        print(f"\n## Power of {POWER_STUDIES} such studies\n")
        _print_facts(
            {
                "true preference": f"{found.preference:.3f}",
                "decisive votes": f"{found.decisive:.0f}",
                "found significant": f"{found.significant.value:.1%}",
                "interval holds the truth": f"{found.covered.value:.1%}",
                "width of the interval": f"{found.width:.3f}",
                "design effect": f"{found.design_effect:.2f}",
            }
        )


@study_app.command(name="open")
def open_(
    study: StudyArgument,
    waive: Annotated[
        str | None, typer.Option(help="Open in spite of the build's faults, for this reason.")
    ] = None,
) -> None:
    """Freeze a built study and open it to listeners, or go on with a paused one (by its slug)."""
    from ttmpref.study.definition import load_study, shipped_studies
    from ttmpref.study.page import ADDRESS

    store = _store()
    if study.endswith((".yaml", ".yml")) or study in shipped_studies():
        loaded = load_study(study)
        store.studies.open(loaded, ACTOR, waive)
        study = loaded.definition.slug
    else:
        store.studies.move(study, "open", ACTOR)
    address = f"{ADDRESS}/{study}"
    print(f"{study} is open; `python -m ttmpref study serve` lets listeners in at {address}")


@study_app.command()
def pause(slug: SlugArgument) -> None:
    """Give out no new trials; those given out may still be answered."""
    _move(slug, "paused")


@study_app.command()
def close(slug: SlugArgument) -> None:
    """End a study for good."""
    _move(slug, "closed")


def _move(slug: str, status: str) -> None:
    _store().studies.move(slug, status, ACTOR)
    print(f"{slug} is {status}")


@study_app.command()
def status(
    slug: Annotated[str | None, typer.Argument(help="Default: a list of all studies.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Where studies stand: people, answers, coverage, balance, stopping rule."""
    store = _store()
    found: Any = store.studies.list() if slug is None else store.reading.overview(slug)
    if as_json:
        print(json.dumps(found, indent=2, ensure_ascii=False))
    elif slug is None:
        rows = [("study", "version", "status", "votes", "title")]
        rows += [(r["slug"], str(r["version"]), r["status"], str(r["votes"]), r["title"])
                 for r in found]  # fmt: skip
        _print_rows(rows)
    else:
        kept = {name: value for name, value in found.items() if name not in ("leaks", "contrasts")}
        _print_facts({name: _words(value) for name, value in kept.items()})


@study_app.command()
def export(
    slug: SlugArgument,
    results: ResultsOption = DEFAULT_RESULTS,
    unblind: Annotated[
        bool, typer.Option("--unblind", help="Name systems of an open study; this is recorded.")
    ] = False,
) -> None:
    """Write all tables of a study into a new folder."""
    from ttmpref.study.export import export_study

    store = _store()
    if unblind:
        store.studies.lift_blind(slug, ACTOR)
    print(export_study(store.reading.dump(slug), results, unblind))


@study_app.command()
def report(
    source: Annotated[str, typer.Argument(help="Folder of an export, or slug of a study.")],
    out: Annotated[Path | None, typer.Option(help="Default: `report` inside the export.")] = None,
) -> None:
    """Run the planned analysis: tables, figures, methods text, and every number as JSON."""
    from ttmpref.study.export import export_files
    from ttmpref.study.report import tables, write_report
    from ttmpref.study.reporting import analyse_export, read_export

    folder = Path(source)
    if folder.is_dir():
        files, place = read_export(folder), out or folder / "report"
    else:
        files = export_files(_store().reading.dump(source))
        place = out or Path(f"{source}-report")
    analysis = analyse_export(files)
    write_report(place, analysis)
    for table in tables(analysis):
        print(table.markdown())
    print(place)


@study_app.command()
def audit(slug: SlugArgument) -> None:
    """Recompute the audit chain, every vote's seal and every counter; name what does not fit."""
    problems = _store().studies.verify(slug)
    for problem in problems:
        print(problem)
    if problems:
        raise typer.Exit(EXIT_FAULTS)
    print(f"{slug} is whole")


@study_app.command()
def forget() -> None:
    """Delete what was to be kept for a time only; `serve` does it at every start."""
    _print_facts({name: str(count) for name, count in _store().people.forget().items()})


@study_app.command()
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65_535, help="Port.")] = 7861,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Server processes.")] = 1,
    results: ResultsOption = DEFAULT_RESULTS,
) -> None:
    """Serve the listener's page and the API of all open studies."""
    from ttmpref.study.app import serve as run

    run(host, port, workers, results)


def _store() -> Store:
    from ttmpref.study.settings import StudySettings
    from ttmpref.study.store import Store

    return Store(StudySettings.from_environment())


class Studios:
    """Clips and rewards from presets, each opened once."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._open: dict[str, Studio] = {}

    def _studio(self, preset: str) -> Studio:
        from ttmpref.studio import Studio

        if preset not in self._open:
            self._open[preset] = Studio.open(preset, self._device)
        return self._open[preset]

    @property
    def render(self) -> StageRenderer:
        def render(source: StageSource, prompt: str, seed: int, path: Path) -> None:
            studio = self._studio(source.preset)
            request = studio.request(prompt, seed=seed, stage=source.name, score=source.score)
            studio.save(studio.generate(request)[0], path)

        return render

    @property
    def score(self) -> RewardScorer:
        def score(preset: str, clips: Sequence[Path], prompts: Sequence[str]) -> ClipScores:
            from ttmpref import assets
            from ttmpref.audio import read_clip
            from ttmpref.study.definition import OTHER_SCORES, REWARD, sha256_json

            studio, found, similarities = self._studio(preset), [], []
            for path, prompt in zip(clips, prompts, strict=True):
                clip = read_clip(path)
                found += studio.score([clip], prompt, timeline=False)
                similarities.append(studio.clap_score(clip, prompt))
            ranker = sha256_json(found[0].protocol)
            clap = assets.digest(studio.preset.metric_clap.folder)
            without, similarity = OTHER_SCORES
            return {
                REWARD: (ranker, [one.reward for one in found]),
                without: (ranker, [one.reward_without_prompt for one in found]),
                similarity: (clap, similarities),
            }

        return score


def _check_stages(systems: Sequence[Any]) -> None:
    """Refuse stages that their preset does not have; one without weights is said at build time."""
    from ttmpref.config import load_preset

    for system in systems:
        if system.stage is not None:
            load_preset(system.stage.preset).stage(system.stage.name)


def _effects(given: Sequence[str]) -> dict[str, float]:
    effects = {}
    for text in given:
        label, found, value = text.partition("=")
        try:
            effects[label] = float(value)
        except ValueError:
            found = ""
        if not found:
            raise InvalidRequest(f"effect is {text!r}; accepted: system=number, such as new=0.4")
    return effects


@contextmanager
def _progress() -> Iterator[Progress]:
    """A bar on standard error; silent where that is no terminal."""
    if not sys.stderr.isatty():
        yield lambda done, total, what: None
        return
    from tqdm import tqdm

    with tqdm(total=1, file=sys.stderr, leave=False) as bar:

        def show(done: int, total: int, what: str) -> None:
            bar.total, bar.n = total, done
            bar.set_description(what)

        yield show


def _print_build(built: Build) -> None:
    """Loudness, leaks before and after, faults."""
    targets = [one.target_lufs for one in built.stimuli]
    _print_facts(
        {
            "clips": str(len(built.stimuli)),
            "pairs": str(len(built.pairs)),
            "targets": f"{min(targets):.1f} to {max(targets):.1f} LUFS, alike within each prompt",
            "hash": built.sha256,
        }
    )
    rows = [("systems", "clips", "AUC without listening", "by chance up to", "AUC of the sound")]
    rows += [
        (f"{leak.first}, {leak.second}", leak.form, f"{leak.outer_auc:.2f}",
         f"{leak.outer_null:.2f}", f"{leak.inner_auc:.2f} (chance up to {leak.inner_null:.2f})")
        for leak in built.leaks
    ]  # fmt: skip
    _print_rows(rows)
    for fault in built.faults[:FAULTS_SHOWN]:
        print(f"  FAULT {fault}")
    if len(built.faults) > FAULTS_SHOWN:
        print(f"  ... and {len(built.faults) - FAULTS_SHOWN} more")


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_words(one)}" for name, one in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(map(_words, value)) or "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _print_facts(facts: dict[str, str]) -> None:
    _print_rows(list(facts.items()))


def _print_rows(rows: Sequence[Sequence[str]]) -> None:
    from ttmpref.cli.output import print_table

    print_table(rows)
