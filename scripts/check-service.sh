#!/usr/bin/env bash
# 检查服务状态：服务说自己怎样、性能指标、显卡用了多少，然后体检一遍。参数交给 doctor，如 --port 9998 --json。
# 退出码：0 没有查出问题，1 有不行的，2 还没有装过。地址用 SERVER_URL 指定，默认
# http://127.0.0.1:9999；服务设了密钥，看指标要 QQVL_API_KEY。
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
if [ ! -x "$here/.venv/bin/python" ]; then
    # The doctor itself would begin by installing gigabytes, which is not what was asked.
    echo "错误：还没有装过，先运行一次 $here/run_server.sh" >&2
    exit 2
fi
url=${SERVER_URL:-http://127.0.0.1:9999}
# To stderr: with --json, stdout is the doctor's.
{
    echo "== $url/health"
    curl -sS --noproxy '*' --max-time 5 "$url/health" 2>&1 && echo || echo "没有回答"
    echo "== 性能指标"
    # By stdin: what stands on a command line, everybody on this machine can read.
    printf 'Authorization: Bearer %s' "${QQVL_API_KEY:-}" |
        curl -sSf --noproxy '*' --max-time 5 -H @- "$url/metrics" 2>&1 | grep -E '^(qqvl_|curl:)' | grep -vE '_(bucket|created)' || true
    if command -v nvidia-smi >/dev/null 2>&1; then
        echo "== 显卡"
        nvidia-smi --query-gpu=name,memory.used,memory.total,utilization.gpu --format=csv,noheader || true
    fi
    echo "== 体检"
} >&2
# Asked every few minutes by a supervisor, it must not write to QQ each time.
exec "$here/run_server.sh" doctor --no-send "$@"
