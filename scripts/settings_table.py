"""Rewrite from the code: README.md's settings table, qqvl.example.yaml, each side's list of the other's variables, and
CHANGELOG.md's list of all flags.

``python scripts/settings_table.py`` after every change of a setting, the server's or the client's, or of a flag. With
the address of a running server without keys, CHANGELOG.md's list of all doors is written as well.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "server"), str(ROOT / "client")]

from qqvl_client import settings as client  # noqa: E402
from qqvl_server.config import Knob, knobs, variables  # noqa: E402
from qqvl_server.flags import COMMANDS  # noqa: E402

BLOCK = re.compile(r"(<!-- settings: [^\n]*-->\n).*?(<!-- /settings -->)", re.DOTALL)


def row(knob: Knob) -> str:
    """One line: key, flag, default, description."""
    flag = "—" if knob.in_file_only else f"`{knob.flag}`"
    value = None if knob.in_file_only else knob.info.default
    text = ",".join(value) if isinstance(value, tuple) else _yaml(value) if isinstance(value, bool) else str(value)
    default = "—" if value in ("", None, ()) else text if len(text) <= 40 else "…"
    return f"| `{knob.key}` | {flag} | {default} | {knob.info.description} |"


def example() -> str:
    """``qqvl.example.yaml``: every setting commented out at its default, with its description."""
    lines = [
        "# 复制为 qqvl.yaml，去掉要改的那几行前面的 # 即可。优先级：命令行参数 > 环境变量 QQVL_… > 本文件 > 默认值",
        "",
    ]
    section = ""
    for knob in knobs():
        if knob.section != section:
            section = knob.section
            lines += ["", f"{section}:"]
        value = {} if knob.in_file_only else knob.info.default
        lines += [f"  # {knob.info.description}", f"  # {knob.name}: {_yaml(value)}"]
    lines += ["", "# QQ 客户端的设置，说明见 docs/client.md；里面有 token 时请 chmod 600 qqvl.yaml", "client:"]
    for name, field in client.Settings.model_fields.items():
        lines += [f"  # {field.description}", f"  # {name}: {_yaml(_plain(field.default))}"]
    return "\n".join(lines) + "\n"


def _yaml(value: object) -> str:
    return "" if value is None else json.dumps(value, ensure_ascii=False)


def _plain(value: object) -> object:
    """A default of the client's as its file would have it."""
    if isinstance(value, Path):
        return str(value.relative_to(client.PROJECT))
    return "" if isinstance(value, client.SecretStr) else value


def foreign_names() -> dict[Path, str]:
    """Modules of the names that a program must know to be the other one's: the two never import each other."""
    both = (
        ("server/qqvl_server/client_variables.py", "CLIENT_VARIABLES", "client", client.variables()),
        ("client/qqvl_client/server_variables.py", "SERVER_VARIABLES", "server", variables()),
    )
    return {
        ROOT / path: f'"""The {whose}\'s own environment variables; written by scripts/settings_table.py."""\n\n'
        f"{constant} = frozenset(\n    (\n" + "".join(f'        "{name}",\n' for name in sorted(names)) + "    )\n)\n"
        for path, constant, whose, names in both
    }


def flags() -> tuple[str, ...]:
    """What the server's commands and the client take, as their help tells it."""
    server, both = ROOT / "server" / "api_server_qwen3vl.py", ROOT / "client" / "qqbot_client_full.py"
    lines = [[server, "--help"], *([server, name, "--help"] for name in COMMANDS), [both, "--help"]]
    lines.append([both, "doctor", "--help"])
    helps = [subprocess.run([sys.executable, *line], capture_output=True, encoding="utf-8").stdout for line in lines]
    return tuple(sorted(set(re.findall(r"--[a-z][a-z-]+", "".join(helps)))))


def doors(url: str) -> tuple[str, ...]:
    """``GET /health`` and so on, in the order of their paths."""
    with urllib.request.urlopen(f"{url}/openapi.json") as answer:
        paths = json.load(answer)["paths"]
    return tuple(f"{method.upper()} {path}" for path in sorted(paths) for method in sorted(paths[path]))


def listed(text: str, name: str, items: tuple[str, ...]) -> str:
    """``text`` with the items between ``<!-- name -->`` and ``<!-- /name -->``."""
    block = "、\n".join("、".join(f"`{item}`" for item in items[at : at + 6]) for at in range(0, len(items), 6))
    return re.sub(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", rf"\1{block}\n\2", text, flags=re.DOTALL)


def main() -> None:
    readme = ROOT / "README.md"
    table = "\n".join(["| qqvl.yaml 里的名字 | 参数 | 默认 | 说明 |", "|---|---|---|---|", *map(row, knobs())])
    text = BLOCK.sub(lambda match: f"{match[1]}{table}\n{match[2]}", readme.read_text(encoding="utf-8"))
    readme.write_text(text, encoding="utf-8")
    (ROOT / "qqvl.example.yaml").write_text(example(), encoding="utf-8")
    for path, module in foreign_names().items():
        path.write_text(module, encoding="utf-8")
    changelog = ROOT / "CHANGELOG.md"
    text = listed(changelog.read_text(encoding="utf-8"), "flags", flags())
    for url in sys.argv[1:]:
        text = listed(text, "doors", doors(url))
    changelog.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
