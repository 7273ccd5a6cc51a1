"""The relay as a plugin of somebody's own NoneBot: list this folder in its `plugin_dirs`.

Loading it is what registers it, as with every NoneBot plugin.
"""

import sys
from pathlib import Path

CLIENT = str(Path(__file__).resolve().parents[1])
if CLIENT not in sys.path:
    sys.path.append(CLIENT)

from qqvl_client.adapters.nonebot import install  # noqa: E402

install()
