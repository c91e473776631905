"""The report in a real browser: phone and desktop width, no request, and on paper.

Needs a Chromium on PATH or in TICKETS_BROWSER; the tests never fetch one.
"""

from __future__ import annotations

import html
import io
import json
import os
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from matplotlib.image import imread

from orchestrator.report import write_report
from tests.orchestrator.reports import SWEEP, lose, with_mask
from tests.orchestrator.small_worlds import small_world
from tests.orchestrator.transfer_worlds import OVERLAPS, finished

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
PATIENCE_S = 120
WIDTHS = (390, 1280)
# What the page itself cannot say: it has no script. Its frame is as wide as a screen would be.
MEASURE = """<!DOCTYPE html><meta charset="utf-8"><pre id="said"></pre>
<iframe id="page" style="border:0;width:{width}px;height:900px" srcdoc="{page}"></iframe>
<script>
window.onload = () => {{
  const frame = document.getElementById("page").contentWindow;
  const root = frame.document.documentElement;
  for (const one of frame.document.querySelectorAll("details")) one.open = true;
  const fetched = frame.performance.getEntriesByType("resource").map((entry) => entry.name);
  document.getElementById("said").textContent = JSON.stringify({{
    needed: root.scrollWidth, there: root.clientWidth,
    fetched: fetched.filter((name) => !name.startsWith("data:")),
    images: [...frame.document.images].map((image) => image.naturalWidth),
  }});
}};
</script>"""


@pytest.fixture(scope="module")
def browser() -> str:
    """The browser's command; without one the tests are skipped."""
    named = os.environ.get("TICKETS_BROWSER")
    found = [path for name in ((named,) if named else NAMES) if (path := shutil.which(name))]
    if not found:
        pytest.skip(f"no Chromium: none of {', '.join(NAMES)} on PATH, none in TICKETS_BROWSER")
    return found[0]


@pytest.fixture(scope="module", params=["tickets", "transfer"])
def page(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of tickets with everything in it, or one with a transfer."""
    folder = tmp_path_factory.mktemp("page")
    if request.param == "transfer":
        return write_report(*finished(), {}, folder, [OVERLAPS])[0]
    return page_of_tickets(folder)


def page_of_tickets(folder: Path) -> Path:
    """Write masks, controls, and a failure with a long message."""
    trials, results = small_world()
    key = lose((trials, results), 200)
    for trial in trials:
        if trial.kind == "final" and trial.key in results:
            results[trial.key] = with_mask(results[trial.key], 0.4)
    failed = {key: "loss is NaN at step 7: " + "x" * 200}
    return write_report(SWEEP, trials, results, failed, folder)[0]


def run(browser: str, profile: Path, *arguments: str) -> str:
    """Run the browser without a screen and without a network; return what it prints."""
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    command += ["--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={profile}"]
    done = subprocess.run(
        [*command, *arguments], capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("width", WIDTHS)
def test_a_page_fits_its_screen_and_asks_for_nothing(
    browser: str, page: Path, tmp_path: Path, width: int
) -> None:
    """Wide tables scroll within themselves; the page does not, even with all details open."""
    wrapper = tmp_path / "wrapper.html"
    inside = html.escape(page.read_text(), quote=True)
    wrapper.write_text(MEASURE.format(width=width, page=inside))
    dumped = run(browser, tmp_path, "--virtual-time-budget=10000", "--dump-dom", wrapper.as_uri())
    match = re.search(r'<pre id="said">(.+?)</pre>', dumped)
    assert match is not None, dumped[:500]
    said: dict[str, Any] = json.loads(unescape(match[1]))
    assert width - 20 <= said["there"] <= width
    assert said["needed"] <= said["there"]
    assert said["fetched"] == []
    assert said["images"] and all(said["images"])


@pytest.mark.parametrize("width", WIDTHS)
def test_a_page_is_drawn(browser: str, page: Path, tmp_path: Path, width: int) -> None:
    """A screenshot shows letters on paper, not a blank sheet."""
    shot = tmp_path / "shot.png"
    run(browser, tmp_path, f"--window-size={width},900", f"--screenshot={shot}", page.as_uri())
    pixels = imread(io.BytesIO(shot.read_bytes()), format="png")[:, :, :3]
    assert pixels.shape[1] == width
    assert pixels.min() < 0.3 and 0.01 < (pixels < 0.9).mean() < 0.9


def test_a_page_can_be_printed(browser: str, page: Path, tmp_path: Path) -> None:
    """On paper it is a PDF of some pages, landscape."""
    pdf = tmp_path / "page.pdf"
    run(browser, tmp_path, "--no-pdf-header-footer", f"--print-to-pdf={pdf}", page.as_uri())
    data = pdf.read_bytes()
    assert data.startswith(b"%PDF")
    boxes = re.findall(rb"/MediaBox \[\s*0 0 ([\d.]+) ([\d.]+)\s*\]", data)
    assert boxes and all(float(wide) > float(high) for wide, high in boxes)
