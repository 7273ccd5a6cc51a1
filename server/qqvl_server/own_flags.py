"""What single commands take besides the settings."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final


def _calibrating(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("校准")
    group.add_argument("files", metavar="文件", nargs="+", type=Path, help="标好的话，JSONL，见 docs/bot.md")
    group.add_argument(
        "--rate", metavar="值", type=float, default=0.05, help="多大比例的话之后插话，0 到 0.5（默认 0.05）"
    )
    group.add_argument("--into", metavar="文件", type=Path, help="写到哪里，默认 data_dir 下的 gates/")


def _labelling(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("标注")
    group.add_argument("file", metavar="文件", type=Path, help="记到哪个 JSONL 文件；有了就接着标")
    group.add_argument("--group", metavar="群号", help="只标这个群，默认所有的群")
    group.add_argument("--count", metavar="值", type=int, default=100, help="这次最多问多少句（默认 100）")


def _backing_up(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("备份")
    group.add_argument(
        "file", metavar="文件", nargs="?", type=Path, help="写到哪里，默认当前文件夹的 qqvl-时间.qqvl.tar"
    )
    _add_json(group)


def _restoring(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("恢复")
    group.add_argument("file", metavar="文件", type=Path, help="backup 写的文件")
    _add_json(group)


def _exporting(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("导出")
    group.add_argument("chat", metavar="会话", help="group:群号 或 private:QQ号")
    group.add_argument("file", metavar="文件", nargs="?", type=Path, help="写到哪里，默认打印出来")
    group.add_argument("--no-pictures", dest="pictures", action="store_false", help="不带图片")


def _importing(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("导入")
    group.add_argument("file", metavar="文件", type=Path, help="export 写的文件")
    group.add_argument("--into", metavar="会话", help="读成哪个会话，如 group:123456，默认原来的")
    group.add_argument("--replace", action="store_true", help="已经有这个会话时，先删掉原来的")
    _add_json(group)


def _forgetting(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("忘掉")
    group.add_argument("person", metavar="QQ号", help="忘掉谁")
    group.add_argument("-y", "--yes", action="store_true", help="不再问一遍")
    group.add_argument("--dry-run", action="store_true", help="只数一数有多少，什么都不动")
    _add_json(group)


def _examining(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("体检")
    group.add_argument("--json", action="store_true", help="写成 JSON，给程序看；有不行的退出码是 1，没有是 0")
    group.add_argument("--no-send", dest="send", action="store_false", help="不用机器人的号给它自己发一条消息")
    group.add_argument("--picture", metavar="网址", help="试着取哪张图片，默认是机器人自己的头像")


def _add_json(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--json", action="store_true", help="结果写成 JSON，给程序看")


OWN: Final = {
    "calibrate-gate": _calibrating, "label-lines": _labelling, "backup": _backing_up, "restore": _restoring,
    "export": _exporting, "import": _importing, "forget": _forgetting, "doctor": _examining,
}  # fmt: skip
FILES: Final = {
    "calibrate-gate": "文件… ", "label-lines": "文件 ", "backup": "[文件] ", "restore": "文件 ",
    "export": "会话 [文件] ", "import": "文件 ", "forget": "QQ号 ",
}  # fmt: skip
