#!/usr/bin/env bash
# 启动 QQ 客户端：./run_client.sh [参数…]，参数与 client/qqbot_client_full.py 相同，例如 --adapter nonebot
# 第一次会建 .venv-client 并安装依赖，以后几秒就能启动。
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
venv=$here/.venv-client
requirements=$here/client/requirements.txt
case "${QQVL_CLIENT_ADAPTER:-} $*" in *nonebot*) requirements=$here/client/requirements-nonebot.txt ;; esac

if [ ! -x "$venv/bin/python" ]; then
    python=${PYTHON:-$(command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3 || true)}
    if [ -z "$python" ] || ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
        echo "错误：需要 Python 3.11 或更新的版本（可以用 PYTHON=/路径/python3.11 指定）" >&2
        exit 3
    fi
    "$python" -m venv "$venv" || { echo "错误：建不了虚拟环境，请安装 venv（Debian/Ubuntu：apt install python3-venv）" >&2; exit 3; }
fi

# The stamp names what was installed last; a change of either file installs again.
stamp=$(cat "$requirements" "$here/constraints.txt" | cksum)
installed=$venv/.$(basename "$requirements").stamp
if [ "$(cat "$installed" 2>/dev/null)" != "$stamp" ]; then
    echo "正在准备客户端的运行环境（第一次要一两分钟，之后几秒就好）……" >&2
    "$venv/bin/python" -m pip install --disable-pip-version-check -q -c "$here/constraints.txt" -r "$requirements" || {
        echo "错误：安装依赖没有成功，请看上面的提示；重新运行会接着装" >&2
        exit 3
    }
    printf '%s\n' "$stamp" >"$installed"
fi

exec "$venv/bin/python" "$here/client/qqbot_client_full.py" "$@"
