#!/usr/bin/env bash
# 跑检查和测试：./run_tests.sh [pytest 参数…]；./run_tests.sh --long [pytest 参数…] 只跑标为 long 的（平时不跑，要十几分钟）
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
. scripts/venv.sh
ensure_venv .venv-test dev,client,client-nonebot
# Best effort: without npm, or without its packages, the tests of Node clients are skipped and say so.
if command -v npm >/dev/null 2>&1 && [ ! tests/api/node/node_modules/.package-lock.json -nt tests/api/node/package-lock.json ]; then
    (cd tests/api/node && npm ci --silent --no-audit --no-fund --ignore-scripts --fetch-retries 1 --fetch-timeout 20000) ||
        echo "提示：没有装上 Node 的测试用包，跳过 Node 客户端的测试" >&2
fi
exec env PATH="$PWD/.venv-test/bin:$PATH" scripts/check "$@"
