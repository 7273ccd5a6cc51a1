"""argv, environment and file become settings and one of ``flags.COMMANDS``."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import urllib.parse
from collections.abc import Mapping, Sequence
from pathlib import Path

from qqvl_server import config, flags, invocation, overrides, setting_up, signin
from qqvl_server.errors import ConfigError, QqvlError, WeightsError
from qqvl_server.hosts import is_loopback
from qqvl_server.observe import logs
from qqvl_server.openmp import bound_spinning
from qqvl_server.process import (
    EXIT_CONFIG,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_WEIGHTS,
    end,
    end_when_asked,
    is_answering,
    leave,
)
from qqvl_server.weights.extras import check_extras
from qqvl_server.weights.locate import DEMO, PREFERRED, Checkpoint, locate, resume


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the process's exit status: 0 fine, 2 settings, 3 weights, else 1."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    bound_spinning()
    try:
        try:
            status = _dispatch(arguments, os.environ)
        except SystemExit as asked:
            # argparse has printed its help.
            status = int(asked.code or 0)
        sys.stdout.flush()
    except QqvlError as error:
        print(f"错误：{error.message}", file=sys.stderr)
        if isinstance(error, WeightsError):
            return EXIT_WEIGHTS
        return EXIT_CONFIG if isinstance(error, ConfigError) else EXIT_FAILED
    except BrokenPipeError:
        # ``show-config | head`` has seen enough; the interpreter would complain when it flushes at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OK
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return status


def _dispatch(arguments: list[str], env: Mapping[str, str]) -> int:
    parsed = flags.parse(arguments)
    if parsed.command == "download":
        return _download(parsed.model, parsed.source, parsed.into)
    if parsed.command == "try":
        return _try(parsed, env)
    if parsed.command == "setup":
        named = parsed.config or env.get("QQVL_CONFIG")
        return setting_up.run(Path(named) if named else None, is_asked=not parsed.yes, force=parsed.force)
    typed = {k.name: getattr(parsed, k.name, None) for k in config.knobs()}
    given = {
        name: ",".join(value) if isinstance(value, list) else value
        for name, value in typed.items()
        if value is not None
    }
    file = _settings_file(parsed.config, env)
    if parsed.command == "doctor":
        # Imported late: it knows the database.
        from qqvl_server.doctor import command

        return command.run(parsed, file, env, lambda: config.resolve(given, env, file))
    resolved = config.resolve(given, env, file)
    if resolved.advice:
        _tell(f"注意：{resolved.advice}")
    if parsed.command == "show-config":
        return _show(_with_page(resolved))
    if parsed.command == "page":
        return _page(_data_dir(resolved))
    if parsed.command in flags.KEEPING:
        # Imported late: it knows the database.
        from qqvl_server.keeping import command as keeping

        return keeping.run(parsed, keeping.places(resolved, _data_dir(resolved), file, env))
    if parsed.command == "label-lines":
        return _label(resolved, parsed.file, parsed.group, parsed.count)
    if parsed.command == "calibrate-gate":
        return _calibrate(resolved, parsed.files, parsed.rate, parsed.into)
    return _serve(resolved, env)


def _settings_file(given: str | None, env: Mapping[str, str]) -> Path | None:
    named = given or env.get("QQVL_CONFIG")
    if named:
        return Path(named)
    for folder in (Path.cwd(), config.project_root()):
        if (folder / "qqvl.yaml").is_file():
            return folder / "qqvl.yaml"
    return None


def _with_page(resolved: config.Resolved) -> config.Resolved:
    """And what was changed in the browser, where there is a database to ask."""
    # Imported late: the database's library takes its time.
    from qqvl_server.chat.page_settings import kept_at
    from qqvl_server.chat.store import sqlite_url

    settings = resolved.settings
    url = settings.storage.database_url or sqlite_url(_data_dir(resolved))
    return overrides.over(resolved, kept_at(url))


def _show(resolved: config.Resolved) -> int:
    for knob in config.knobs():
        value = getattr(getattr(resolved.settings, knob.section), knob.name)
        shown = "******" if knob.key in config.SECRET and value else repr(value)
        print(f"{knob.key} = {shown}    # {resolved.sources[knob.key]}")
    return EXIT_OK


def _serve(resolved: config.Resolved, env: Mapping[str, str]) -> int:
    settings = resolved.settings
    end_when_asked()
    if env.get("QQVL_API_KEY") and not settings.server.api_keys:
        _tell("注意：QQVL_API_KEY 是客户端的变量，服务器的密钥写在 QQVL_API_KEYS 里；现在服务器没有密钥。")
    logs.configure(settings.observe.log_level, settings.observe.log_format)
    check_extras(settings.weights)
    root = config.project_root()
    checkpoint = locate(settings.weights.model_path, root)
    if checkpoint.instead_of:
        _tell(f"注意：{checkpoint.instead_of}")
    if checkpoint.is_demo:
        _announce_demo(checkpoint)
    # Imported late: reading settings must not wait for the web framework.
    from qqvl_server import app

    return end(app.serve(resolved, checkpoint, _data_dir(resolved)))


def _data_dir(resolved: config.Resolved) -> Path:
    named = resolved.settings.storage.data_dir
    return Path(named) if named else config.project_root() / "data"


def _page(data_dir: Path) -> int:
    found = signin.running(data_dir)
    if found is None or not is_answering(found.url):
        raise QqvlError(f"没有服务器在用数据目录 {data_dir}：先启动它，或用 --data-dir 指明它的数据目录")
    if not is_loopback(urllib.parse.urlsplit(found.url).hostname or ""):
        _tell("这台服务器不听本机地址：打开下面的网址，用有 admin 权限的密钥登录。")
        print(f"{found.url}/")
        return EXIT_OK
    print(f"{found.url}/?token={found.sign_in.link_token()}")
    return EXIT_OK


def _try(parsed: argparse.Namespace, env: Mapping[str, str]) -> int:
    # Imported late: an HTTP client takes its time.
    from qqvl_server.trying import command

    data_dir = Path(parsed.data_dir) if parsed.data_dir else config.project_root() / "data"
    return command.run(Path(parsed.script), parsed.url, parsed.key or env.get("QQVL_API_KEY"), data_dir, parsed.rest)


def _label(resolved: config.Resolved, file: Path, group: str | None, count: int) -> int:
    from qqvl_server import labelling
    from qqvl_server.chat.store import sqlite_url

    settings, data_dir = resolved.settings, _data_dir(resolved)
    if not settings.storage.database_url and not (data_dir / "qqvl.sqlite3").is_file():
        raise ConfigError(f"{data_dir} 里还没有聊天记录；让机器人先在群里听一阵，或用 --data-dir 指对文件夹")
    logs.configure("warning", settings.observe.log_format)
    print(labelling.label(settings.storage.database_url or sqlite_url(data_dir), file, group, count))
    return EXIT_OK


def _calibrate(resolved: config.Resolved, files: Sequence[Path], rate: float, into: Path | None) -> int:
    from qqvl_server import calibrating

    settings = resolved.settings
    if not 0 < rate <= 0.5:
        raise ConfigError("--rate 要在 0 到 0.5 之间，如 0.05：每一百句插五句")
    logs.configure(settings.observe.log_level, settings.observe.log_format)
    check_extras(settings.weights)
    checkpoint = locate(settings.weights.model_path, config.project_root())
    if checkpoint.instead_of:
        _tell(f"注意：{checkpoint.instead_of}")
    print(calibrating.calibrate(settings, checkpoint, _data_dir(resolved), files, rate, into))
    return EXIT_OK


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _announce_demo(checkpoint: Checkpoint) -> None:
    _tell(f"正在使用自带的演示模型 {checkpoint.name}：只认颜色、形状、数量，记得名字，会调简单工具。")
    if not checkpoint.instead_of:
        _tell(
            "要真正聊天，请下载 Qwen3-VL（8B 约 17 GB，需要显卡）："
            f"{invocation.command('download', f'Qwen/{PREFERRED}')}\n"
            "下载完重新启动即可自动使用；别的型号用 --model-path 指定。"
        )


def _download(model: str, source: str, into: str | None) -> int:
    from qqvl_server.weights import download

    folder = Path(into) if into else config.project_root() / "models" / model.rstrip("/").split("/")[-1]

    def interrupted(*_: object) -> None:
        demo = invocation.command("--model-path", f"models/{DEMO}")
        _tell(f"\n已中断。接着下载：{resume(model, source, folder)}；先用演示模型：{demo}")
        # The hubs' threads would go on until their files are whole; what they have is kept.
        leave(EXIT_INTERRUPTED)

    signal.signal(signal.SIGINT, interrupted)
    download.fetch(model, "hf" if source == "hf" else "modelscope", folder)
    print(f"下载完成，已校验：{folder}")
    if folder.name != PREFERRED:
        print(f"用它启动：{invocation.command('--model-path', str(folder))}")
    return EXIT_OK
