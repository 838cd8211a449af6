"""The web app: `build_app(studio)` lays it out, `launch` serves it; one file per tab.

Nothing here imports torch. Handlers translate between the page and the Studio's verbs and compute
nothing themselves.
"""

from __future__ import annotations

import os
import threading
from html import escape
from pathlib import Path

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is first used

import gradio as gr  # noqa: E402
from starlette.middleware import Middleware  # noqa: E402

from ttmpref.studio import Studio  # noqa: E402
from ttmpref.study.app import LateApi, routes  # noqa: E402
from ttmpref.study.push import start_push  # noqa: E402
from ttmpref.study.settings import PushSettings  # noqa: E402
from ttmpref.ui.about import build_about_tab  # noqa: E402
from ttmpref.ui.clips import MAX_AGE_SECONDS, ClipFolder, keep_uploads_apart  # noqa: E402
from ttmpref.ui.endpoints import build_endpoints  # noqa: E402
from ttmpref.ui.generate import build_generate_tab  # noqa: E402
from ttmpref.ui.lent_gpu import with_lent_gpu  # noqa: E402
from ttmpref.ui.listen import build_listen_tab  # noqa: E402
from ttmpref.ui.login import logins, message, refuse_switches  # noqa: E402
from ttmpref.ui.plots import colour_filters  # noqa: E402
from ttmpref.ui.process import share_the_machine  # noqa: E402
from ttmpref.ui.results import build_results_tab  # noqa: E402
from ttmpref.ui.score import build_score_tab  # noqa: E402
from ttmpref.ui.shield import Shield  # noqa: E402
from ttmpref.ui.stages import build_stages_tab  # noqa: E402
from ttmpref.ui.theme import build_theme  # noqa: E402
from ttmpref.uploads import MAX_BYTES  # noqa: E402

STATIC = Path(__file__).parent / "static"
ICON = STATIC / "icon.svg"
SCRIPTS = ("player.js", "groups.js")  # of the whole page
LONGEST_QUEUE = 32
# Gradio keeps what a page shows, a fifth of a megabyte and more, for every visit there ever was, up
# to ten thousand. Here the longest unused is forgotten sooner, and its page begins anew.
VISITS_KEPT = 200
WARM_UP_DELAY_SECONDS = 3.0  # importing torch beside the first page would hold that page up


def build_app(studio: Studio, studies: LateApi) -> gr.Blocks:
    """The page, not yet served."""
    folder = ClipFolder()
    # Gradio serves what lies in its folder for temporary files, and nothing beside it.
    os.environ["GRADIO_TEMP_DIR"] = str(folder.path)
    keep_uploads_apart()
    sweeping = (3600, int(MAX_AGE_SECONDS))  # how often, and what counts as old
    with gr.Blocks(
        title="ttmpref · text to music", analytics_enabled=False, delete_cache=sweeping
    ) as app:
        gr.HTML(_header(studio), elem_id="masthead", js_on_load=None)
        with gr.Tabs(elem_id="tabs", overflow_behavior="wrap"):
            with gr.Tab("Generate", id="generate"):
                build_generate_tab(studio, folder)
            with gr.Tab("Stages", id="stages"):
                build_stages_tab(studio, folder)
            with gr.Tab("Score", id="score"):
                build_score_tab(studio, folder)
            with gr.Tab("Listen", id="listen") as tab:
                build_listen_tab(tab, studies)
            with gr.Tab("Results", id="results") as tab:
                build_results_tab(tab, studies)
            with gr.Tab("About", id="about"):
                build_about_tab(studio)
        build_endpoints(studio, folder)
    return app.queue(max_size=LONGEST_QUEUE, default_concurrency_limit=1)


def launch(studio: Studio, host: str | None, port: int | None, share: bool) -> None:
    """Serve the app until interrupted; the model loads meanwhile in the background.

    Listening studies, their page and their API, stand in front of Gradio's own routes: votes never
    wait in its queue.

    Raises:
        ConfigError: the environment says something impossible of logins or of where votes go, or
            opens the app to anybody.
    """
    share_the_machine()
    refuse_switches()
    auth, push = logins(), PushSettings.from_environment()
    # Forwarding headers are left to TTMPREF_TRUSTED_PROXIES, as in `study.app.serve`.
    os.environ["FORWARDED_ALLOW_IPS"] = ""
    studies = LateApi()
    app = build_app(with_lent_gpu(studio), studies)
    shield = Middleware(
        Shield, folder=Path(os.environ["GRADIO_TEMP_DIR"]), space_id=os.environ.get("SPACE_ID")
    )
    scripts = "".join(
        f"<script>{(STATIC / name).read_text(encoding='utf-8')}</script>" for name in SCRIPTS
    )
    app.launch(
        server_name=host,
        server_port=port,
        share=share,
        theme=build_theme(),
        css_paths=STATIC / "app.css",
        # Browsers look for an icon at the top of the host unless the page says where it is.
        head=f'<link rel="icon" href="favicon.ico">{scripts}',
        favicon_path=ICON,
        run_history=False,
        max_file_size=MAX_BYTES,
        enable_monitoring=False,
        state_session_capacity=VISITS_KEPT,
        footer_links=["settings"],
        show_error=False,  # but for those that `errors.translated` raises
        auth=auth,
        auth_message=message(),
        mcp_server=auth is None,  # Gradio lets anybody use the tools, whoever may log in
        app_kwargs={"routes": routes(studies), "middleware": [shield]},
        ssr_mode=False,  # Node would stand in front of these routes
        _frontend=False,  # or a busy machine, slow to answer Gradio's own first look, ends the app
        prevent_thread_lock=True,
    )
    start_push(push, studies.store)
    warm_up = threading.Timer(WARM_UP_DELAY_SECONDS, studio.warm_up)
    warm_up.daemon = True
    warm_up.start()
    app.block_thread()


def _header(studio: Studio) -> str:
    preset = studio.preset
    return (
        f"{colour_filters()}"
        f'<header class="masthead">{ICON.read_text(encoding="utf-8")}'
        "<div><h1>ttmpref</h1><p>Text to music, shaped by what listeners prefer</p></div>"
        f'<span class="pill" title="{escape(preset.description)}">{escape(preset.title)} preset'
        "</span></header>"
    )
