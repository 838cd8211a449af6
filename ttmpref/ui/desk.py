"""The desk: clips on one transport, at equal loudness, with a switch between them.

A `gr.HTML` with this template and script is a desk. Its value, or a "desk" event of the page whose
`place` is the desk's selector, names the clips; `static/desk.js` says how.
"""

from __future__ import annotations

from pathlib import Path

STATIC = Path(__file__).parent / "static"
DESK_JS = (STATIC / "desk.js").read_text(encoding="utf-8")
DESK_HTML = (STATIC / "desk.html").read_text(encoding="utf-8")
