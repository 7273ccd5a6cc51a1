"""The images and what runs them: sound by their own checkers, without rights, and with settings that we take."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from qqvl_client.settings import load as load_client
from qqvl_server.config import resolve
from tests.environment import must_be_at_hand
from tests.running import ROOT

DOCKER = ROOT / "docker"
FILES = sorted(DOCKER.glob("Dockerfile.*"))
COMPOSE = (DOCKER / "docker-compose.yml", DOCKER / "docker-compose.cuda.yml")
PROFILES = ("postgres", "monitoring")
OURS = ("server", "client")


def needs(program: str) -> None:
    must_be_at_hand(shutil.which(program) is not None, f"{program} is not installed")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_hadolint_finds_nothing(file: Path) -> None:
    needs("hadolint")
    done = subprocess.run(["hadolint", str(file)], capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_an_image_copies_what_is_there_and_ends_as_nobody(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8")
    for line in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE):
        for source in line.split():
            assert list(ROOT.glob(source)), source
            top = re.escape(source.split("/")[0].replace("*.lock", ""))
            assert re.search(rf"^!{top}|^!requirements", ignored, re.MULTILINE), source
    for stage in re.split(r"^FROM ", text, flags=re.MULTILINE)[1:]:
        if "ENTRYPOINT" in stage:
            assert "USER 10001:10001" in stage
            assert "HEALTHCHECK" in stage


@pytest.fixture(scope="module")
def env_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As ``docker/make-env`` writes it."""
    folder = tmp_path_factory.mktemp("docker")
    shutil.copy(DOCKER / "make-env", folder)
    first = subprocess.run([str(folder / "make-env")], capture_output=True, encoding="utf-8", check=True)
    made = folder / ".env"
    before = made.read_text()
    assert made.stat().st_mode & 0o077 == 0
    again = subprocess.run([str(folder / "make-env")], capture_output=True, encoding="utf-8", check=True)
    assert made.read_text() == before
    assert again.stdout == first.stdout
    values = dict(line.split("=") for line in before.splitlines())
    assert len(set(values.values())) == len(values) > 4
    assert values["NAPCAT_TOKEN"] in first.stdout
    return made


@pytest.fixture(scope="module", params=[1, 2], ids=["cpu", "cuda"])
def composed(request: pytest.FixtureRequest, env_file: Path) -> dict[str, Any]:
    needs("docker-compose")
    files = [word for file in COMPOSE[: request.param] for word in ("-f", str(file))]
    profiles = [word for profile in PROFILES for word in ("--profile", profile)]
    clean = {key: value for key, value in os.environ.items() if key in ("PATH", "HOME", "LANG")}
    done = subprocess.run(
        ["docker-compose", "--env-file", str(env_file), *files, *profiles, "config"],
        cwd=env_file.parent, env=clean, capture_output=True, encoding="utf-8", check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = yaml.safe_load(done.stdout)
    return found


def test_compose_takes_the_files_and_ours_have_no_rights(composed: dict[str, Any]) -> None:
    services = composed["services"]
    assert {*OURS, "napcat", "postgres", "prometheus", "grafana"} == set(services)
    for name, service in services.items():
        # Whatever listens on the host listens for the host alone.
        assert all(str(port).startswith("127.0.0.1:") for port in service.get("ports", ())), name
        if name == "napcat":
            continue
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service.get("user", "") != "root"
        assert service["volumes"], name
    assert all("healthcheck" in services[name] for name in ("postgres", "prometheus", "grafana"))
    assert composed["networks"]["inside"]["internal"]
    assert {name for name, service in services.items() if not service.get("profiles")} == {*OURS, "napcat"}


def test_our_programs_take_the_settings_of_the_containers(composed: dict[str, Any]) -> None:
    """A variable that we do not know, or a value, would end them at the start."""
    server = resolve({}, composed["services"]["server"]["environment"], None).settings
    assert [key.partition("=")[0] for key in server.server.api_keys] == ["qq", "openai", "admin"]
    client = load_client(composed["services"]["client"]["environment"], {})
    assert client.napcat_ws_url == "ws://napcat:3001"
    assert client.api_key.get_secret_value() in {key.partition("=")[2] for key in server.server.api_keys}


def test_what_the_monitors_read_is_there() -> None:
    compose = yaml.safe_load(COMPOSE[0].read_text(encoding="utf-8"))
    for name in ("prometheus", "grafana"):
        for volume in compose["services"][name]["volumes"]:
            if volume.startswith("."):
                assert (DOCKER / volume.split(":")[0]).exists(), volume
    scraped = yaml.safe_load((DOCKER / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))
    targets = [target for job in scraped["scrape_configs"] for target in job["static_configs"][0]["targets"]]
    told = compose["services"]["client"]["environment"]["QQVL_CLIENT_METRICS_ADDRESS"]
    assert targets == ["server:9999", told.replace("0.0.0.0", "client")]
    provider = yaml.safe_load((ROOT / "deploy" / "grafana" / "provisioning" / "dashboards" / "qqvl.yml").read_text())
    shown = provider["providers"][0]["options"]["path"]
    (mounted,) = (v for v in compose["services"]["grafana"]["volumes"] if v.split(":")[1] == shown)
    assert list((DOCKER / mounted.split(":")[0]).glob("*.json"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_an_image_installs_locked_packages(file: Path) -> None:
    named = re.findall(r"[\w${}-]+\.lock", file.read_text(encoding="utf-8"))
    assert "requirements.lock" in named
    assert "--require-hashes" in file.read_text(encoding="utf-8")
