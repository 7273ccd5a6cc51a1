#!/usr/bin/env bash
# 跑全部检查和测试：./run_tests.sh [pytest 参数…]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
. scripts/venv.sh
ensure_venv .venv-test dev,client,client-nonebot
exec env PATH="$PWD/.venv-test/bin:$PATH" scripts/check "$@"
