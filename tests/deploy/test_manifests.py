"""The Kubernetes manifests: valid by the cluster's own schemas, without rights, and true to what else is in deploy/."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from qqvl_client.settings import load as load_client
from qqvl_server.config import resolve, variables
from tests.environment import must_be_at_hand
from tests.running import ROOT

FOLDER = ROOT / "deploy" / "kubernetes"
MANIFESTS = ("qqvl.yaml", "sglang-router.yaml")


def resources(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((FOLDER / name).read_text(encoding="utf-8")))


def pods(name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for one in resources(name):
        if one["kind"] in ("Deployment", "StatefulSet"):
            yield one["metadata"]["name"], one["spec"]["template"]["spec"]


def test_the_manifests_are_valid() -> None:
    must_be_at_hand(find_spec("kubernetes_validate") is not None, "kubernetes-validate is not installed")
    entry = "import sys; from kubernetes_validate.__main__ import main; sys.exit(main())"
    command = [sys.executable, "-c", entry, "--strict", "--quiet", *(str(FOLDER / name) for name in MANIFESTS)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_our_pods_have_no_rights_and_all_that_they_mount_is_there() -> None:
    claims = {one["metadata"]["name"] for one in resources("qqvl.yaml") if one["kind"] == "PersistentVolumeClaim"}
    for name, pod in pods("qqvl.yaml"):
        assert pod["securityContext"]["runAsNonRoot"], name
        assert not pod["automountServiceAccountToken"], name
        for container in pod["containers"]:
            rights = container["securityContext"]
            assert rights["readOnlyRootFilesystem"], name
            assert not rights["allowPrivilegeEscalation"], name
            assert rights["capabilities"] == {"drop": ["ALL"]}, name
            assert "readinessProbe" in container or name == "qqvl-client"
        asked = {v["persistentVolumeClaim"]["claimName"] for v in pod["volumes"] if "persistentVolumeClaim" in v}
        assert asked <= claims


def test_our_programs_take_their_settings() -> None:
    env = {
        name: {one["name"]: one.get("value", "x") for one in pod["containers"][0].get("env", ())}
        for name, pod in pods("qqvl.yaml")
    }
    client = load_client(env["qqvl-client"], {})
    services = {one["metadata"]["name"] for one in resources("qqvl.yaml") if one["kind"] == "Service"}
    assert client.server_url.removeprefix("http://").partition(":")[0] in services
    server = env["qqvl"] | {"QQVL_API_KEYS": "qq=a,admin=b"}
    assert {name for name in server if name.startswith("QQVL_")} <= variables()
    assert str(resolve({}, server, None).settings.engine.engine) == "upstream"


def test_the_front_in_the_cluster_is_the_front_beside_it() -> None:
    (front,) = (one for one in resources("qqvl.yaml") if one["kind"] == "ConfigMap")
    beside = (ROOT / "deploy" / "haproxy" / "haproxy.cfg").read_text(encoding="utf-8")
    lines = {line.strip() for line in beside.splitlines() if line.strip() and not line.strip().startswith("#")}
    own = {line.strip() for line in front["data"]["haproxy.cfg"].splitlines() if line.strip()}
    assert {line for line in lines - own if not line.startswith(("server ", "default-server"))} == set()
    (copies,) = (one for one in resources("qqvl.yaml") if one["kind"] == "StatefulSet")
    assert sum(line.startswith("server ") for line in own) == copies["spec"]["replicas"]


def test_haproxy_takes_the_front_of_the_cluster(tmp_path: Path) -> None:
    must_be_at_hand(shutil.which("haproxy") is not None, "haproxy is not installed")
    (front,) = (one for one in resources("qqvl.yaml") if one["kind"] == "ConfigMap")
    (tmp_path / "haproxy.cfg").write_text(front["data"]["haproxy.cfg"])
    done = subprocess.run(
        ["haproxy", "-c", "-f", str(tmp_path / "haproxy.cfg")], capture_output=True, encoding="utf-8", check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_routers_behind_keep_a_chat_where_it_was() -> None:
    values = yaml.safe_load((FOLDER / "vllm-production-stack.values.yaml").read_text(encoding="utf-8"))
    assert values["routerSpec"]["routingLogic"] == "session"
    # What generation/engines/upstream sends unless told otherwise.
    assert values["routerSpec"]["sessionKey"] == "x-session-id"
    (router,) = (pod for name, pod in pods("sglang-router.yaml") if name == "sglang-router")
    workers = [one for one in router["containers"][0]["args"] if one.startswith("http://")]
    (fleet,) = (one for one in resources("sglang-router.yaml") if one["kind"] == "StatefulSet")
    assert "--policy=manual" in router["containers"][0]["args"]
    assert len(workers) == fleet["spec"]["replicas"]
