"""Take the pictures of docs/report.md again from the demo's report.

Needs the results of `make demo`, Chromium (`envs/setup.sh chromium`), and Pillow, which is not in
the lock.
"""

from __future__ import annotations

import base64
import io
import sys
import time
from pathlib import Path

from PIL import Image

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests" / "support"))

import browser  # noqa: E402

REPORT = HERE.parent / "results" / "demo" / "report"
RUN = "runs/replay-coop-comm/demo_inventory_task--1--f1_f2.html"
UNFOLD = "document.querySelectorAll('.command')[2].open = true"
FIGURES = "document.getElementById('results').scrollIntoView()"
RUNS = "document.getElementById('runs').scrollIntoView()"
# name, page, width, height, dark, script
PICTURES = (
    ("index", "index.html", 1200, 1500, False, ""),
    ("index-dark", "index.html", 1200, 900, True, FIGURES),
    ("runs", "index.html", 1200, 580, False, RUNS),
    ("run", RUN, 1200, 1250, False, UNFOLD),
    ("run-phone", RUN, 390, 844, False, "document.getElementById('timeline').scrollIntoView()"),
    ("pair", "pairs/demo_textkit_task--2--f2_f3.html", 1200, 800, False, ""),
)  # fmt: skip


def main() -> None:
    for name, page, width, height, dark, script in PICTURES:
        with browser.open_browser(width, height, dark) as driver:
            driver.get(browser.url(REPORT / page))
            time.sleep(1)
            driver.execute_script(script)
            time.sleep(3)  # figures are drawn when they come into view
            shot = driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})
        image = Image.open(io.BytesIO(base64.b64decode(shot["data"]))).convert("RGB")
        # 128 colours are enough for text and lines, and a quarter of the size.
        image.quantize(128).save(HERE / "images" / f"report-{name}.png", optimize=True)
        print(HERE / "images" / f"report-{name}.png")


if __name__ == "__main__":
    main()
