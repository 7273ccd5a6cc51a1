#!/usr/bin/env bash
# 启动 QQ 客户端：第一次会建 .venv-client 并安装依赖，以后几秒就能启动。用法：./run_client.sh [参数……]
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
venv="$root/.venv-client"
python="${PYTHON:-python3}"

if [[ ! -x "$venv/bin/python" ]]; then
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "需要 Python 3.11 或更新的版本（可用 PYTHON=/路径/python3.11 指定）" >&2; exit 3; }
    "$python" -m venv "$venv"
fi

# The stamp holds what was installed last; a change of either file installs again.
constraints=()
[[ -f "$root/constraints.txt" ]] && constraints=(-c "$root/constraints.txt")
wanted="$(cat "$root/client/requirements.txt" "$root"/constraints.txt 2>/dev/null | cksum)"
if [[ "$(cat "$venv/.installed" 2>/dev/null || true)" != "$wanted" ]]; then
    "$venv/bin/python" -m pip install --disable-pip-version-check -r "$root/client/requirements.txt" ${constraints[@]+"${constraints[@]}"} >&2
    printf '%s' "$wanted" > "$venv/.installed"
fi

exec "$venv/bin/python" "$root/client/qqbot_client_full.py" "$@"
