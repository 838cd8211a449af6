"""What the Generate and Score tabs say: help texts and the states of a run, in plain words."""

from __future__ import annotations

from html import escape

from ttmpref.types import Progress, StageInfo
from ttmpref.ui.errors import without_folders
from ttmpref.uploads import MAX_BYTES

SEED = "Decides the random start. Drawn anew for each run unless locked."
LOCK = "Lock"
VARIATIONS = "Clips per run, made from consecutive seeds."
BEST_OF = "Choose the best by reward"
BEST_OF_HELP = "Makes clips from consecutive seeds, scores them all and marks the winner."
CANDIDATES = "Clips to choose from, in place of the variations."
STAGE = "Which step of the training chain makes the music."
SCORE = "How well liked the clip should be. 0 asks for nothing special, higher for more."
NO_SCORE = "This stage was trained without the score, so there is nothing to set here."
GUIDANCE = "How closely to follow the words. 1 switches it off; high values sound harsh."
STEPS = "More steps are slower and a little cleaner."
NEGATIVE = "What the music should move away from."
SOLVER = "How each step is computed. Heun takes twice the time per step."
SOLVER_NAMES = {"euler": "Euler", "heun": "Heun"}
SCHEDULE = "How strongly guidance pulls as the clip takes shape."
SCHEDULE_NAMES = {"constant": "Constant", "anneal": "Fading out", "interval": "Middle only"}
TURNED_AWAY = "Too many people are waiting; please try again in a minute."
NO_SCORING = "Clips cannot be scored here"
UPLOADS = (
    f"Audio or video files of up to {MAX_BYTES >> 20} MB. They are deleted as soon as they are "
    "scored, and after six hours if they never are. They are used for nothing else."
)
TEXT = "What the music was asked to be; leave it empty if there was no such text."
NO_SCORES = (
    '<div class="empty"><h3>Your scores will appear here</h3><p>Drop files and press Score. Each '
    "gets a reward with its range and its place among known collections; two or more are held "
    "against each other, and long ones are followed through time.</p></div>"
)
REWARD_SCALE = (
    "Typical rewards lie between −2 and 2. A reward is no percentage and has no absolute meaning: "
    "only differences between clips say which one listeners would rather hear."
)
PASTE = "From “Copy settings”, or the contents of a downloaded settings file."

BAR_HEIGHTS = (4, 8, 14, 9, 20, 28, 16, 24, 12, 18, 26, 30, 20, 11, 17, 8, 13, 6, 9, 4)
EMPTY_STATE = (
    '<div class="empty"><svg viewBox="0 0 120 32" aria-hidden="true">'
    + "".join(
        f'<rect x="{6 * i + 1}" y="{16 - h / 2:g}" width="3.2" height="{h}" rx="1.6"/>'
        for i, h in enumerate(BAR_HEIGHTS)
    )
    + "</svg><h3>Your clips will appear here</h3><p>Describe some music, or pick an example. "
    "Each clip comes with its player, its pictures, its measurements and files to keep.</p></div>"
)
LOOKING_FOR_STUDIES = '<p class="soft">Looking for open studies …</p>'
HOW_TO_OPEN_A_STUDY = (
    '<div class="empty"><h3>No study is open</h3><p>A listening study asks people, blindly, which '
    "of two clips they prefer. Open one with</p><p><code>python -m ttmpref study open quick-ab.yaml"
    "</code></p><p>The README’s “Run a listening study” shows how to get there from two folders of "
    "clips.</p></div>"
)


def stage_info(stage: StageInfo) -> str:
    """Help under the choice of the stage."""
    return f"{STAGE} {stage.notes}".strip()


def unavailable_stages(stages: tuple[StageInfo, ...]) -> str:
    """The stages that cannot be chosen, each with the reason."""
    missing = [stage for stage in stages if not stage.available]
    opened = " open" if len(missing) == len(stages) else ""
    items = "".join(
        f"<li><b>{escape(stage.title)}</b>: {escape(without_folders(stage.missing or ''))}</li>"
        for stage in missing
    )
    count = "1 stage is" if len(missing) == 1 else f"{len(missing)} stages are"
    summary = f"<summary>{count} not available</summary>"
    return f'<details class="missing"{opened}>{summary}<ul>{items}</ul></details>'


def idle(label: str, boxed: bool) -> str:
    """Before the first run, which a button of this label starts, and a box where there is one."""
    return _state(f"Press {label}, or Enter in the box." if boxed else "")


def waiting() -> str:
    """Between pressing Generate and the first step."""
    return _running("Waiting …", None)


def progress(tick: Progress, finished: int, variations: int) -> str:
    """One tick of the sampler."""
    head = tick.activity[:1].upper() + tick.activity[1:]
    counter = f"step {tick.step} of {tick.num_steps}"
    if variations > 1 and finished:
        counter = f"{finished} of {variations} clips done"
    return _running(head, tick.step / max(1, tick.num_steps), counter)


def done(clips: int) -> str:
    noun = "Clip" if clips == 1 else f"{clips} clips"
    return _state(f"{noun} ready.", "full")


def scoring(done: int, total: int) -> str:
    """Files of a run that are done, failed ones among them."""
    if done == 0:
        return _running("Loading the weights", None)
    return _running("Scoring", done / total, f"{done} of {total} files")


def scored(good: int, bad: int) -> str:
    noun = "File" if good == 1 else f"{good} files"
    failures = f" {bad} could not be scored; see why below." if bad else ""
    return _state(((f"{noun} scored." if good else "") + failures).strip(), "full" if good else "")


def stopped_scoring(done: int) -> str:
    shown = "Scores that were finished are shown. " if done else ""
    return _state(f"Stopped. {shown}The uploads are deleted.")


def stopping_script(elem_id: str) -> str:
    """JavaScript that says at once, in the state of a run, that it is being stopped.

    Said by the page itself: an answer to the click could arrive after the run's own last words.
    """
    return (
        f"() => {{ const line = document.querySelector('#{elem_id} [role=status]');"
        " if (line) line.textContent = 'Stopping …'; }"
    )


RESULTS_TOKEN = "For operators: also shows studies that still run, under codes."
NO_RESULTS = (
    '<div class="empty"><h3>No results yet</h3><p>Results are shown here when a listening study '
    "has closed, if its definition lets people learn which system was which.</p></div>"
)
NO_VOTES = "there are no votes to analyse yet."
NO_REWARDS = (
    "This study knows no rewards of its clips (its definition has no <code>ranker</code>), so the "
    "ranker cannot be held against its listeners."
)
BLIND_RESULTS = "It still runs, so its systems stand under codes."


def stopped_choosing() -> str:
    return _state("Stopped before the clips were compared; none is kept.")


def stopped() -> str:
    return _state("Stopped. Clips that were finished are kept.")


def failed(message: str) -> str:
    return f'<p class="state bad" role="alert">{escape(message)}</p>'


def _state(text: str, bar: str = "") -> str:
    """A line of text over a bar at rest, so that nothing jumps when a run starts."""
    return (
        f'<div class="state"><p class="line" role="status">{escape(text)}</p>'
        f'<div class="bar {bar}" aria-hidden="true"><i></i></div></div>'
    )


def _running(head: str, fraction: float | None, counter: str = "") -> str:
    """A progress bar; without a fraction it only shows that something happens."""
    known = "" if fraction is None else f' aria-valuenow="{round(100 * fraction)}"'
    width = "" if fraction is None else f' style="width:{100 * fraction:.1f}%"'
    moving = " moving" if fraction is None else ""
    return (
        f'<div class="state"><p class="line"><span role="status">{escape(head)}</span>'
        f'<span class="counter">{counter}</span></p><div class="bar{moving}" role="progressbar" '
        f'aria-label="Progress of the run" aria-valuemin="0" aria-valuemax="100"{known}>'
        f"<i{width}></i></div></div>"
    )
