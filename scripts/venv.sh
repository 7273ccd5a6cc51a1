# Sourced by the run_*.sh scripts, from the project's root: virtual environments that are whole, or made anew.

# _say CHINESE ENGLISH: the one in the user's language, to standard error. English only where the first of LC_ALL,
# LC_MESSAGES and LANG that says anything begins with en, or --lang en was given (QQVL_LANG_FLAG, of the sourcing script).
_say() {
    local locale=${LC_ALL:-${LC_MESSAGES:-${LANG:-}}}
    case ${QQVL_LANG_FLAG:-} in en) locale=en ;; zh) locale=zh ;; esac
    case $locale in en*) printf '%s\n' "$2" >&2 ;; *) printf '%s\n' "$1" >&2 ;; esac
}

# language_of ARGUMENTS…: the word after --lang, or nothing.
language_of() {
    local word before=
    for word in "$@"; do
        case $before in --lang) printf '%s' "$word" ;; esac
        case $word in --lang=*) printf '%s' "${word#--lang=}" ;; esac
        before=$word
    done
}

# Put before Python's code: Ctrl-C ends it without a traceback. pip takes over once it can clean up after itself.
_QUIETLY='import signal; heard = signal.signal(signal.SIGINT, signal.SIG_DFL)
'

# ensure_venv FOLDER [EXTRAS]: FOLDER holds this project with those extras under constraints.txt. QQVL_TORCH picks the
# build of torch by the name of one of PyTorch's own indexes; without it pip's usual index decides, or an earlier choice.
ensure_venv() {
    local folder=$1 extras=${2:-}
    case ${QQVL_TORCH:-cpu} in
        cpu | xpu | cu[0-9][0-9][0-9] | rocm[0-9].[0-9]*) ;;
        *)
            _say "错误：QQVL_TORCH=$QQVL_TORCH 不行：可以写 cpu、cu126、cu130，或写全的 rocm 版本，如 rocm7.2（见 pytorch.org 的安装页）" \
                "Error: QQVL_TORCH=$QQVL_TORCH will not do: write cpu, cu126, cu130, or a whole rocm version such as rocm7.2 (see pytorch.org)"
            return 2
            ;;
    esac
    _ensure "$folder" .qqvl-stamp "$PWD $(cat pyproject.toml constraints.txt | cksum) $extras" _install_project
}

# ensure_client_venv FOLDER REQUIREMENTS: FOLDER holds what that file lists under constraints.txt.
ensure_client_venv() {
    local folder=$1 requirements=$2
    _ensure "$folder" ".$(basename "$requirements").stamp" "$(cat "$requirements" constraints.txt | cksum)" _install_listed
}

# _ensure FOLDER STAMP-FILE STAMP INSTALL: does nothing where INSTALL has been through for STAMP.
_ensure() {
    local stamp_file=$folder/$2
    if _is_current "$stamp_file" "$3"; then
        return 0
    fi
    trap '_say "已中断；重新运行同一条命令会接着准备" "Interrupted; run the same command again to go on"; exit 130' INT
    # One at a time: a second start must not take for broken what the first is still making.
    if command -v flock >/dev/null 2>&1; then
        exec 9<scripts/venv.sh
        flock 9
    fi
    local status=0
    _is_current "$stamp_file" "$3" || _prepare "$stamp_file" "$3" "$4" || status=$?
    exec 9<&-
    trap - INT
    return "$status"
}

_is_current() {
    # pip is gone, too, where the system's Python went from one version to the next under a venv of the old one.
    [ "$(cat "$1" 2>/dev/null)" = "$2" ] && "$folder/bin/python" -c 'import pip' 2>/dev/null || return 1
    [ -z "${QQVL_TORCH:-}" ] || [ ! -f "$folder/.qqvl-stamp" ] || [ "$QQVL_TORCH" = "$(cat "$folder/.qqvl-torch" 2>/dev/null)" ]
}

_prepare() {
    local free
    free=$(df -Pk . 2>/dev/null | awk 'NR == 2 { printf "%.1f", $4 / 1048576 }') || free=
    _say "正在准备运行环境 $folder（第一次要几分钟，之后几秒就好）${free:+；磁盘剩 $free GB}……" \
        "Preparing the environment $folder (minutes the first time, seconds after that)${free:+; $free GB of disk left}…"
    _is_whole || _make || return 1
    rm -f "$1"
    # What a killed pip leaves: packages without the list of their files, which pip takes for installed, and
    # half-removed ones.
    local leftover
    for leftover in "$folder"/lib/python*/site-packages/*.dist-info; do
        [ -f "$leftover/RECORD" ] || rm -rf "$leftover"
    done
    rm -rf "$folder"/lib/python*/site-packages/~*
    "$3" || {
        _say "错误：安装依赖没有成功，请看上面的提示；网络不好时重新运行会接着装，还不行就删掉 $folder 再运行" \
            "Error: installing failed, see above; with a bad network run it again to go on, else delete $folder and run it again"
        return 1
    }
    printf '%s\n' "$2" >"$1"
}

_is_whole() {
    "$folder/bin/python" -c 'import sys; sys.exit(sys.prefix == sys.base_prefix or sys.version_info < (3, 11))' 2>/dev/null &&
        "$folder/bin/python" -m pip --version >/dev/null 2>&1
}

_make() {
    local python
    if [ -e "$folder" ] && [ ! -f "$folder/pyvenv.cfg" ] && [ -n "$(find "$folder/" ! -type d | head -n 1)" ]; then
        _say "错误：$folder 不是虚拟环境，不敢动它；请移走或改名后再运行" \
            "Error: $folder is no virtual environment and is left alone; move or rename it, then run this again"
        return 1
    fi
    python=$(_find_python) || return 1
    if ! "$python" -c "${_QUIETLY}import venv; venv.main(['--clear', '$folder'])" >&2 || ! _is_whole; then
        _say "错误：建不了虚拟环境 $folder，原因见上；请检查磁盘空间和权限，然后重新运行" \
            "Error: the virtual environment $folder could not be made, see above; check disk space and permissions, then run this again"
        return 1
    fi
}

# Prints a Python that is new enough and can make virtual environments.
_find_python() {
    local candidate version without_venv=
    for candidate in ${PYTHON:+"$PYTHON"} python3.11 python3.12 python3.13 python3.14 python3; do
        if version=$("$candidate" -c 'import sys; print("%d.%d" % sys.version_info[:2]); sys.exit(sys.version_info < (3, 11))' 2>/dev/null); then
            if "$candidate" -c 'import ensurepip, venv' 2>/dev/null; then
                printf '%s\n' "$candidate"
                return 0
            fi
            without_venv=${without_venv:-$version}
        elif [ "$candidate" = "${PYTHON:-}" ]; then
            _say "错误：PYTHON=$PYTHON 不能用，需要 Python 3.11 或更新的版本" \
                "Error: PYTHON=$PYTHON cannot be used, Python 3.11 or newer is needed"
            return 1
        fi
    done
    if [ -n "$without_venv" ]; then
        _say "错误：Python $without_venv 缺 venv（ensurepip），请先安装（Debian/Ubuntu：apt install python$without_venv-venv），然后重新运行" \
            "Error: Python $without_venv lacks venv (ensurepip), install it first (Debian/Ubuntu: apt install python$without_venv-venv), then run this again"
    else
        _say "错误：需要 Python 3.11 或更新的版本，请先安装（Debian/Ubuntu：apt install python3 python3-venv），或用 PYTHON=/路径/python3.11 指定" \
            "Error: Python 3.11 or newer is needed, install it first (Debian/Ubuntu: apt install python3 python3-venv), or name one with PYTHON=/path/python3.11"
    fi
    return 1
}

_pip_install() {
    local quiet=-q
    # Gigabytes in silence look like a hang; a log file wants no bars.
    [ ! -t 2 ] || quiet=
    # The user's own pip may be told to install elsewhere.
    env -u PIP_USER -u PIP_TARGET -u PIP_PREFIX -u PYTHONPATH -u PYTHONHOME \
        "$folder/bin/python" -c "${_QUIETLY}import contextlib, runpy
with contextlib.suppress(ImportError): import pip._internal.cli.main, pip._internal.commands.install
signal.signal(signal.SIGINT, heard)
runpy.run_module('pip', run_name='__main__', alter_sys=True)" install --disable-pip-version-check ${quiet:+"$quiet"} -c constraints.txt "$@"
}

_install_listed() {
    _pip_install -r "$requirements"
}

_install_project() {
    local torch build have
    torch=$(grep '^torch==' constraints.txt || true)
    build=${QQVL_TORCH:-$(cat "$folder/.qqvl-torch" 2>/dev/null || true)}
    [ -z "$torch" ] || _say "（1/2）PyTorch，最大的一个：CPU 版下载约 0.2 GB、装好 0.8 GB，显卡版下载约 3 GB、装好 7 GB" \
        "(1/2) PyTorch, the largest: for CPUs about 0.2 GB to download and 0.8 GB of disk, for cards 3 GB and 7 GB"
    # torch first and alone: its exact version may come as a local wheel, and nothing else may pull another build.
    if [ -n "$torch" ] && [ -n "$build" ]; then
        have=$("$folder/bin/python" -c 'import importlib.metadata as m; print(m.version("torch").partition("+")[2])' 2>/dev/null) || have=none
        case $have in "$build" | none) have= ;; *) have=--force-reinstall ;; esac
        _pip_install ${have:+"$have"} "$torch" --index-url "https://download.pytorch.org/whl/$build" || return 1
        printf '%s\n' "$build" >"$folder/.qqvl-torch"
    elif [ -n "$torch" ]; then
        _pip_install "$torch" || return 1
    fi
    [ -z "$torch" ] || _say "（2/2）其余的包：下载约 0.2 GB、装好 0.5 GB" "(2/2) The other packages: about 0.2 GB to download, 0.5 GB of disk"
    _pip_install -e ".${extras:+[$extras]}"
}
