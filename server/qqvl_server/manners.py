"""The chat's settings on what wakes the bot, who may steer it, and how much it may say: part of section ``chat``."""

from __future__ import annotations

from pydantic import Field

from qqvl_server.setting_types import Hours, Ids, Patterns, Room, Words


class MannersSettings(Room):
    wake_words: Words = Field((), description="唤醒词，群里的话里出现就算叫它；可写多个，用逗号隔开")
    wake_patterns: Patterns = Field(
        (), description="唤醒的正则表达式，群里的话里找得到就算叫它；可写多个，用逗号隔开，一条消息一共最多找 20 毫秒"
    )
    quiet_hours: Hours = Field(
        (), description="这些钟点里没人叫就不说话，如 23:00-07:30，可写多段；叫它还是会回，按服务器的时间"
    )
    cooldown_s: float | None = Field(
        None, ge=0, le=86400, description="没人叫而说了话以后，最少隔多少秒再这样说；不写 smart 为 60，all 不限"
    )
    max_active_per_hour: int | None = Field(
        None, ge=0, le=10000, description="一个群一小时最多说多少次没人叫的话；不写 smart 为 12，all 不限"
    )
    max_active_per_day: int | None = Field(
        None, ge=0, le=100000, description="一个群一天（24 小时）最多说多少次没人叫的话；不写 smart 为 60，all 不限"
    )
    allow_groups: Ids = Field((), description="只在这些群里说话、听命令；留空不限")
    deny_groups: Ids = Field((), description="不在这些群里说话、听命令")
    allow_users: Ids = Field((), description="只理这些人，群里私聊都算；留空不限，主人不用写")
    deny_users: Ids = Field((), description="不理这些人，群里私聊都算")
