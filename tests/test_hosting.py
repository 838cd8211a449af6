"""Two app processes behind nginx below a path, on one PostgreSQL, set up as the README says.

Needs Debian's nginx-light, postgresql and chromium.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.postgres_server import create_database
from tests import browser as driver
from tests.browser import PATIENCE_SECONDS, ROOT, RunningApp, fetch, free_port, wait_for_answer
from tests.parts import lacking
from tests.studies import settings_for, write_study
from ttmpref.study.records import build_folder
from ttmpref.study.settings import ADMIN_TOKEN
from ttmpref.study.stimuli import build_study
from ttmpref.study.store import Store

SLUG, BELOW = "hosted", "/music"
TOKEN, SECRET = "an admin token of tests", "a secret of tests"
NETWORKS = range(1, 30)  # of visitors, in the third number of their addresses
# What a distribution puts around the README's part; all files lie in the folder of the test.
NGINX = """\
daemon off;
pid nginx.pid;
events {}
http {
  log_format replica '$upstream_addr $status $request_uri';
  access_log access.log replica;
  client_body_temp_path body;
  proxy_temp_path proxy;
  fastcgi_temp_path fastcgi;
  uwsgi_temp_path uwsgi;
  scgi_temp_path scgi;
"""


@dataclass
class Hosted:
    """The app as its visitors meet it, and what stands behind.

    Attributes:
        url: of the page, through nginx.
        replicas: the processes themselves.
        log: of nginx: for each request the process that answered it, and the path.
    """

    url: str
    replicas: list[RunningApp]
    log: Path


def readme_block(language: str) -> str:
    """The contents of the README's only code block in a language."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return block


def nginx_configuration(ports: dict[str, int]) -> str:
    """The README's, on other ports."""
    text = readme_block("nginx")
    for documented, port in ports.items():
        assert re.search(rf"\b{documented}\b", text)
        text = re.sub(rf"\b{documented}\b", str(port), text)
    user = "user root;\n" if os.geteuid() == 0 else ""  # who owns the test's folder
    return f"{user}{NGINX}{text}}}\n"


@pytest.fixture(scope="module")
def hosted(
    tiny_preset: Path, postgres: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Hosted]:
    program = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin")
    if program is None:
        lacking("tests of hosting need Debian's nginx-light")
    folder = tmp_path_factory.mktemp("hosted")
    environment = {
        "DATABASE_URL": create_database(postgres),
        "TTMPREF_DATA_DIR": str(folder / "data"),
        "TTMPREF_SECRET": SECRET,
        ADMIN_TOKEN: TOKEN,
        "GRADIO_ROOT_PATH": BELOW,
        "TTMPREF_TRUSTED_PROXIES": "1",
    }
    open_study(folder, environment["DATABASE_URL"])
    with ExitStack() as stack:
        replicas = [
            stack.enter_context(driver.running_app(tiny_preset, folder / name, **environment))
            for name in ("first", "second")
        ]
        first, second = (int(one.url.rpartition(":")[2]) for one in replicas)
        port = free_port()
        configuration = folder / "nginx.conf"
        ports = {"7860": first, "7861": second, "8080": port}
        configuration.write_text(nginx_configuration(ports))
        url = f"http://127.0.0.1:{port}{BELOW}/"
        stack.enter_context(running_nginx(program, configuration, url))
        yield Hosted(url, replicas, folder / "access.log")


def open_study(folder: Path, database: str) -> None:
    """A study of one trial."""
    session = {"trials": 1, "attention": 0, "repeats": 0, "practice": 0}
    study = write_study(folder / "study", slug=SLUG, session=session)
    build_study(study, build_folder(folder / "data", study.definition))
    store = Store(settings_for(folder / "data", database, TTMPREF_SECRET=SECRET))
    store.studies.open(study, "tester", waive="synthetic tones")
    store.close()


@contextmanager
def running_nginx(program: str, configuration: Path, url: str) -> Iterator[None]:
    """nginx in the folder of its configuration, answering at `url`."""
    log = configuration.with_suffix(".log")
    command = [program, "-p", configuration.parent, "-c", configuration, "-e", "error.log"]
    with open(log, "wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        wait_for_answer(url, process, log)
        yield
    finally:
        process.terminate()
        process.wait(timeout=PATIENCE_SECONDS)


def votes(replica: RunningApp) -> int:
    """Answers of the study, as one process tells its operator."""
    address = f"{replica.url}/api/v1/admin/studies/{SLUG}"
    answer = httpx.get(
        address, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=PATIENCE_SECONDS
    )
    return answer.json()["votes"]


def test_a_page_below_the_path_makes_a_clip_and_fetches_it(chromium: Any, hosted: Hosted) -> None:
    with driver.visit(chromium, hosted.url) as visitor:
        page = visitor.page
        page.fill("#prompt textarea", "calm piano")
        page.click("#generate")
        page.locator("article.clip").wait_for()
        address = page.locator("article.clip audio").evaluate("(audio) => audio.src")
        assert address.startswith(f"{hosted.url}gradio_api/file=")
        assert fetch(address).startswith(b"RIFF")
        page.get_by_role("button", name="Play").click()
        page.wait_for_function("document.querySelector('article.clip audio').currentTime > 0.1")
        visitor.picture("hosted")


def test_a_vote_cast_through_the_page_is_seen_by_both_processes(
    chromium: Any, hosted: Hosted
) -> None:
    assert [votes(replica) for replica in hosted.replicas] == [0, 0]
    with driver.visit(chromium, hosted.url) as visitor:
        page = visitor.page
        page.get_by_role("tab", name="Listen").click()
        study = page.frame_locator("iframe")
        study.get_by_role("checkbox").check()
        study.get_by_role("button", name="Continue").click()
        study.get_by_label("Headphones", exact=True).check()
        study.get_by_role("button", name="Begin").click()
        study.get_by_role("button", name="Play the noise").click()
        study.get_by_role("button", name="The volume is comfortable").click()
        for side in ("A", "B"):
            study.get_by_role("button", name=f"Clip {side}").click()
            study.locator(f"button.heard[aria-label='Clip {side}']").wait_for()
        study.get_by_label("A is better").check()
        study.get_by_label("Certain").check()
        study.get_by_role("button", name="Save and go on").click()
        study.get_by_role("heading", name="Thank you").wait_for()
    assert [votes(replica) for replica in hosted.replicas] == [1, 1]


def test_a_visitor_stays_with_one_process_and_visitors_share_them(hosted: Hosted) -> None:
    """Linux lets a client choose any address of the loopback network as its own."""
    before = len(hosted.log.read_text().splitlines())
    for network in NETWORKS:
        transport = httpx.HTTPTransport(local_address=f"127.0.{network}.1")
        with httpx.Client(transport=transport, timeout=PATIENCE_SECONDS) as client:
            for _ in range(2):
                assert client.get(f"{hosted.url}config").status_code == 200
    upstreams = [line.split()[0] for line in hosted.log.read_text().splitlines()[before:]]
    assert upstreams[::2] == upstreams[1::2]
    assert len(set(upstreams)) == len(hosted.replicas)
