"""The page at "/": one static file, with the colours of the drawn maps put into it."""

import base64
import hashlib
import json
import re
from functools import cache
from importlib.resources import files

import numpy as np

from crosscale.explain.draw import EVEN_PEAK, LEAST_PEAK, colours


@cache
def page() -> tuple[str, str]:
    """The HTML, and the content security policy that lets its own script and style run and nothing else."""
    html = files("crosscale.serve").joinpath("page.html").read_text(encoding="utf-8")
    ramp = ["#" + bytes(rgb).hex() for rgb in colours(np.linspace(0, 1, 64)).tolist()]
    html = html.replace('"RAMP"', json.dumps(ramp)).replace('"EVEN"', json.dumps(EVEN_PEAK))
    html = html.replace("LEAST", f"{LEAST_PEAK:g}")
    parts = {tag: re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL) for tag in ("script", "style")}
    sources = {tag: " ".join(f"'sha256-{_digest(text)}'" for text in found) for tag, found in parts.items()}
    policy = (
        f"default-src 'none'; script-src {sources['script']}; style-src {sources['style']}; "
        "img-src 'self' blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )
    return html, policy


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
