#!/usr/bin/env bash
# 启动 QQ 客户端：./run_client.sh [参数…]，参数与 client/qqbot_client_full.py 相同，例如 --adapter nonebot
# 第一次会建 .venv-client 并安装依赖，以后几秒就能启动。
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
requirements=client/requirements.txt
case "${QQVL_CLIENT_ADAPTER:-} $*" in *nonebot*) requirements=client/requirements-nonebot.txt ;; esac
(cd "$here" && . scripts/venv.sh && QQVL_LANG_FLAG=$(language_of "$@") && ensure_client_venv .venv-client "$requirements") || {
    status=$?
    # 130 and the like say that somebody stopped it; 3 is what the client itself says of a missing package.
    [ "$status" -gt 128 ] || status=3
    exit "$status"
}
case $0 in */*) export QQVL_LAUNCHER=$0 ;; *) export QQVL_LAUNCHER="bash $0" ;; esac
exec "$here/.venv-client/bin/python" "$here/client/qqbot_client_full.py" "$@"
