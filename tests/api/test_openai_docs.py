"""docs/openai.md and the READMEs are true: their code blocks are run as printed against a server on the demo model.

So are the contract's, with its models' names changed.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from qqvl_server.api.faults import STATUS
from tests import environment
from tests.api import snippets
from tests.api.snippets import Snippet
from tests.pictures import encoded, picture
from tests.running import ROOT, RunningServer

PAGE, ENGLISH = ROOT / "docs" / "openai.md", ROOT / "docs" / "openai.en.md"
READMES = (ROOT / "README.md", ROOT / "README.en.md")
SPEC = ROOT.parent / "shared" / "spec"
CONTRACT = ("openai-clients.md", "openai-full-api.md", "qwen3-32b-service.md")
FLAT = SPEC / "qwen3-vl-8b-chat-system.md"
RUN = ("bash", "python", "javascript", "typescript", "go")
MODEL = "Qwen3-VL-8B-Instruct"
MODELS = (MODEL, f"Qwen/{MODEL}", f"{MODEL}-4bit-GPTQ", "Qwen3-32B", "qwen2.5-coder-32b-instruct")
SERVED = "qqvl-demo"
# What blocks print that catch their errors themselves, and curl, to which an error is an answer like any other.
FAILED = re.compile(r'^\s*(\{"error"|data: \{"error"|Error|错误|请求超时|连接错误|多次重试)|^AI: None', re.MULTILINE)
AT_ONCE = 3

# The first to ask waits for whatever runs before; Go compiles its library.
pytestmark = pytest.mark.timeout(300)

Outcome = subprocess.CompletedProcess[str]


def blocks(page: Path) -> list[Snippet]:
    return [snippet for snippet in snippets.snippets(page) if snippet.language in RUN]


def readme_blocks() -> list[Snippet]:
    """What asks the server; the others install, download and start it."""
    return [one for page in READMES for one in blocks(page) if one.language == "python" or "curl " in one.code]


def plain(snippet: Snippet) -> str:
    """The code whatever the address, the model's name and the remarks on keys are."""
    code = snippets.pointed_at(snippet.code, "BASE", MODELS, SERVED)
    return "\n".join(re.sub(r" *(#|//) [^\n]*API key[^\n]*", "", line).rstrip() for line in code.strip().splitlines())


def contract_blocks() -> list[Snippet]:
    """What the contract asks of a client and the page does not show word for word."""
    shown = {plain(snippet) for snippet in blocks(PAGE)}
    found = [snippet for name in CONTRACT if (SPEC / name).exists() for snippet in blocks(SPEC / name)]
    if FLAT.exists():
        # This one lost its line ends: what is left of curl's can be told.
        text = FLAT.read_text("utf-8")
        found += [
            Snippet(FLAT, match.start(), "bash", match[0].replace(" \\ ", " \\\n  "))
            for match in re.finditer(r"curl http://\S+(?: \\ -[Hd] (?:\"[^\"]*\"|'[^']*'))+", text)
        ]
    return [snippet for snippet in found if _asks(snippet) and plain(snippet) not in shown]


def _asks(snippet: Snippet) -> bool:
    """Not a command for docker, another server or a method's bare name, and nothing to be filled in first."""
    return bool(re.search(r"https?://", snippet.code)) and not re.search(r"vllm serve|^\s*\.\.\.$", snippet.code, re.M)


Start = Callable[[Snippet], Outcome]


@pytest.fixture(scope="module")
def outcome_of(bare: RunningServer, gallery: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Runs every block of both kinds, a few at a time, from the first question on."""
    folder = tmp_path_factory.mktemp("blocks")
    red = encoded(picture())

    def start(snippet: Snippet) -> Outcome:
        # Of our own pages nothing is changed but where the server is and what lies outside this machine.
        others = MODELS if snippet.page.is_relative_to(SPEC) else ()
        code = snippets.pointed_at(snippet.code, bare.base, others, SERVED)
        for url in ("https://example.com/cat.jpg", "https://www.python.org/static/img/python-logo.png"):
            code = code.replace(url, f"{gallery}/red.png")
        code = code.replace("duration=60", "duration=2")
        place = folder / re.sub(r"\W", "_", snippet.name)
        place.mkdir()
        (place / "photo.png").write_bytes(red)
        return snippets.run(snippet, code, place)

    futures: dict[Snippet, Future[Outcome]] = {}
    with ThreadPoolExecutor(AT_ONCE) as pool:

        def ask(snippet: Snippet) -> Outcome:
            if snippet not in futures:
                every = contract_blocks() if snippet.page.is_relative_to(SPEC) else [*blocks(PAGE), *readme_blocks()]
                runnable = [one for one in every if snippets.missing_for(one) is None]
                futures.update({one: pool.submit(start, one) for one in runnable})
            return futures[snippet].result()

        yield ask
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("snippet", [*blocks(PAGE), *readme_blocks()], ids=lambda snippet: snippet.name)
def test_a_block_of_the_page_works(outcome_of: Start, snippet: Snippet) -> None:
    said = _works(outcome_of, snippet)
    assert said.strip()


@pytest.mark.parametrize("page", READMES, ids=lambda page: page.name)
def test_a_readme_shows_both_pictures_and_the_sdk(page: Path, bare: RunningServer) -> None:
    assert {snippet.language for snippet in readme_blocks() if snippet.page == page} == {"bash", "python"}
    for snippet in snippets.snippets(page):
        if snippet.language == "json":
            answer = bare.post("group", json.loads(snippet.code))
            assert answer.status_code == 200
            assert not answer.json().get("warnings")


@pytest.mark.parametrize("snippet", contract_blocks(), ids=lambda snippet: snippet.name)
def test_a_block_of_the_contract_works(outcome_of: Start, snippet: Snippet) -> None:
    _works(outcome_of, snippet)


def _works(outcome_of: Start, snippet: Snippet) -> str:
    missing = snippets.missing_for(snippet)
    if missing:
        pytest.skip(missing)
    done = outcome_of(snippet)
    assert done.returncode == 0, done.stderr[-2000:]
    assert not FAILED.search(done.stdout), done.stdout[:2000]
    return done.stdout


def test_the_contract_is_at_hand() -> None:
    environment.must_be_at_hand(SPEC.is_dir(), "the contract's documents are not beside this checkout")
    shown = {plain(snippet) for snippet in blocks(PAGE)}
    of_clients = [snippet for name in CONTRACT for snippet in blocks(SPEC / name) if _asks(snippet)]
    assert len(of_clients) > 30
    # What the page changes it changes for a reason: to be runnable, to print something, not to run a model's code.
    assert sum(plain(snippet) in shown for snippet in of_clients) > len(of_clients) * 0.7


def test_the_english_page_shows_the_same_blocks() -> None:
    assert [(s.language, s.code) for s in snippets.snippets(ENGLISH)] == [
        (s.language, s.code) for s in snippets.snippets(PAGE)
    ]


@pytest.mark.parametrize("page", [PAGE, ENGLISH], ids=lambda page: page.name)
def test_the_page_names_every_endpoint_and_every_error(page: Path, bare: RunningServer) -> None:
    text = page.read_text("utf-8")
    paths = bare.http.get("/openapi.json").json()["paths"]
    for path in paths:
        if not path.startswith(("/api/", "/admin")):
            assert f"{path}`" in text, path
    for named in re.findall(r"`(?:GET|POST) (/[\w/{}]+)`", text):
        assert named in paths, named
    for error in STATUS:
        # Who asks another way, and the page's own doors, are told these.
        assert f"`{error.code}`" in text or error.code in ("method_not_allowed", "conflict"), error.code


@pytest.mark.parametrize("page", [PAGE, ENGLISH], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text("utf-8")
    outside = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.*)$", outside, re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
    for target in re.findall(r"\]\(([^)\s]+)\)", outside):
        if target.startswith("#"):
            assert target[1:] in anchors, target
        elif "://" not in target:
            assert (page.parent / target).exists(), target
