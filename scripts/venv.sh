# Sourced by the run_*.sh scripts. ensure_venv FOLDER EXTRA... makes FOLDER a virtual environment that holds this
# project with those extras under constraints.txt, and does nothing when it already does.
ensure_venv() {
    local folder=$1 extras=${2:-} python=${PYTHON:-} candidate stamp
    if [ -z "$python" ]; then
        for candidate in python3.11 python3.12 python3.13 python3; do
            if command -v "$candidate" >/dev/null 2>&1 &&
                "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
                python=$candidate
                break
            fi
        done
    fi
    if [ -z "$python" ]; then
        echo "错误：需要 Python 3.11 或更新的版本，请先安装（Debian/Ubuntu：apt install python3 python3-venv）" >&2
        return 1
    fi
    stamp=$(cat pyproject.toml constraints.txt | cksum)" $extras"
    if [ -x "$folder/bin/python" ] && [ "$(cat "$folder/.qqvl-stamp" 2>/dev/null)" = "$stamp" ]; then
        return 0
    fi
    echo "正在准备运行环境 $folder（第一次要几分钟，之后几秒就好）……" >&2
    if [ ! -x "$folder/bin/python" ]; then
        "$python" -m venv "$folder" || {
            echo "错误：建不了虚拟环境，请安装 venv（Debian/Ubuntu：apt install python3-venv）" >&2
            return 1
        }
    fi
    # torch first and alone: its exact version may come as a local wheel, and nothing else may pull another build.
    "$folder/bin/python" -m pip install --disable-pip-version-check -q "$(grep '^torch==' constraints.txt)" &&
        "$folder/bin/python" -m pip install --disable-pip-version-check -q -c constraints.txt -e ".${extras:+[$extras]}" || {
        echo "错误：安装依赖没有成功，请看上面的提示；网络不好时重新运行会接着装" >&2
        return 1
    }
    printf '%s\n' "$stamp" >"$folder/.qqvl-stamp"
}
