"""``qqvl try``: a script against a server, its own with a data folder for once where none is named."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import httpx

from qqvl_server import signin
from qqvl_server.errors import ConfigError, QqvlError
from qqvl_server.trying.kept import kept
from qqvl_server.trying.play import Play, shown
from qqvl_server.trying.script import read

# A large model takes minutes to load.
_START_S: Final = 900


def run(path: Path, url: str | None, key: str | None, data_dir: Path, rest: Sequence[str]) -> int:
    """Exit status: 0 all is as expected, 1 something is not.

    Args:
        data_dir: of the server at ``url``, whose owner's token is used where it is on this machine and no key is given.
        rest: flags for the server that is started where there is no ``url``.

    Raises:
        ConfigError: the script is wrong, or flags for a server that is not started here.
        QqvlError: the server cannot be reached, or refuses.
    """
    script = read(path)
    if url is not None:
        if rest:
            raise ConfigError(f"{rest[0]} 是给自己起的服务器的，不能和 --url 一起用")
        return _report(Play(script, url.rstrip("/"), _headers(url, key, data_dir)))
    with _own_server(rest) as (own, headers):
        return _report(Play(script, own, headers))


def run_saved(names: Sequence[str], url: str | None, key: str | None, data_dir: Path) -> int:
    """Scripts that are kept on a running server, played there; ``all`` are all of them. Exit status as ``run``.

    Raises:
        ConfigError: there is none of that name.
        QqvlError: no server runs on ``data_dir``, where no ``url`` is given; it cannot be reached, or refuses.
    """
    if url is None:
        found = signin.running(data_dir)
        if found is None:
            raise QqvlError(f"没有服务器在用数据目录 {data_dir}：先启动它，或用 --url、--data-dir 指明")
        url = found.url
    url, status = url.rstrip("/"), 0
    headers = _headers(url, key, data_dir)
    for name, script in kept(url, headers, names):
        print(f"— {name}", flush=True)
        status = max(status, _report(Play(script, url, headers)))
    return status


def _report(play: Play) -> int:
    wrong = count = 0
    with play:
        for played in play.run():
            print(shown(played), flush=True)
            count += played.line.recall is None
            wrong += bool(played.wrong)
    print(f"{count} 句里 {wrong} 句和预期不同" if wrong else f"{count} 句都和预期一样")
    return 1 if wrong else 0


def _headers(url: str, key: str | None, data_dir: Path) -> Mapping[str, str]:
    if key is None:
        found = signin.running(data_dir)
        key = found.sign_in.secret if found is not None and found.url == url.rstrip("/") else None
    return {"Authorization": f"Bearer {key}"} if key else {}


@contextlib.contextmanager
def _own_server(flags: Sequence[str]) -> Iterator[tuple[str, Mapping[str, str]]]:
    """Its address and the headers that open it. It ends, and its data folder goes, with this."""
    with tempfile.TemporaryDirectory(prefix="qqvl-try-") as folder:
        data = Path(folder) / "data"
        command = [sys.executable, "-m", "qqvl_server", "serve", *flags, "--port", "0", "--data-dir", str(data)]
        # The script decides what is said, not the shell that the server would have been started from.
        env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [_sources(), os.environ.get("PYTHONPATH")]))}
        with (Path(folder) / "log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, env=env)
        try:
            found = _started(process, data, Path(folder) / "log")
            yield found.url, {"Authorization": f"Bearer {found.sign_in.secret}"}
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _sources() -> str:
    return str(Path(__file__).resolve().parents[2])


def _started(process: subprocess.Popen[bytes], data: Path, log: Path) -> signin.Running:
    until = time.monotonic() + _START_S
    while time.monotonic() < until and process.poll() is None:
        found = signin.running(data)
        if found is not None:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{found.url}/health", trust_env=False, timeout=5).status_code == 200:
                    return found
        time.sleep(0.2)
    told = [line for line in log.read_text("utf-8", "replace").splitlines() if line.startswith("错误：")]
    raise QqvlError(told[-1].removeprefix("错误：") if told else "为脚本起的服务器没有起来，请先单独启动一次看看")
