"""Real databases for tests: a PostgreSQL and a Redis of their own, made in a temporary folder by Debian's programs.

They listen on a socket in that folder only, keep nothing safe from a power cut, and are gone at the end. PostgreSQL
knows two people: its superuser, and ``qqvl``, whom a database's limit on connections holds for.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import psutil
import pytest

_FAST = {
    "fsync": "off",
    "full_page_writes": "off",
    "shared_buffers": "16MB",
    "max_connections": "60",
    "listen_addresses": "",
    "autovacuum": "off",
}


def programs() -> Path | None:
    """Where ``initdb`` and ``pg_ctl`` are; Debian keeps them off the PATH, by version."""
    on_path = shutil.which("initdb")
    found = (
        [Path(on_path).resolve().parent] if on_path else sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    )
    return next((folder for folder in found if (folder / "pg_ctl").exists()), None)


class Cluster:
    """``database()`` makes an empty one and gives its address."""

    def __init__(self, folder: Path, programs: Path) -> None:
        self.folder = folder
        self._programs = programs
        self._numbers = itertools.count()

    def run(self, program: str, *arguments: str) -> str:
        """As somebody who is not root: the server refuses root."""
        user = _unprivileged()
        done = subprocess.run(
            [str(self._programs / program), *arguments],
            cwd=self.folder,
            env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "PGHOST": str(self.folder)},
            user=user,
            group=pwd.getpwuid(user).pw_gid if user is not None else None,
            extra_groups=[] if user is not None else None,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def start(self) -> None:
        """Raises AssertionError with what the server's log says."""
        log = self.folder / "log"
        try:
            # Its output goes to a file: the server would keep a pipe open for as long as it lives.
            self.run("pg_ctl", "start", "--wait", "--silent", "-D", str(self.folder / "data"), "-l", str(log))
        except AssertionError as error:
            raise AssertionError(f"{error}\n{log.read_text() if log.exists() else ''}") from error

    def stop(self) -> None:
        """At once, whoever is connected."""
        self.run("pg_ctl", "stop", "--wait", "--silent", "-m", "immediate", "-D", str(self.folder / "data"))

    def sql(self, statement: str, url: str = "/postgres") -> str:
        """As the superuser, in the database of an address."""
        database = urllib.parse.urlsplit(url).path[1:]
        return self.run("psql", "-U", "postgres", "-d", database, "-qAtX", "-c", statement).strip()

    def database(self, like: str = "/template1", most_connections: int = -1) -> str:
        """The address of a new one; with all that is in that of the address ``like``."""
        name = f"t{next(self._numbers)}"
        template = urllib.parse.urlsplit(like).path[1:]
        self.sql(f"CREATE DATABASE {name} OWNER qqvl TEMPLATE {template} CONNECTION LIMIT {most_connections}")
        return f"postgresql://qqvl@/{name}?host={self.folder}"

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """No process of it gets any further: as a machine that hangs, with every connection open."""
        with _stopped(int((self.folder / "data" / "postmaster.pid").read_text().split()[0])):
            yield


class Redis:
    def __init__(self, folder: Path, program: str) -> None:
        self._folder = folder
        self._program = program
        self.url = f"redis+unix://{folder / 'socket'}?db=0"

    def start(self) -> None:
        settings = {"--port": "0", "--unixsocket": str(self._folder / "socket"), "--save": "", "--appendonly": "no"}
        self._process = subprocess.Popen(
            [self._program, *(word for pair in settings.items() for word in pair)],
            cwd=self._folder,
            stdout=subprocess.DEVNULL,
        )
        while not (self._folder / "socket").exists():
            assert self._process.poll() is None
            time.sleep(0.02)

    def stop(self) -> None:
        """Its socket goes with it."""
        self._process.terminate()
        self._process.wait()

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        with _stopped(self._process.pid):
            yield


@contextlib.contextmanager
def _stopped(pid: int) -> Iterator[None]:
    """Neither the process nor its children get any further."""
    first = psutil.Process(pid)
    all_of_it = [first, *first.children(recursive=True)]
    for process in all_of_it:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for process in all_of_it:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGCONT)


@contextlib.contextmanager
def redis() -> Iterator[Redis]:
    """Skips the test where there is no Redis on this machine; fails it under CI, which is to have one."""
    found = shutil.which("redis-server")
    if found is None:
        _missing("redis-server")
    with tempfile.TemporaryDirectory(prefix="qqvl-redis-") as folder:
        made = Redis(Path(folder), found)
        made.start()
        try:
            yield made
        finally:
            made.stop()


def _missing(package: str) -> NoReturn:
    if os.environ.get("CI"):
        raise AssertionError(f"not installed: apt-get install {package}")
    pytest.skip(f"没有装 {package}（apt-get install {package}）")


def _unprivileged() -> int | None:
    """Whom root becomes; None for who is not root anyway."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name).pw_uid
    return 65534


@contextlib.contextmanager
def cluster() -> Iterator[Cluster]:
    """Skips the test where there is no PostgreSQL on this machine; fails it under CI, which is to have one."""
    found = programs()
    if found is None:
        _missing("postgresql")
    # Not below pytest's folder, which nobody but its owner may enter; and short: a socket's path has 107 letters.
    folder = Path(tempfile.mkdtemp(prefix="qqvl-pg-"))
    try:
        user = _unprivileged()
        if user is not None:
            os.chown(folder, user, pwd.getpwuid(user).pw_gid)
        made = Cluster(folder, found)
        made.run(
            "initdb", "--no-sync", "--no-instructions", "-A", "trust", "-U", "postgres", "-D", str(folder / "data")
        )
        settings = {**_FAST, "unix_socket_directories": str(folder)}
        with (folder / "data" / "postgresql.auto.conf").open("a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in settings.items())
        made.start()
        try:
            made.sql("CREATE ROLE qqvl LOGIN")
            yield made
        finally:
            made.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
