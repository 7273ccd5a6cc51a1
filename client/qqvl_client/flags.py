"""The command line of the client; mistakes are one Chinese line."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NoReturn

from qqvl_client import invocation
from qqvl_client.errors import SettingsError
from qqvl_client.language import FLAG, told
from qqvl_client.mistakes import near
from qqvl_client.version import VERSION


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        flag, _, rest = message.removeprefix("argument ").partition(": ")
        if message.startswith("unrecognized arguments"):
            known = [name for action in self._actions for name in action.option_strings if name.startswith("--")]
            hint = near(rest.split()[0].partition("=")[0], known) or f"；用 {self.prog} --help 看全部参数"
            raise SettingsError(f"不认识的参数：{rest.strip()}{hint}")
        if "expected one argument" in rest:
            raise SettingsError(f"{flag} 后面要跟一个值")
        if choices := re.search(r"choose from (.*)\)", rest):
            choice = choices[1].replace("'", "").replace(", ", "、")
            raise SettingsError(f"{flag} 只能是 {choice}")
        raise SettingsError(f"命令行不对（{message}）；用 {self.prog} --help 看写法")


class _Formatter(argparse.HelpFormatter):
    """Where help leaves the program: in the user's language."""

    def add_usage(
        self, usage: str | None, actions: Iterable[argparse.Action], groups: object, prefix: str | None = None
    ) -> None:
        super().add_usage(told(usage) if usage else usage, actions, groups, told("用法："))  # type: ignore[arg-type]

    def add_text(self, text: str | None) -> None:
        super().add_text(told(text) if text else text)

    def start_section(self, heading: str | None) -> None:
        super().start_section(told(heading) if heading else heading)

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return told(action.help.replace("%%", "%")).replace("%", "%%") if action.help else action.help

    def _metavar_formatter(self, action: argparse.Action, default_metavar: str) -> Callable[[int], tuple[str, ...]]:
        if isinstance(action.metavar, str):
            default_metavar = told(action.metavar)
            return lambda size: (default_metavar,) * size
        return super()._metavar_formatter(action, default_metavar)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The flags, each as typed or None; `command` is `doctor` where that comes first, else `run`.

    Raises:
        SettingsError: one line that says what is wrong.
        SystemExit: help or version was asked for and printed.
    """
    # By hand: as one of argparse's, the value of a flag that is none would be taken for the command.
    command, rest = ("doctor", arguments[1:]) if arguments and arguments[0] == "doctor" else ("run", arguments)
    parser = Parser(
        prog=invocation.command(),
        description="QQ 与对话服务器之间的中继；doctor 是体检：NapCat、服务器、图片逐项试一次，不行的说出要改哪个设置",
        usage="%(prog)s [doctor] [参数…]",
        epilog="其余设置写在 qqvl.yaml 的 client: 下面或 QQVL_CLIENT_… 环境变量里，见 docs/client.md。",
        formatter_class=_Formatter,
        allow_abbrev=False,
        add_help=False,
    )
    group = parser.add_argument_group("体检的参数")
    group.add_argument("--json", action="store_true", help="写成 JSON；有不行的退出码是 1，没有是 0")
    group.add_argument("--no-send", dest="send", action="store_false", help="不用机器人的号给它自己发一条消息")
    group.add_argument("--picture", metavar="网址", default="", help="试着取哪张图片，默认是机器人自己的头像")
    group = parser.add_argument_group("参数")
    group.add_argument("--config", type=Path, metavar="文件", help="设置文件，默认是项目根目录的 qqvl.yaml")
    group.add_argument("--adapter", choices=("ncatbot", "nonebot"), help="用哪个框架连 QQ，默认 ncatbot")
    group.add_argument("--server-url", metavar="地址", help="对话服务器地址，默认 http://127.0.0.1:9999")
    # Taken out before anything is parsed; another word than these two comes here to be refused.
    group.add_argument(
        FLAG, choices=("zh", "en"), help="说中文还是英文；默认看 LC_ALL、LC_MESSAGES、LANG，en 开头是英文"
    )
    group.add_argument("-h", "--help", action="help", help="显示这段说明")
    group.add_argument("--version", action="version", version=f"qqvl client {VERSION}", help="显示版本")
    parsed = parser.parse_args(rest)
    parsed.command = command
    return parsed
