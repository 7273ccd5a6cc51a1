"""What the client reaches over HTTP: the chat server and QQ's pictures."""

from __future__ import annotations

import time

from qqvl_client.doctor.finding import Finding
from qqvl_client.errors import PictureError
from qqvl_client.images import PictureFetcher
from qqvl_client.settings import Settings
from qqvl_client.standing import connected, standing_with

AHEAD_S = 60
AVATAR = "https://q1.qlogo.cn/g?b=qq&nk={}&s=100"
"""Where QQ itself shows an account's picture, without a login."""


async def server(settings: Settings) -> Finding:
    url, name = settings.server_url, "server"
    async with connected(settings) as http:
        standing = await standing_with(http, settings)
    if standing.kind == "away":
        message = f"{url} 没有回答（{standing.words}）：服务器没启动，或地址不对"
        return Finding(name, "failed", message, "client.server_url", "服务器启动时说的地址，默认 http://127.0.0.1:9999")
    if standing.kind == "locked":
        message = f"{url} 不让进：{standing.words}"
        value = "服务器 server.api_keys 里的一个（能用于 qq 的）"
        return Finding(name, "failed", message, "client.api_key", value)
    if standing.kind == "foreign":
        message = f"{url} 不是 qqvl 的服务器，或地址后面多写了路径"
        return Finding(name, "failed", message, "client.server_url", "只写到端口，如 http://127.0.0.1:9999")
    if standing.words != "healthy":
        message = f"{url} 连得上，但它说 {standing.words}"
        return Finding(name, "warning", message, "服务器", "等它加载完；还不行就看它的日志")
    behind = time.time() - standing.clock if standing.clock is not None else 0
    if abs(behind) > AHEAD_S:
        message = f"{url} 的时钟和这里差 {abs(behind) / 60:.0f} 分钟"
        return Finding(name, "failed", message, "系统时间", "两台机器上都 timedatectl set-ntp true")
    return Finding(name, "ok", f"{url} 正常，密钥{'对' if settings.api_key.get_secret_value() else '没有设'}")


async def picture(settings: Settings, url: str, self_id: str) -> Finding:
    """The account's own picture, unless another is named."""
    if not url and not self_id:
        return Finding("picture", "skipped", "不知道机器人的 QQ 号，没有图可取；可以用 --picture 指定一张")
    url = url or AVATAR.format(self_id)
    reason = await _problem(settings, url)
    if reason is None:
        return Finding("picture", "ok", "取得到")
    if settings.proxy:
        without = settings.model_copy(update={"proxy": ""})
        if await _problem(without, url) is None:
            message = f"经代理 {settings.proxy} 取不到图（{reason}），不用代理就取得到"
            return Finding("picture", "failed", message, "client.proxy", "留空")
        message = f"经代理 {settings.proxy} 取不到图（{reason}）：代理没在运行，或它也上不了网"
        return Finding("picture", "failed", message, "client.proxy", "能用的代理；这台机器能直接上网就留空")
    message = f"取不到 {url}（{reason}）：这台机器连不上它"
    return Finding("picture", "failed", message, "client.proxy", "能上网的代理，或检查网络和 DNS")


async def _problem(settings: Settings, url: str) -> str | None:
    fetcher = PictureFetcher(settings)
    try:
        await fetcher.fetch({"url": url}, None)
    except PictureError as error:
        return str(error)
    finally:
        await fetcher.aclose()
    return None
