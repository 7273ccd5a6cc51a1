"""argv → settings → the adapter that was chosen.

Exit codes: 0 stopped as asked (`doctor`: nothing has failed, else 1), 2 a setting is wrong, 3 a package is missing.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from pathlib import Path

from qqvl_client import flags, invocation, language, logs
from qqvl_client.doctor import command
from qqvl_client.errors import SettingsError
from qqvl_client.files import shut_to_others
from qqvl_client.journal import Journal, open_journal
from qqvl_client.language import told
from qqvl_client.settings import Settings, load, ncatbot_config, private_data_dir

LOG = logging.getLogger("qqvl")


def main(argv: list[str]) -> int:
    """Run the client; returns the process's exit code."""
    with language.spoken(argv, os.environ) as arguments:
        return _main(arguments)


def _main(argv: list[str]) -> int:
    # `--help | head` has seen enough: no complaint at the end.
    _on_closed_pipe("SIG_DFL")
    try:
        arguments = flags.parse(argv)
        _on_closed_pipe("SIG_IGN")
        given = {name: value for name in ("adapter", "server_url") if (value := getattr(arguments, name))}
        if arguments.command == "doctor":
            return command.run(
                given, arguments.config, as_json=arguments.json, send=arguments.send, picture=arguments.picture
            )
        settings = load(os.environ, given, arguments.config)
        # Logs, journal and pictures on their way hold private chats.
        os.umask(0o077)
        folder = private_data_dir(settings)
        logs.install(settings)
        journal = open_journal(settings, folder)
    except SettingsError as error:
        sys.stderr.write(told(str(error)) + "\n")
        return 2
    theirs = ncatbot_config(os.environ)
    if theirs and shut_to_others(theirs):
        LOG.info("%s 里有 token，已改为只有自己能读", theirs)
    LOG.info("对话服务器 %s，QQ 一侧 %s（%s）", settings.server_url, settings.adapter_address, settings.adapter)
    return _run(settings, folder, journal)


def _on_closed_pipe(action: str) -> None:
    if hasattr(signal, "SIGPIPE"):  # Windows has none
        signal.signal(signal.SIGPIPE, getattr(signal, action))


def _run(settings: Settings, folder: Path, journal: Journal) -> int:
    try:
        if settings.adapter == "nonebot":
            from qqvl_client.adapters.nonebot import run
        else:
            from qqvl_client.adapters.ncatbot import run
        run(settings, folder, journal)
    except ImportError as error:
        wanted = {
            "ncatbot": ("requirements.txt", "ncatbot>=4.4.1,<5"),
            "nonebot": ("requirements-nonebot.txt", "nonebot2[fastapi,websockets]", "nonebot-adapter-onebot"),
        }
        LOG.error("缺少依赖 %s，请先安装：%s", error.name, invocation.install(*wanted[settings.adapter]))
        return 3
    LOG.info("已停止")
    return 0
