#!/usr/bin/env bash
# 启动服务器：./run_server.sh [参数…]，参数与 server/api_server_qwen3vl.py 相同，例如 --port 9999 --device cuda:0
# 第一次会建 .venv 并安装依赖；QQVL_TORCH=cu126 这样的变量指定装哪一种 PyTorch。
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
(cd "$here" && . scripts/venv.sh && QQVL_LANG_FLAG=$(language_of "$@") && ensure_venv .venv)
# So that what it advises can be typed as this was.
case $0 in */*) export QQVL_LAUNCHER=$0 ;; *) export QQVL_LAUNCHER="bash $0" ;; esac
# The working directory stays the caller's, so that relative paths in the flags mean what they say.
exec "$here/.venv/bin/python" "$here/server/api_server_qwen3vl.py" "$@"
