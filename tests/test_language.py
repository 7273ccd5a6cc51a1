"""What the operator reads is Chinese, and English where that is asked for; what a catalogue lacks is told here."""

from __future__ import annotations

import ast
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from qqvl_client import cli as client
from qqvl_client import language as theirs
from qqvl_server import cli, language
from qqvl_server.errors import Busy
from tests.running import ROOT, run_cli

SERVER, CLIENT = ROOT / "server" / "qqvl_server", ROOT / "client" / "qqvl_client"
CATALOGUE = Path("locale", "en", "LC_MESSAGES", "qqvl.po")
_HAN = re.compile(r"[\u4e00-\u9fff]")
_PLACE = re.compile(r"\{(\w*)\}")
# Whose every text is for the operator; of the others errors, lines of the log, settings and arguments are.
_WHOLE = (
    "cli.py", "app.py", "welcome.py", "setting_up.py", "flags.py", "process.py", "mistakes.py", "doctor/", "weights/",
    "keeping/command.py", "own_flags.py", "chat/causes.py",
)  # fmt: skip
_CALLS = {"debug", "info", "warning", "error", "exception", "Field", "add_argument", "add_argument_group", "ValueError"}
# Said in QQ, or written into a file: Chinese whoever reads the log.
_NOT_THE_OPERATORS = re.compile(r"这个我不聊|# 由 setup|\"user_nickname\"|qqvl 体检：机器人发给|^[，、；（）：。]+$")


@pytest.mark.parametrize(
    ("environment", "english"),
    [
        ({}, False),
        ({"LANG": "C"}, False),
        ({"LANG": "C.UTF-8"}, False),
        ({"LANG": "zh_CN.UTF-8"}, False),
        ({"LANG": "en_US.UTF-8"}, True),
        ({"LC_MESSAGES": "en_GB"}, True),
        ({"LC_ALL": "en"}, True),
        ({"LC_ALL": "C.UTF-8", "LANG": "en_US.UTF-8"}, False),
        ({"LC_ALL": "", "LC_MESSAGES": "zh_CN", "LANG": "en_US"}, False),
    ],
)
def test_the_environment_asks_for_english_only_where_it_says_so(environment: dict[str, str], english: bool) -> None:
    assert language.is_english(environment) is english
    with language.spoken([], environment):
        assert (Busy("现在太忙了，请稍后再试").message == "Too busy now, please try again later") is english


def english_of(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    for name in names:
        monkeypatch.setenv(name, "en_US.UTF-8")


@pytest.mark.parametrize("words", [("--help",), ("serve", "--help"), ("doctor", "--help"), ("trace", "--help")])
def test_help_is_english_to_its_last_word(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "2000")
    assert cli.main(["--lang", "en", *words]) == 0
    said = capsys.readouterr().out
    # What the bot is told and says by default stays as it is.
    said = re.sub(r"\(default [^()]*\)|\[图片\]", "", said)
    assert _HAN.search(said) is None, said
    assert "usage: " in said
    assert cli.main([*words]) == 0
    assert "用法：" in capsys.readouterr().out


def test_mistakes_are_english_with_what_fills_them(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    english_of(monkeypatch, "LC_ALL")
    assert cli.main(["--prot", "1"]) == 2
    assert capsys.readouterr().err == "Error: Unknown argument: --prot 1, did you mean --port?\n"
    assert cli.main(["show-config", "--port", "x"]) == 2
    assert capsys.readouterr().err == "Error: --port: the value 'x' will not do: port must be a whole number\n"
    assert cli.main(["show-config", "--lang", "zh", "--port", "x"]) == 2
    assert "的值 'x' 不行" in capsys.readouterr().err
    assert cli.main(["show-config", "--lang", "fr"]) == 2
    assert "--lang must be one of zh, en" in capsys.readouterr().err


def test_the_clients_help_and_mistakes_are_english(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        client.main(["--lang=en", "--help"])
    assert _HAN.search(capsys.readouterr().out) is None
    assert client.main(["--lang", "en", "--servr-url", "x"]) == 2
    assert capsys.readouterr().err == "Unknown argument: --servr-url x, did you mean --server-url?\n"
    assert client.main(["--servr-url", "x"]) == 2
    assert "是不是想写" in capsys.readouterr().err


def test_a_program_of_ours_that_is_started_speaks_the_same() -> None:
    english = {"LANG": "en_US.UTF-8", "LC_ALL": "", "QQVL_CLIENT_NAPCAT_WS_URL": "ws://127.0.0.1:1"}
    done = run_cli("doctor", "--json", "--no-send", "--data-dir", "/nonexistent/qqvl", env=english)
    assert done.returncode == 1
    assert "NapCat is not running" in done.stdout
    assert _HAN.search(done.stdout) is None, done.stdout


def test_the_scripts_speak_english_too() -> None:
    def said(*flags: str, **env: str) -> str:
        clean = {"PATH": os.environ["PATH"], "QQVL_TORCH": "nonsense", **env}
        done = subprocess.run(
            [str(ROOT / "run_server.sh"), *flags], env=clean, capture_output=True, encoding="utf-8", check=False
        )
        assert done.returncode == 2
        return done.stderr

    assert "QQVL_TORCH=nonsense 不行" in said()
    assert "QQVL_TORCH=nonsense 不行" in said("--lang", "zh", LANG="en_US.UTF-8")
    for english in (said(LANG="en_US.UTF-8"), said("--lang", "en"), said("--lang=en", LC_ALL="C.UTF-8")):
        assert "QQVL_TORCH=nonsense will not do" in english


def test_both_programs_look_texts_up_alike() -> None:
    assert Path(language.__file__).read_bytes() == Path(theirs.__file__).read_bytes()


@pytest.mark.parametrize("folder", [SERVER, CLIENT], ids=["server", "client"])
def test_a_catalogue_fills_in_what_the_text_does(folder: Path) -> None:
    for chinese, english in language.read(folder / CATALOGUE).items():
        assert set(_PLACE.findall(chinese)) == set(_PLACE.findall(english)), chinese
        # Lines of the client's log are filled in by %, in order.
        assert re.findall(r"%[.\d]*[sdrf]", chinese) == re.findall(r"%[.\d]*[sdrf]", english), chinese
        assert _HAN.search(english.replace("[图片]", "")) is None, english


def _numbered(text: str) -> str:
    """With its places numbered, as a catalogue has it; those that ``format`` fills in later are places, too."""
    places = iter(range(10))
    return _PLACE.sub(lambda _: f"{{{next(places)}}}", text)


def _template(node: ast.expr) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return _numbered(node.value)
    if not isinstance(node, ast.JoinedStr):
        return ""
    return _numbered("".join(str(v.value) if isinstance(v, ast.Constant) else "{}" for v in node.values))


def _texts(tree: ast.AST, documents: set[int]) -> Iterator[str]:
    found: list[ast.AST] = [tree]
    while found:
        node = found.pop()
        if isinstance(node, ast.Constant | ast.JoinedStr):
            if id(node) not in documents and _HAN.search(text := _template(node)):
                yield text
            fillings = node.values if isinstance(node, ast.JoinedStr) else []
            found += [each.value for each in fillings if isinstance(each, ast.FormattedValue)]
        else:
            found += ast.iter_child_nodes(node)


def _shown(folder: Path) -> Iterator[str]:
    """Every Chinese text of a program that its operator may read."""
    errors = set(re.findall(r"^class (\w+)\(", (folder / "errors.py").read_text("utf-8"), re.MULTILINE))
    # Of the client's these are told to the model, as a note in a picture's place.
    errors -= {"PictureError", "PictureTooLargeError"}
    calls = errors | _CALLS - ({"Field"} if folder == CLIENT else set())
    for path in sorted(folder.rglob("*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        is_whole = path.relative_to(folder).as_posix().startswith(_WHOLE)
        documents = {
            id(node.value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        }
        if is_whole:
            yield from _texts(tree, documents)
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                name = getattr(node.func, "id", getattr(node.func, "attr", ""))
                yield from _texts(node, documents) if name in calls else ()


@pytest.mark.parametrize("folder", [SERVER, CLIENT], ids=["server", "client"])
def test_the_catalogue_has_english_for_what_is_shown(folder: Path) -> None:
    """A few new texts may wait for theirs, and are Chinese meanwhile; more than one in ten may not."""
    known = language.read(folder / CATALOGUE)
    shown = {text for text in _shown(folder) if not _NOT_THE_OPERATORS.search(text)}
    assert len(shown) > 200
    missing = sorted(shown - known.keys())
    assert len(missing) <= len(shown) // 10, "\n".join(missing)
