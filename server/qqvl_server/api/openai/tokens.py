"""POST /tokenize and /detokenize, as vLLM has them."""

from __future__ import annotations

from typing import Any

from qqvl_server.api.left_out import LeftOut
from qqvl_server.api.model_access import ModelAccess, served_name
from qqvl_server.api.openai import translate
from qqvl_server.api.openai.schema import DetokenizeBody, TokenizeBody
from qqvl_server.api.openai.translate import Asker


async def tokenize(body: TokenizeBody, access: ModelAccess, who: Asker, left_out: LeftOut) -> dict[str, Any]:
    """Raises InvalidRequest, ImageRejected, ModelNotFound."""
    served_name(access, body.model)
    voice = access.voice()
    ids = await voice.tokenize(await translate.prompt_of(body, access, who, left_out))
    return {"count": len(ids), "max_model_len": voice.context_tokens, "tokens": list(ids), "token_strs": None}


async def detokenize(body: DetokenizeBody, access: ModelAccess) -> dict[str, Any]:
    """Raises InvalidRequest, ModelNotFound."""
    served_name(access, body.model)
    return {"prompt": await access.voice().detokenize(body.tokens)}
