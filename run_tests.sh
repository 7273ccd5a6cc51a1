#!/usr/bin/env bash
# 跑检查和测试：./run_tests.sh [pytest 参数…]；./run_tests.sh --long [pytest 参数…] 只跑标为 long 的（平时不跑，要十几分钟）
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
. scripts/venv.sh
ensure_venv .venv-test dev,client,client-nonebot
# Best effort: without npm, or without its packages, the tests of Node clients and those of the page's sources are
# skipped and say so.
node_packages() {
    [ ! "$1/node_modules/.package-lock.json" -nt "$1/package-lock.json" ] || return 0
    (cd "$1" && npm ci --silent --no-audit --no-fund --ignore-scripts --fetch-retries 1 --fetch-timeout 20000)
}
if command -v npm >/dev/null 2>&1; then
    node_packages tests/api/node || echo "提示：没有装上 Node 的测试用包，跳过 Node 客户端的测试" >&2
    node_packages web || echo "提示：没有装上 web/ 的包，跳过网页源码的检查和测试" >&2
fi
exec env PATH="$PWD/.venv-test/bin:$PATH" scripts/check "$@"
