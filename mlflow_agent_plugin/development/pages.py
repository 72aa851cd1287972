"""HTML pages that need nothing else: style and plots are inside them, nothing is fetched."""

from __future__ import annotations

import html
import io
from base64 import b64encode
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;
padding:0 1rem;color:#1b1f24}
table{border-collapse:collapse;margin:1rem 0}caption{text-align:left;font-weight:600}
th,td{border-bottom:1px solid #d8dee4;padding:.3rem .6rem;text-align:left;vertical-align:top}
td.n{text-align:right;font-variant-numeric:tabular-nums}code{font-size:.9em}
figure{margin:1.5rem 0}img{max-width:100%}.bad{color:#b42318;font-weight:600}
"""


def wrap_page(title: str, body: str) -> str:
    """Return a page around `body`, which is HTML already; `title` is text."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head><body>{body}</body></html>"
    )


def figure(title: str, data: bytes) -> str:
    """Return a PNG with its title."""
    image = b64encode(data).decode()
    name = html.escape(title.replace("_", " "))
    return (
        f'<figure><figcaption>{name}</figcaption><img alt="{name}" '
        f'src="data:image/png;base64,{image}"></figure>'
    )


def png(plot: Figure) -> bytes:
    """Return a plot as a PNG file."""
    buffer = io.BytesIO()
    plot.savefig(buffer, format="png", dpi=110, bbox_inches="tight")
    return buffer.getvalue()
