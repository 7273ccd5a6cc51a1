"""Every setting of the client: flag > environment > qqvl.yaml `client:` > ncatbot's config.yaml > default."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)

from qqvl_client.errors import SettingsError
from qqvl_client.files import read_yaml
from qqvl_client.invocation import LAUNCHER
from qqvl_client.mistakes import meant, near, one_line
from qqvl_client.server_variables import SERVER_VARIABLES

ROOT = Path(__file__).resolve().parents[2]
PROJECT = ROOT if (ROOT / "client").is_dir() else Path.cwd()
"""The checkout this file lies in, or the working directory when the package was installed elsewhere."""
ENV_PREFIX = "QQVL_CLIENT_"
ENV_SHORT = {"SERVER_URL": "server_url", "QQVL_API_KEY": "api_key"}
# The settings file of both programs, what the scripts read, and what the server's tests plant.
OTHER_ENV = frozenset(("QQVL_CONFIG", "QQVL_TORCH", "QQVL_PLANT_FAULT", LAUNCHER)) | SERVER_VARIABLES


def _ids(value: Any) -> Any:
    """QQ ids: a list, one number, or several in one string."""
    items = re.split(r"[,，、\s]+", value.strip()) if isinstance(value, str) else value
    items = items if isinstance(items, list | tuple) else [items]
    ids = tuple(str(item).strip() for item in items if item not in ("", None))
    if not all(found.isascii() and found.isdecimal() for found in ids):
        raise ValueError("要写 QQ 号，多个用逗号隔开")
    return ids


class Settings(BaseModel):
    """The client's settings, checked. Seconds end in `_s`, megabytes in `_mb`."""

    model_config = ConfigDict(frozen=True, extra="forbid", coerce_numbers_to_str=True)

    adapter: Literal["ncatbot", "nonebot"] = Field("ncatbot", description="用哪个框架连 QQ")
    server_url: str = Field("http://127.0.0.1:9999", description="对话服务器地址")
    api_key: SecretStr = Field(SecretStr(""), description="对话服务器的密钥，没有就留空")
    napcat_ws_url: str = Field("ws://127.0.0.1:3001", description="NapCat 的 WebSocket 服务器地址")
    napcat_token: SecretStr = Field(SecretStr(""), description="NapCat 的 token")
    bot_qq: str = Field("", description="机器人的 QQ 号；留空则由 NapCat 告知")
    nonebot_mode: Literal["forward", "reverse"] = Field("forward", description="NoneBot 主动去连，还是等对方来连")
    listen_host: str = Field("127.0.0.1", description="反向 WebSocket 的监听地址")
    listen_port: int = Field(8080, ge=0, le=65535, description="反向 WebSocket 的监听端口")
    owners: Annotated[tuple[str, ...], BeforeValidator(_ids)] = Field(
        (), description="主人的 QQ 号，可写多个，用逗号隔开；留空则用服务器的 chat.owners（QQVL_OWNERS）"
    )
    auto_accept: bool = Field(False, description="好友申请、入群邀请自动同意；否则问主人")
    answer_temporary: bool = Field(True, description="回答陌生人的群临时会话；否则不理会（主人除外）")
    poke_calls: bool = Field(False, description="戳一戳机器人算叫它；否则只作历史")
    proxy: str = Field("", description="取图片、连非本机服务器时用的代理；环境里的代理变量不用")
    data_dir: Path = Field(PROJECT / "data" / "client", description="日志与流水账放在哪里")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="日志详细程度")
    log_format: Literal["console", "json"] = Field("console", description="屏幕上的日志：给人看，或一行一个 JSON")
    log_text: bool = Field(False, description="日志里也写群友说的话；默认只写谁、哪个群、答没答、多久")
    log_file_mb: float = Field(5, ge=0, description="日志文件多大就换一个，MB；0 不写文件")
    log_files: int = Field(3, ge=1, description="换下来的日志文件留几个")
    metrics_address: str = Field("", description="在哪给 Prometheus 看指标，如 127.0.0.1:9998；留空不给看")

    connect_timeout_s: float = Field(5, gt=0, description="连接服务器、图片主机、NapCat 最多等多久")
    server_timeout_s: float = Field(300, gt=0, description="一次请求最多等服务器多久")
    answer_within_s: float = Field(300, gt=0, description="服务器连不上或太忙时，一条消息最多重试多久")
    retry_base_s: float = Field(0.5, gt=0, description="第一次重试前大约等多久")
    retry_max_s: float = Field(5, gt=0, description="两次重试之间最多等多久")
    lost_answer_retries: int = Field(2, ge=0, description="答复丢失时再问几次（靠 message_id 不会重复回答）")
    parallel_chats: int = Field(32, ge=1, description="同时向服务器提问的聊天数")
    posts_per_chat: int = Field(32, ge=1, description="一个聊天最多有多少条消息同时在等服务器答复，再多就排队")
    catch_up: bool = Field(True, description="重新连上时，补上断线期间的消息（每个聊天最多一百条）")
    max_age_s: float = Field(300, gt=0, description="到手时已超过这么久的消息只作历史，不回答")
    waiting_per_chat: int = Field(500, ge=1, description="一个聊天最多有多少条消息排队，再多就略过最早的")
    stream: bool = Field(True, description="服务器写好一条就先发一条，不等整个回复写完")
    answers_waiting: int = Field(50, ge=0, description="后面排队超过这么多条时，没有 @ 机器人的群消息只作历史，不回答")
    notices: bool = Field(True, description="出故障时是否告诉提问的人")
    notice_gap_s: float = Field(60, ge=0, description="同一聊天两次故障提示至少隔多久")

    action_timeout_s: float = Field(20, gt=0, description="发送一条消息最多等 NapCat 多久")
    lookup_timeout_s: float = Field(5, gt=0, description="查群名、引用等最多等 NapCat 多久")
    send_within_s: float = Field(1800, gt=0, description="线路断开时，写好的回复最多留多久")
    send_gap_s: float = Field(0.2, ge=0, description="两次发送之间至少隔多久（另加随机量）")
    part_gap_s: float = Field(1.0, ge=0, description="一条长回复的两段之间至少隔多久")
    verify_wait_s: float = Field(3, ge=0, description="发送结果不明时，隔多久去聊天记录里核对")
    typing_chars_per_s: float = Field(30, ge=0, description="像打字一样，每秒出多少字才发下一条；0 不等")
    typing_max_s: float = Field(5, ge=0, description="为打字最多等多久")
    sends_per_minute: int = Field(20, ge=1, description="一个聊天每分钟最多发几条，再多就等")
    max_text_chars: int = Field(4500, ge=100, description="QQ 一条消息最多多少字，更长的分段")
    parts_per_reply: int = Field(8, ge=1, description="一条回复最多分几段发，再长就截断并说明")
    at_asker: bool = Field(False, description="群里回复时 @ 提问的人")
    quote_in_groups: bool = Field(True, description="群里回复时引用提问的消息")

    picture_timeout_s: float = Field(30, gt=0, description="取一张图片最多多久")
    picture_stall_s: float = Field(10, gt=0, description="取图片时多久没有数据就放弃")
    picture_max_mb: float = Field(15, gt=0, description="一张图片最大多少 MB")
    picture_redirects: int = Field(3, ge=0, description="取图片最多跟随几次跳转")
    pictures_per_message: int = Field(16, ge=0, description="一条消息最多取几张图片")
    pictures_in_forwards: int = Field(4, ge=0, description="其中合并转发里的图片最多几张")
    message_max_mb: float = Field(22, gt=0, description="一条消息的图片合计最大多少 MB；服务器的 max_body_mb 要装得下")

    reconnect_base_s: float = Field(0.5, gt=0, description="断线后第一次重连前大约等多久")
    reconnect_max_s: float = Field(10, gt=0, description="两次重连之间最多等多久")
    ping_interval_s: float = Field(15, gt=0, description="隔多久探一次线路")
    ping_timeout_s: float = Field(15, gt=0, description="探测多久没有回应就算断线")
    max_frame_mb: float = Field(64, gt=0, description="NapCat 一帧最大多少 MB")
    watch_every_s: float = Field(60, gt=0, description="隔多久察看一次 QQ 线路和服务器；两次不应就断开重连")
    alert_after_s: float = Field(120, ge=0, description="线路或服务器断了这么久就通知主人，好了再说一声")
    alert_url: SecretStr = Field(
        SecretStr(""), description="QQ 线路断了时用 POST 通知的网址（JSON），如 Bark、Server 酱、ntfy 的；留空不通知"
    )
    stop_grace_s: float = Field(5, ge=0, description="收到停止信号后，最多再等多久把手上的消息答完")
    journal_keep_h: float = Field(48, gt=0, description="流水账里已答完的消息留多久（用来认出重复）")

    @field_validator("server_url", "napcat_ws_url", mode="after")
    @classmethod
    def _address(cls, value: str, info: Any) -> str:
        web = info.field_name == "server_url"
        schemes = ("http", "https") if web else ("ws", "wss")
        full = value if "://" in value else f"{schemes[0]}://{value}"
        parts = urlsplit(full)
        if parts.scheme not in schemes or not parts.hostname:
            raise ValueError(f"要写成 {schemes[0]}://主机:端口")
        # Addresses are logged; secrets have settings of their own, which are not.
        if parts.username or parts.password or parts.query:
            raise ValueError("地址里不要带密码或 token，它们有自己的设置（napcat_token、api_key）")
        return full.rstrip("/")

    @field_validator("metrics_address", mode="after")
    @classmethod
    def _place(cls, value: str) -> str:
        try:
            parts = urlsplit(f"//{value}")
            if not value or (parts.hostname and parts.port is not None and parts.netloc == value):
                return value
        except ValueError:
            pass
        raise ValueError("要写成 地址:端口，如 127.0.0.1:9998")

    @model_validator(mode="after")
    def _wide_listener_needs_a_token(self) -> Settings:
        reverse = self.adapter == "nonebot" and self.nonebot_mode == "reverse"
        if reverse and not is_loopback(self.listen_host) and not self.napcat_token.get_secret_value():
            raise ValueError("listen_host 不是本机地址时必须设置 napcat_token")
        return self

    @property
    def adapter_address(self) -> str:
        """Where QQ is reached: what tells one bot from another before either has spoken."""
        reverse = self.adapter == "nonebot" and self.nonebot_mode == "reverse"
        return f"{self.listen_host}:{self.listen_port}" if reverse else self.napcat_ws_url

    @property
    def log_folder(self) -> Path:
        """Beside the server's, or in a data folder that was chosen: it can be written to."""
        is_default = self.data_dir == type(self).model_fields["data_dir"].default
        return PROJECT / "data" / "logs" if is_default else self.data_dir / "logs"

    @property
    def secrets(self) -> tuple[str, ...]:
        return tuple(one.get_secret_value() for one in (self.api_key, self.napcat_token, self.alert_url))


def is_loopback(host: str | None) -> bool:
    """Whether a host name or literal address means this machine."""
    if host is None or host.lower() == "localhost":
        return host is not None
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def load(env: Mapping[str, str], flags: Mapping[str, Any], config: Path | None = None) -> Settings:
    """Merge every source and check the result; raises SettingsError with one readable line."""
    _refuse_unknown(env)
    named = config or (Path(env["QQVL_CONFIG"]) if env.get("QQVL_CONFIG") else None)
    file = _file(named)
    owners = _servers_owners(env, file)
    values = {"owners": owners, **_from_ncatbot(env), **_from_yaml(named, file), **_from_env(env), **flags}
    if "data_dir" in values:
        values["data_dir"] = PROJECT / Path(str(values["data_dir"])).expanduser()
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise SettingsError(one_line(error, Settings.model_fields)) from None


def variables() -> frozenset[str]:
    """The names of the environment variables that are settings of the client."""
    return frozenset(ENV_SHORT) | {ENV_PREFIX + field.upper() for field in Settings.model_fields}


def _refuse_unknown(env: Mapping[str, str]) -> None:
    """Every name is known as a whole: a token misspelt must not start a client that is refused everywhere."""
    own = variables()
    for name in env:
        if name.upper().startswith("QQVL") and name not in own | OTHER_ENV:
            hint = near(name.upper(), own, 0.85) or meant(name.upper(), own | OTHER_ENV)
            raise SettingsError(f"没有 {name} 这个环境变量{hint}")


def _from_env(env: Mapping[str, str]) -> dict[str, str]:
    found = {field: env[name] for name, field in ENV_SHORT.items() if env.get(name)}
    for field in Settings.model_fields:
        if env.get(name := ENV_PREFIX + field.upper()):
            found[field] = env[name]
    return found


def _file(config: Path | None) -> dict[str, Any]:
    """What the settings file of both programs says; nothing when none is named and none lies there."""
    path = config or PROJECT / "qqvl.yaml"
    return {} if config is None and not path.is_file() else read_yaml(path)


def _servers_owners(env: Mapping[str, str], file: Mapping[str, Any]) -> Any:
    """Whom the server takes for its owners: who keeps one of the two programs keeps the other."""
    chat = file.get("chat")
    return env.get("QQVL_OWNERS") or (chat.get("owners") if isinstance(chat, dict) else None) or ()


def _from_yaml(config: Path | None, file: Mapping[str, Any]) -> dict[str, Any]:
    path = config or PROJECT / "qqvl.yaml"
    section = file.get("client") or {}
    if not isinstance(section, dict):
        raise SettingsError(f"{path}：client: 下面要写成“名字: 值”")
    for key in section:
        if key not in Settings.model_fields:
            raise SettingsError(f"{path}：client: 里没有 {key!r} 这个设置{meant(str(key), Settings.model_fields)}")
    return section


def ncatbot_config(env: Mapping[str, str]) -> Path | None:
    """ncatbot's own configuration file, when it is named or lies where ncatbot looks for it."""
    named = env.get("NCATBOT_CONFIG_PATH")
    path = Path(named) if named else Path.cwd() / "config.yaml"
    return path if named or path.is_file() else None


def _from_ncatbot(env: Mapping[str, str]) -> dict[str, Any]:
    path = ncatbot_config(env)
    if path is None:
        return {}
    config = read_yaml(path)
    napcat = config.get("napcat") or {}
    if not isinstance(napcat, dict):
        raise SettingsError(f"{path}：napcat: 下面要写成“名字: 值”")
    pairs = {
        "napcat_ws_url": napcat.get("ws_uri"),
        "napcat_token": napcat.get("ws_token"),
        # 123456 is the placeholder ncatbot writes when nothing was set.
        "bot_qq": None if str(config.get("bt_uin")) == "123456" else config.get("bt_uin"),
    }
    return {name: value for name, value in pairs.items() if value not in (None, "")}


def private_data_dir(settings: Settings) -> Path:
    """Create the data folder, readable by its owner only."""
    try:
        settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.chmod(settings.data_dir, 0o700)
    except OSError as error:
        raise SettingsError(f"数据目录 {settings.data_dir} 不能用：{error}") from None
    return settings.data_dir
