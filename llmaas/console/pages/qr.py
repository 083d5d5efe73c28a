"""QR codes as SVG, for the second factor's address."""

from __future__ import annotations

import segno
from markupsafe import Markup

_QUIET = 4
"""Modules of white around a code (ISO/IEC 18004, 6.3.8)."""


def qr_svg(text: str) -> Markup:
    """Draw a text of at most 2,331 bytes in UTF-8. Colours and size are the stylesheet's. Raises segno.DataOverflowError."""
    rows = list(segno.make_qr(text, error="m", mode="byte", encoding="utf-8").matrix_iter(border=_QUIET))
    dots = "".join(f"M{x} {y}h1v1h-1z" for y, row in enumerate(rows) for x, dark in enumerate(row) if dark)
    start = Markup('<svg class="code-image" viewBox="0 0 {0} {0}" shape-rendering="crispEdges" aria-hidden="true">')
    return start.format(len(rows)) + Markup('<path d="{}"/></svg>').format(dots)
