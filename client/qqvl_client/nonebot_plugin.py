"""The relay as a plugin of somebody's own NoneBot: `nonebot.load_plugin("qqvl_client.nonebot_plugin")`.

Loading it is what registers it, as with every NoneBot plugin; nothing else imports this file.
"""

from qqvl_client.adapters.nonebot import install

install()
