"""The chat's settings on what wakes the bot, who may steer it, and how much it may say: part of section ``chat``."""

from __future__ import annotations

from pydantic import Field

from qqvl_server.setting_types import CommandRoles, Hours, Ids, Patterns, Room, Words


class MannersSettings(Room):
    wake_words: Words = Field((), description="唤醒词，群里的话里出现就算叫它；可写多个，用逗号隔开")
    wake_patterns: Patterns = Field(
        (), description="唤醒的正则表达式，群里的话里找得到就算叫它；可写多个，用逗号隔开，一条消息一共最多找 20 毫秒"
    )
    command_prefix: str = Field(
        "/", min_length=1, max_length=8, pattern=r"^\S+$", description="命令前面的符号；最简客户端只有 /reset"
    )
    command_roles: CommandRoles = Field(
        (),
        description="群里谁能用哪个命令，写成 命令=谁（member 群员、admin 群管理、owner 机器人的主人），"
        "如 reset=owner,persona=member；不写的按 docs/bot.md 的表",
    )
    persona: str = Field(
        "",
        max_length=64,
        description="默认用哪个人设（data_dir/personas/ 里的文件，写它的 name）；留空用 system_prompt",
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
    user_messages_per_day: int = Field(0, ge=0, description="每人每天最多回多少条，所有会话一起算；0 不限")
    group_messages_per_day: int = Field(0, ge=0, description="每个群每天最多回多少条；0 不限")
    user_seconds_per_day: float = Field(0, ge=0, description="每人每天最多用模型多少秒，所有会话一起算；0 不限")
    group_seconds_per_day: float = Field(0, ge=0, description="每个群每天最多用模型多少秒，旁听也算；0 不限")
