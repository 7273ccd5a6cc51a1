#!/usr/bin/env bash
# 启动服务器：./run_server.sh [参数…]，参数与 server/api_server_qwen3vl.py 相同，例如 --port 9999 --device cuda:0
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
(cd "$here" && . scripts/venv.sh && ensure_venv .venv)
# The working directory stays the caller's, so that relative paths in the flags mean what they say.
exec "$here/.venv/bin/python" "$here/server/api_server_qwen3vl.py" "$@"
