"""Make the README's picture: tune digits-cnn and photograph the figure with its headline.

Run it from the project's root: `python docs/make_picture.py`. It needs Chromium or Chrome.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from etude import tasks
from etude.report import embed, present, templates, words
from etude.report.figures import loss_against_rate
from etude.tuning.result import TuneResult
from etude.tuning.tune import tune

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
WIDTH, HEIGHT, SCALE = 800, 427, 1.5
"""The picture in CSS pixels, and how many of its own pixels each of them gets."""

LOOK = """
main{max-width:none;padding:24px 34px 0}
h1{font-size:25px}
.lede{max-width:none;margin-top:6px;font-size:15px;color:var(--soft)}
.plot{margin-top:12px}
"""


def page(result: TuneResult) -> str:
    """Return the picture as a page: headline, the answer in a sentence, the figure."""
    said = present(result)
    info = loss_against_rate.info(result)
    figure = embed.both(lambda theme: loss_against_rate.draw(info, theme, height=318))
    return (
        f'<!doctype html><meta charset="utf-8"><style>{templates.css()}{LOOK}</style><main>'
        f"<h1>{words.safe(said.title)}</h1><p class=lede>{words.safe(said.lede)}</p>"
        f'<div class="plot" id="figure"></div></main><script>{templates.plotly()}</script>'
        f'<script type="application/json" id="figures">'
        f"{embed.script_data({'figure': figure})}</script><script>{templates.script()}</script>"
    )


def photograph(browser: str, html: str, path: Path) -> None:
    """Let a browser without a window draw a page into a PNG file."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "page.html"
        source.write_text(html, encoding="utf-8")
        subprocess.run(
            [
                browser,
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--no-first-run",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
                "--hide-scrollbars",
                f"--user-data-dir={folder}/profile",
                f"--window-size={WIDTH},{HEIGHT}",
                f"--force-device-scale-factor={SCALE}",
                "--virtual-time-budget=5000",
                f"--screenshot={path.resolve()}",
                source.as_uri(),
            ],
            check=True,
            capture_output=True,
            timeout=120,
        )


def main() -> None:
    """Tune, or read a tuning that is there, and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", default="digits-cnn")
    parser.add_argument("--folder", type=Path, help="a finished tuning's run folder to read")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "tune-digits-cnn.png")
    wanted = parser.parse_args()
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        sys.exit(f"no browser to draw with: install Chromium (looked for {', '.join(BROWSERS)})")
    result = TuneResult.load(wanted.folder) if wanted.folder else tune(tasks.get(wanted.task))
    photograph(browser, page(result), wanted.out)
    print(f"{wanted.out}: {words.rate(result.lr)}, {words.runs(result.cost)}")


if __name__ == "__main__":
    main()
