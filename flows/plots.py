"""The page that `dvc plots show` fills, with Vega inside it: DVC's own loads Vega from a CDN and draws nothing offline.

    python -m flows.plots     writes .dvc/tmp/plots.html, which .dvc/config names; setup and workspaces do so
"""

from __future__ import annotations

from pathlib import Path

import vl_convert

PAGE = Path(".dvc/tmp/plots.html")
TEXT = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
{refresh_tag}
<title>Catena plots</title>
<script>%s</script>
<style>body { margin: 2rem; font: 15px system-ui, sans-serif; } div { margin-bottom: 1.5rem; }</style>
</head>
<body>
{plot_divs}
</body>
</html>
"""


def write(root: Path) -> Path:
    """Write the template into `root`'s .dvc/tmp; returns its path. DVC's specs are Vega-Lite 5."""
    bundle = vl_convert.javascript_bundle(vl_version="5.21").replace("</script", "<\\/script")
    path = root / PAGE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(TEXT.replace("%s", bundle), encoding="utf-8")
    return path


if __name__ == "__main__":
    write(Path.cwd())
