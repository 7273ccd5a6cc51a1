"""argv, environment and file become settings and one of ``flags.COMMANDS``."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import urllib.parse
from collections.abc import Mapping, Sequence
from pathlib import Path

from qqvl_server import config, derived, flags, invocation, language, overrides, setting_up, signin
from qqvl_server.errors import ConfigError, QqvlError, WeightsError
from qqvl_server.hosts import is_loopback
from qqvl_server.language import told
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
from qqvl_server.settings import Settings
from qqvl_server.weights.extras import check_extras
from qqvl_server.weights.locate import DEMO, PREFERRED, Checkpoint, elsewhere, locate, resume


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the process's exit status: 0 fine, 2 settings, 3 weights, else 1."""
    with language.spoken(sys.argv[1:] if argv is None else argv, os.environ) as arguments:
        return _main(arguments)


def _main(arguments: list[str]) -> int:
    bound_spinning()
    try:
        try:
            status = _dispatch(arguments, os.environ)
        except SystemExit as asked:
            # argparse has printed its help.
            status = int(asked.code or 0)
        sys.stdout.flush()
    except QqvlError as error:
        print(told(f"错误：{error.message}"), file=sys.stderr)
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
    file = config.settings_file(parsed.config, env)
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
        return _page(config.data_dir(resolved))
    if parsed.command == "trace":
        return _trace(resolved, parsed, file, env)
    if parsed.command in flags.KEEPING:
        # Imported late: it knows the database.
        from qqvl_server.keeping import command as keeping

        return keeping.run(parsed, keeping.places(resolved, config.data_dir(resolved), file, env))
    if parsed.command == "label-lines":
        return _label(resolved, parsed.file, parsed.group, parsed.count)
    if parsed.command == "calibrate-gate":
        return _calibrate(resolved, parsed.files, parsed.rate, parsed.into)
    return _serve(resolved, env)


def _with_page(resolved: config.Resolved) -> config.Resolved:
    """And what was changed in the browser, where there is a database to ask."""
    # Imported late: the database's library takes its time.
    from qqvl_server.chat.page_settings import kept_at
    from qqvl_server.chat.store import sqlite_url

    settings = resolved.settings
    url = settings.storage.database_url or sqlite_url(config.data_dir(resolved))
    return overrides.over(resolved, kept_at(url))


def _show(resolved: config.Resolved) -> int:
    for knob in config.knobs():
        value = getattr(getattr(resolved.settings, knob.section), knob.name)
        shown = "******" if knob.key in config.SECRET and value else repr(value)
        print(f"{knob.key} = {shown}    # {told(resolved.sources[knob.key])}")
    return EXIT_OK


def _serve(resolved: config.Resolved, env: Mapping[str, str]) -> int:
    settings = resolved.settings
    end_when_asked()
    if env.get("QQVL_API_KEY") and not settings.server.api_keys:
        _tell("注意：QQVL_API_KEY 是客户端的变量，服务器的密钥写在 QQVL_API_KEYS 里；现在服务器没有密钥。")
    logs.configure(settings.observe)
    checkpoint = _checkpoint(settings)
    if checkpoint.is_demo:
        _announce_demo(checkpoint)
    derived.keep_in(config.data_dir(resolved))
    # Imported late: reading settings must not wait for the web framework.
    if settings.cluster.replicas:
        from qqvl_server import cluster

        return end(cluster.serve(resolved, checkpoint, config.data_dir(resolved)))
    from qqvl_server import app

    return end(app.serve(resolved, checkpoint, config.data_dir(resolved)))


def _checkpoint(settings: Settings) -> Checkpoint:
    """The model that is to be loaded, here or elsewhere. Raises WeightsError, ConfigError."""
    weights, root = settings.weights, config.project_root()
    if settings.engine.engine == "upstream":
        if not settings.upstream.upstream_url:
            raise ConfigError("engine: upstream 还要写上游的网址，如 --upstream-url http://10.0.0.5:8000/v1")
        return elsewhere(settings.upstream.upstream_model or "upstream", weights.model_path, root)
    check_extras(weights)
    checkpoint = locate(weights.model_path, root)
    if checkpoint.instead_of:
        _tell(f"注意：{checkpoint.instead_of}")
    return checkpoint


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
    key = parsed.key or env.get("QQVL_API_KEY")
    if parsed.saved:
        if parsed.script or parsed.rest:
            raise ConfigError(f"--saved 演服务器上存着的，不能和 {(parsed.script or parsed.rest[0])} 一起用")
        return command.run_saved(parsed.saved, parsed.url, key, data_dir)
    if not parsed.script:
        raise ConfigError("要写脚本文件，或用 --saved 写网页里存下的名字（--saved all 是全部）")
    return command.run(Path(parsed.script), parsed.url, key, data_dir, parsed.rest)


def _trace(resolved: config.Resolved, parsed: argparse.Namespace, file: Path | None, env: Mapping[str, str]) -> int:
    # Imported late: the database's library takes its time.
    from qqvl_server import tracing
    from qqvl_server.keeping.places import places

    where = places(resolved, config.data_dir(resolved), file, env)
    folders = [where.data, parsed.client_data_dir or where.client]
    found = tracing.stories(where.url, folders, parsed.message_id, parsed.chat)
    if not found:
        raise tracing.nothing(folders, parsed.message_id)
    print(tracing.as_json(found) if parsed.json else tracing.render(found, parsed.message_id))
    return EXIT_OK


def _label(resolved: config.Resolved, file: Path, group: str | None, count: int) -> int:
    from qqvl_server import labelling
    from qqvl_server.chat.store import sqlite_url

    settings, data_dir = resolved.settings, config.data_dir(resolved)
    if not settings.storage.database_url and not (data_dir / "qqvl.sqlite3").is_file():
        raise ConfigError(f"{data_dir} 里还没有聊天记录；让机器人先在群里听一阵，或用 --data-dir 指对文件夹")
    logs.configure(settings.observe.model_copy(update={"log_level": "warning"}))
    print(labelling.label(settings.storage.database_url or sqlite_url(data_dir), file, group, count))
    return EXIT_OK


def _calibrate(resolved: config.Resolved, files: Sequence[Path], rate: float, into: Path | None) -> int:
    from qqvl_server import calibrating

    settings = resolved.settings
    if not 0 < rate <= 0.5:
        raise ConfigError("--rate 要在 0 到 0.5 之间，如 0.05：每一百句插五句")
    logs.configure(settings.observe)
    checkpoint = _checkpoint(settings)
    derived.keep_in(config.data_dir(resolved))
    print(calibrating.calibrate(settings, checkpoint, config.data_dir(resolved), files, rate, into))
    return EXIT_OK


def _tell(text: str) -> None:
    print(told(text), file=sys.stderr, flush=True)


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
    print(told(f"下载完成，已校验：{folder}"))
    if folder.name != PREFERRED:
        print(told(f"用它启动：{invocation.command('--model-path', str(folder))}"))
    return EXIT_OK
