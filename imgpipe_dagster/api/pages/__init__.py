"""The pages that the API serves itself: whole files with their styles and scripts in them. No templates."""

import base64
import hashlib
import html
import re
from functools import cache
from importlib.resources import files

from starlette.responses import HTMLResponse

_INLINE = re.compile(r"<(script|style)>(.*?)</\1>", re.DOTALL)


def page(name: str, *, source_url: str | None) -> HTMLResponse:
    """A page, with a policy that lets it run what is in it, speak to this server, and nothing else.

    Args:
        name: Its file in this package.
        source_url: Where users find the source (AGPL, section 13); linked at the foot of the page.
    """
    text, policy = _page(name)
    link = f'<a href="{html.escape(source_url)}">Source (AGPL-3.0)</a>' if source_url else "AGPL-3.0"
    return HTMLResponse(text.replace("<!-- source -->", link), headers={"Content-Security-Policy": policy})


@cache
def _page(name: str) -> tuple[str, str]:
    text = files(__name__).joinpath(name).read_text(encoding="utf-8")
    hashes: dict[str, list[str]] = {"script": [], "style": []}
    for kind, content in _INLINE.findall(text):
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        hashes[kind].append(f"'sha256-{digest}'")
    rules = [
        "default-src 'none'",
        f"script-src {' '.join(hashes['script'])}",
        f"style-src {' '.join(hashes['style'])}",
        "img-src 'self' blob: data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
    return text, "; ".join(rules)
