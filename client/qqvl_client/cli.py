"""argv → settings → the adapter that was chosen.

Exit codes: 0 stopped as asked, 2 a setting is wrong, 3 a package is missing.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path

from qqvl_client import logs
from qqvl_client.errors import SettingsError
from qqvl_client.journal import Journal, open_journal
from qqvl_client.settings import Settings, load, ncatbot_config, private_data_dir, shut_to_others

LOG = logging.getLogger("qqvl")


def main(argv: list[str]) -> int:
    """Run the client; returns the process's exit code."""
    arguments = _parser().parse_args(argv)
    flags = {name: value for name in ("adapter", "server_url") if (value := getattr(arguments, name))}
    try:
        settings = load(os.environ, flags, arguments.config)
        # Logs, journal and pictures on their way hold private chats.
        os.umask(0o077)
        folder = private_data_dir(settings)
        logs.install(settings.log_level, settings.secrets, folder)
        journal = open_journal(settings, folder)
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    theirs = ncatbot_config(os.environ)
    if theirs and shut_to_others(theirs):
        LOG.info("%s 里有 token，已改为只有自己能读", theirs)
    LOG.info("对话服务器 %s，QQ 一侧 %s（%s）", settings.server_url, settings.adapter_address, settings.adapter)
    return _run(settings, folder, journal)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="qqbot_client_full.py", description="QQ 与对话服务器之间的中继")
    parser.add_argument("--config", type=Path, metavar="文件", help="设置文件，默认是项目根目录的 qqvl.yaml")
    parser.add_argument("--adapter", choices=("ncatbot", "nonebot"), help="用哪个框架连 QQ，默认 ncatbot")
    parser.add_argument("--server-url", metavar="地址", help="对话服务器地址，默认 http://127.0.0.1:9999")
    return parser


def _run(settings: Settings, folder: Path, journal: Journal) -> int:
    try:
        if settings.adapter == "nonebot":
            from qqvl_client.adapters.nonebot import run
        else:
            from qqvl_client.adapters.ncatbot import run
        run(settings, folder, journal)
    except ImportError as error:
        extra = "client" if settings.adapter == "ncatbot" else "client-nonebot"
        LOG.error("缺少依赖 %s，请先安装：pip install '.[%s]'", error.name, extra)
        return 3
    LOG.info("已停止")
    return 0
