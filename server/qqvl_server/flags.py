"""The command line's grammar and its help, built from the settings; mistakes are one Chinese line."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Iterable, Sequence
from typing import Final, NoReturn

from qqvl_server import config, invocation, own_flags
from qqvl_server.errors import ConfigError
from qqvl_server.version import VERSION
from qqvl_server.weights.locate import PREFERRED

COMMANDS: Final = {
    "serve": "启动服务器（不写命令时就是它）",
    "download": "下载模型到 models/，可断点续传，最后校验",
    "page": "给出打开网页用的网址（只能用一次），服务器要在运行",
    "try": "照脚本演一个群，看机器人说的和预期一不一样",
    "show-config": "列出每个设置的值和它从哪里来",
    "setup": "问四个问题，写成 qqvl.yaml",
    "doctor": "体检：从显卡到 QQ 逐项检查，不行的说出要改哪个设置、改成什么",
    "backup": "备份：聊天记录、图片、人设、设置写成一个文件，服务器开着也行",
    "restore": "从备份恢复；现在的数据留在旁边",
    "export": "把一个会话写成 JSON",
    "import": "读回 export 写的 JSON",
    "forget": "忘掉一个人：他说的话、对他的回答、他的图，处处不留",
    "label-lines": "从自己群里的记录挑话来问该不该插话，记进文件，给 calibrate-gate 用",
    "calibrate-gate": "用标好的话给现在的模型校准 smart 的判断",
}
KEEPING: Final = ("backup", "restore", "export", "import", "forget")
"""Commands on what is kept."""
# What most people ever type; ``serve --help`` has the rest.
EVERYDAY: Final = {
    "模型": ("model_path", "device", "quantization"),
    "地址与密钥": ("host", "port", "api_keys"),
    "回答": ("system_prompt", "group_reply", "bot_names", "max_new_tokens"),
    "数据与日志": ("data_dir", "log_level"),
}
SECTIONS: Final = {
    "server": "地址、密钥与限制",
    "storage": "数据",
    "weights": "模型与设备",
    "engine": "推理引擎",
    "generation": "生成",
    "media": "图片",
    "chat": "QQ 聊天",
    "observe": "日志",
}


class Parser(argparse.ArgumentParser):
    """argparse with its words in Chinese and its errors as ``ConfigError``."""

    def __init__(self, prog: str, description: str, usage: str, epilog: str | None = None) -> None:
        super().__init__(
            prog=prog,
            description=description,
            usage=usage,
            epilog=epilog,
            formatter_class=_Formatter,
            allow_abbrev=False,
            add_help=False,
        )

    def add_others(self) -> None:
        group = self.add_argument_group("其他")
        group.add_argument("-h", "--help", action="help", help="显示这段说明")
        group.add_argument("--version", action="version", version=f"qqvl {VERSION}", help="显示版本")

    def error(self, message: str) -> NoReturn:
        raise ConfigError(self._in_chinese(message))

    def _in_chinese(self, message: str) -> str:
        flag, _, rest = message.removeprefix("argument ").partition(": ")
        if message.startswith("unrecognized arguments"):
            return f"不认识的参数：{rest.strip()}{self._meant(rest.split()[0])}"
        if "expected one argument" in rest:
            return f"{flag} 后面要跟一个值"
        if choices := re.search(r"choose from (.*)\)", rest):
            return f"{flag} 只能是 " + choices[1].replace("'", "").replace(", ", "、")
        if "invalid" in rest and " value: " in rest:
            return f"{flag} 的值不对：要是一个数"
        if "arguments are required" in message:
            return f"还缺 {rest.strip()}；用 {self.prog} --help 看写法"
        return f"命令行不对（{message}）；用 {self.prog} --help 看写法"

    def _meant(self, word: str) -> str:
        known = [flag for action in self._actions for flag in action.option_strings if flag.startswith("--")]
        near = difflib.get_close_matches(word.partition("=")[0], [*known, *COMMANDS], n=1)
        return f"，是不是想写 {near[0]}？" if near else f"；用 {self.prog} --help 看全部参数"


class _Formatter(argparse.HelpFormatter):
    def add_usage(
        self, usage: str | None, actions: Iterable[argparse.Action], groups: object, prefix: str | None = None
    ) -> None:
        super().add_usage(usage, actions, groups, "用法：")  # type: ignore[arg-type]


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """``command`` and its flags, each as typed or None.

    Raises:
        ConfigError: one line that says what is wrong.
        SystemExit: help or version was asked for and printed.
    """
    if arguments and arguments[0] in COMMANDS:
        name, rest = arguments[0], arguments[1:]
    else:
        name, rest = "serve", arguments
        if rest and rest[0] in ("-h", "--help"):
            overview().print_help()
            raise SystemExit(0)
    if name == "try":
        # What it does not know is for the server that it starts.
        parsed, rest = _try().parse_known_args(rest)
        parsed.rest = rest
    else:
        parser = {"download": _download, "setup": _setup}.get(name, lambda: _settings(name))()
        parsed = parser.parse_args(rest)
    parsed.command = name
    return parsed


def overview() -> Parser:
    """What ``--help`` shows: the commands and the everyday flags. It parses nothing."""
    own = invocation.command()
    parser = Parser(
        own,
        "用 Qwen3-VL 当大脑的 QQ 机器人服务器",
        "%(prog)s [命令] [参数…]",
        f"全部参数：{own} serve --help；同样的设置也能写进 qqvl.yaml（见 qqvl.example.yaml）或 QQVL_… 环境变量。",
    )
    commands = parser.add_argument_group("命令")
    for name, text in COMMANDS.items():
        commands.add_argument(name, nargs="?", metavar=name, help=text)
    knobs = {knob.name: knob for knob in config.knobs()}
    for title, names in EVERYDAY.items():
        group = parser.add_argument_group(title)
        for name in names:
            _add(group, knobs[name])
    parser.add_others()
    return parser


def _settings(name: str) -> Parser:
    parser = Parser(invocation.command(name), COMMANDS[name], f"%(prog)s {own_flags.FILES.get(name, '')}[参数…]")
    if name in own_flags.OWN:
        own_flags.OWN[name](parser)
    parser.add_argument_group("设置文件").add_argument(
        "--config", metavar="文件", help="设置文件，默认是当前文件夹或项目根目录下的 qqvl.yaml"
    )
    groups = {section: parser.add_argument_group(title) for section, title in SECTIONS.items()}
    for knob in config.knobs():
        if not knob.in_file_only:
            _add(groups[knob.section], knob)
    parser.add_others()
    return parser


def _setup() -> Parser:
    parser = Parser(invocation.command("setup"), COMMANDS["setup"], "%(prog)s [参数…]")
    group = parser.add_argument_group("参数")
    group.add_argument("--config", metavar="文件", help="写到哪里，默认是项目根目录下的 qqvl.yaml")
    group.add_argument("-y", "--yes", action="store_true", help="什么都不问，都用默认的")
    group.add_argument("--force", action="store_true", help="已有的文件也改；别的设置留着，原来的另存为 .bak")
    parser.add_others()
    return parser


def _download() -> Parser:
    parser = Parser(invocation.command("download"), COMMANDS["download"], "%(prog)s 模型名 [参数…]")
    group = parser.add_argument_group("参数")
    group.add_argument("model", metavar="模型名", help=f"作者/名字，如 Qwen/{PREFERRED}")
    group.add_argument(
        "--from", dest="source", choices=("modelscope", "hf"), default="modelscope",
        help="从哪里下载：modelscope（默认）或 hf（Hugging Face）",
    )  # fmt: skip
    group.add_argument("--into", metavar="文件夹", help="放到哪里，默认 models/<模型名>")
    parser.add_others()
    return parser


def _try() -> Parser:
    parser = Parser(invocation.command("try"), COMMANDS["try"], "%(prog)s 脚本.json [参数…]")
    group = parser.add_argument_group("参数")
    group.add_argument("script", metavar="脚本.json", help="在网页的“试一个群”里存下来的，写法见 docs/page.md")
    group.add_argument(
        "--url", metavar="地址", help="在哪个服务器上演，如 http://127.0.0.1:9999；不写就自己起一个，数据用完就删，"
        "别的参数（如 --model-path）都交给它",
    )  # fmt: skip
    group.add_argument("--key", metavar="密钥", help="那个服务器的密钥，也可以写在 QQVL_API_KEY 里；在本机不用写")
    group.add_argument("--data-dir", dest="data_dir", metavar="文件夹", help="那个服务器的数据目录，默认 data/")
    parser.add_others()
    return parser


def _add(group: argparse._ArgumentGroup, knob: config.Knob) -> None:
    text = (knob.info.description or "").replace("%", "%%")
    group.add_argument(
        *knob.flags,
        dest=knob.name,
        metavar="值",
        action="append" if knob.is_list else "store",
        nargs="?" if knob.is_switch else None,
        const="true" if knob.is_switch else None,
        help=f"{text}（默认 {_shown(knob)}）",
    )


def _shown(knob: config.Knob) -> str:
    default = knob.info.default
    if default in ("", None, ()):
        return "空"
    text = str(default)
    return (text if len(text) <= 40 else text[:40] + "…").replace("%", "%%")
