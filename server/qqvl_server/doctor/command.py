"""``qqvl doctor``: both halves examined, told as lines or as JSON."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

from qqvl_server import config
from qqvl_server.doctor import relay, service, table
from qqvl_server.doctor.finding import Case, Finding, State, failed, ok
from qqvl_server.errors import ConfigError
from qqvl_server.language import told
from qqvl_server.process import EXIT_FAILED, EXIT_OK

_MARKS: Final = {State.OK: "好", State.WARNING: "注意", State.FAILED: "不行", State.SKIPPED: "略过"}


def run(
    asked: argparse.Namespace, file: Path | None, env: Mapping[str, str], resolve: Callable[[], config.Resolved]
) -> int:
    """Returns 0 where nothing has failed, else 1.

    Args:
        asked: ``json``, ``send`` and ``picture``, as typed.
        file: the settings file of both programs.
        resolve: merges the settings; what it raises is a finding, too.
    """
    found: list[tuple[str, Finding]] = []
    root = config.project_root()
    try:
        resolved = resolve()
    except ConfigError as error:
        found.append((table.SETTINGS, failed(error.message, "设置", "照这一行改，再体检一次")))
    else:
        settings = resolved.settings
        data_dir = Path(settings.storage.data_dir) if settings.storage.data_dir else root / "data"
        found.append((table.SETTINGS, ok(f"读的是 {file}" if file else "没有 qqvl.yaml，用默认值")))
        found += table.examined(Case(settings, resolved.sources, root, data_dir, service.running(settings.server)))
    found += relay.findings(root, env, relay.Asked(file, asked.send, asked.picture or ""))
    sys.stdout.write(as_json(found) if asked.json else as_lines(found))
    return EXIT_FAILED if any(one.state is State.FAILED for _, one in found) else EXIT_OK


def as_json(found: Iterable[tuple[str, Finding]]) -> str:
    findings = [
        {
            "check": name,
            "state": one.state,
            "message": told(one.message),
            "field": told(one.field),
            "value": told(one.value),
        }
        for name, one in found
    ]
    well = all(one["state"] != State.FAILED for one in findings)
    return json.dumps({"ok": well, "findings": findings}, ensure_ascii=False, indent=2) + "\n"


def as_lines(found: Iterable[tuple[str, Finding]]) -> str:
    lines, bad = [], 0
    for name, one in found:
        line = f"[{_MARKS[one.state]}] {table.TITLES.get(name, name)}：{one.message}"
        lines.append(told(line))
        if one.field:
            lines.append(told(f"       要改：{one.field} → {one.value}"))
        bad += one.state is State.FAILED
    lines.append(told(f"有 {bad} 项不行，照“要改”那一行改" if bad else "没有查出问题"))
    return "\n".join(lines) + "\n"
