# 没有测试过：测试的机器上没有 Windows。做的事和 docs/windows.md 里手动的一样，出错时照那里做。
# 用法：powershell -ExecutionPolicy Bypass -File deploy\windows\run_server.ps1 [服务器的参数…]
[CmdletBinding()]
param(
    [string] $Distribution = 'Ubuntu-24.04',
    [Parameter(ValueFromRemainingArguments = $true)] [string[]] $ServerArguments = @()
)
$ErrorActionPreference = 'Stop'
# wsl.exe writes UTF-16 unless told otherwise.
$env:WSL_UTF8 = '1'

if (-not (Get-Command wsl.exe -ErrorAction SilentlyContinue)) {
    Write-Error '没有 WSL：在管理员的 PowerShell 里运行 wsl --install，重启后再来'
}
if ((wsl.exe --list --quiet) -notcontains $Distribution) {
    Write-Error "没有 $Distribution：运行 wsl --install -d $Distribution，建好用户后再来"
}

$source = Split-Path -Parent (Split-Path -Parent $PSScriptRoot)
$from = (wsl.exe -d $Distribution --exec wslpath -a ($source -replace '\\', '/')).Trim()

# Copied into Linux's own file system: on /mnt/c SQLite's locks are not to be relied on, and everything is slow.
$prepare = @'
set -eu
if ! command -v git >/dev/null || ! python3 -c 'import venv, ensurepip' 2>/dev/null; then
    sudo apt-get update && sudo apt-get install -y python3 python3-venv git g++
fi
if [ ! -d "$HOME/qqvl" ]; then
    mkdir "$HOME/qqvl"
    cd "$1"
    tar --exclude=./data --exclude='./.venv*' --exclude='node_modules' -cf - . | tar -xf - -C "$HOME/qqvl"
fi
shift
cd "$HOME/qqvl"
exec ./run_server.sh "$@"
'@ -replace "`r", ''
wsl.exe -d $Distribution --exec bash -c $prepare bash $from @ServerArguments
exit $LASTEXITCODE
