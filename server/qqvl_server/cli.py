"""argv, environment and file become settings and a command: serve | download | show-config."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from qqvl_server import config
from qqvl_server.errors import ConfigError, QqvlError, WeightsError
from qqvl_server.observe import logs
from qqvl_server.process import EXIT_CONFIG, EXIT_FAILED, EXIT_OK, EXIT_WEIGHTS, end, end_when_asked
from qqvl_server.weights.locate import PREFERRED, Checkpoint, locate


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        flag, _, rest = message.removeprefix("argument ").partition(":")
        if message.startswith("unrecognized arguments"):
            raise ConfigError(f"不认识的参数：{rest.strip()}；用 --help 看全部参数")
        if "expected one argument" in rest:
            raise ConfigError(f"{flag} 后面要跟一个值")
        raise ConfigError(f"命令行不对（{message}）；用 --help 看用法")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the process's exit status: 0 fine, 2 settings, 3 weights, else 1."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return _dispatch(arguments, os.environ)
    except QqvlError as error:
        print(f"错误：{error.message}", file=sys.stderr)
        if isinstance(error, WeightsError):
            return EXIT_WEIGHTS
        return EXIT_CONFIG if isinstance(error, ConfigError) else EXIT_FAILED
    except KeyboardInterrupt:
        return 130


def _dispatch(arguments: list[str], env: Mapping[str, str]) -> int:
    parsed = _parser().parse_args(arguments if _names_command(arguments) else ["serve", *arguments])
    if parsed.command == "download":
        return _download(parsed.model, parsed.source, parsed.into)
    typed = {k.name: getattr(parsed, k.name, None) for k in config.knobs()}
    flags = {
        name: ",".join(value) if isinstance(value, list) else value
        for name, value in typed.items()
        if value is not None
    }
    resolved = config.resolve(flags, env, _settings_file(parsed.config, env))
    if parsed.command == "show-config":
        return _show(resolved)
    return _serve(resolved)


def _names_command(arguments: list[str]) -> bool:
    return bool(arguments) and (
        arguments[0] in ("serve", "download", "show-config") or arguments[0] in ("-h", "--help")
    )


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="qqvl", description="用 Qwen3-VL 当大脑的 QQ 机器人服务器", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", parser_class=_Parser)
    for name, text in (("serve", "启动服务器（不写命令时就是它）"), ("show-config", "列出每个设置的值和它从哪里来")):
        command = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        command.add_argument("--config", metavar="文件", help="设置文件，默认是项目根目录下的 qqvl.yaml")
        for knob in config.knobs():
            if not knob.in_file_only:
                text = (knob.info.description or "").replace("%", "%%")
                command.add_argument(
                    *knob.flags,
                    dest=knob.name,
                    metavar="值",
                    action="append" if knob.is_list else "store",
                    help=f"{text}（默认 {_shown(knob)}）",
                )
    download = commands.add_parser("download", help="下载模型到 models/", allow_abbrev=False)
    download.add_argument("model", help=f"模型名，如 Qwen/{PREFERRED}")
    download.add_argument("--from", dest="source", choices=("modelscope", "hf"), default="modelscope")
    download.add_argument("--into", metavar="文件夹", help="放到哪里，默认 models/<模型名>")
    return parser


def _shown(knob: config.Knob) -> str:
    default = knob.info.default
    if default in ("", None, ()):
        return "空"
    text = str(default)
    return (text if len(text) <= 40 else text[:40] + "…").replace("%", "%%")


def _settings_file(given: str | None, env: Mapping[str, str]) -> Path | None:
    named = given or env.get("QQVL_CONFIG")
    if named:
        return Path(named)
    for folder in (Path.cwd(), config.project_root()):
        if (folder / "qqvl.yaml").is_file():
            return folder / "qqvl.yaml"
    return None


def _show(resolved: config.Resolved) -> int:
    for knob in config.knobs():
        value = getattr(getattr(resolved.settings, knob.section), knob.name)
        shown = "******" if knob.key in config.SECRET and value else repr(value)
        print(f"{knob.key} = {shown}    # {resolved.sources[knob.key]}")
    return EXIT_OK


def _serve(resolved: config.Resolved) -> int:
    settings = resolved.settings
    end_when_asked()
    logs.configure(settings.observe.log_level, settings.observe.log_format)
    root = config.project_root()
    checkpoint = locate(settings.weights.model_path, root)
    if checkpoint.is_demo:
        _announce_demo(checkpoint)
    # Imported late: reading settings must not wait for the web framework.
    from qqvl_server import app

    data_dir = Path(settings.storage.data_dir) if settings.storage.data_dir else root / "data"
    return end(app.serve(settings, checkpoint, data_dir))


def _announce_demo(checkpoint: Checkpoint) -> None:
    print(
        f"正在使用自带的演示模型 {checkpoint.name}：只认颜色、形状、数量，记得名字，会调简单工具。\n"
        f"要真正聊天，请下载 Qwen3-VL（8B 约 17 GB，需要显卡）：./run_server.sh download Qwen/{PREFERRED}\n"
        f"下载完重新启动即可自动使用；别的型号用 --model-path 指定。",
        file=sys.stderr,
        flush=True,
    )


def _download(model: str, source: str, into: str | None) -> int:
    from qqvl_server.weights import download

    folder = Path(into) if into else config.project_root() / "models" / model.rstrip("/").split("/")[-1]
    download.fetch(model, "hf" if source == "hf" else "modelscope", folder)
    print(f"下载完成，已校验：{folder}")
    return EXIT_OK
