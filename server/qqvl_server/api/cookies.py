"""The cookie of a browser that has signed in: how it is set and taken back. Knows HTTP; no doors."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from qqvl_server.signin import VISIT_S, SignIn


def set_cookie(response: Response, request: Request, sign_in: SignIn, who: str) -> None:
    response.set_cookie(
        sign_in.cookie_name,
        sign_in.cookie(who),
        max_age=VISIT_S,
        httponly=True,
        samesite="strict",
        secure=request.headers.get("x-forwarded-proto", "") == "https",
    )


def clear_cookie(response: Response, sign_in: SignIn) -> None:
    response.delete_cookie(sign_in.cookie_name, httponly=True, samesite="strict")
