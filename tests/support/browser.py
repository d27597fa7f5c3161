"""A headless Chromium for tests, with a new profile, without network, and with its console log."""

from __future__ import annotations

import base64
import contextlib
import io
import shutil
import tempfile
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pypdf import PdfReader
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--proxy-server=127.0.0.1:9",  # a page that requests anything but files fails
)


def programs() -> tuple[str, str] | None:
    """Return the paths of Chromium and its driver, None where they are not installed."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    return (browser, driver) if browser and driver else None


@contextlib.contextmanager
def open_browser(width: int = 1280, height: int = 900, dark: bool = False) -> Iterator[Any]:
    """Yield a driver with a window of this size."""
    binaries = programs()
    assert binaries is not None, "call envs/setup.sh chromium"
    profile = tempfile.mkdtemp(prefix="cooperflow-chromium-")
    options = webdriver.ChromeOptions()
    options.binary_location = binaries[0]
    for argument in (*ARGUMENTS, f"--user-data-dir={profile}", f"--window-size={width},{height}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(binaries[1]))
    try:
        resize(driver, width, height)
        if dark:
            scheme = [{"name": "prefers-color-scheme", "value": "dark"}]
            driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
        yield driver
    finally:
        driver.quit()
        shutil.rmtree(profile, ignore_errors=True)


def resize(driver: Any, width: int, height: int) -> None:
    """Show the page as on a device of this width."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def print_pages(driver: Any) -> list[str]:
    """Print the page on A4; return the text of each sheet."""
    paper = {"paperWidth": 8.27, "paperHeight": 11.69}
    document = driver.execute_cdp_cmd("Page.printToPDF", paper)["data"]
    pages = PdfReader(io.BytesIO(base64.b64decode(document))).pages
    # Fonts may have one glyph for "ffi".
    return [unicodedata.normalize("NFKC", page.extract_text()) for page in pages]


def url(path: Path) -> str:
    return path.resolve().as_uri()


def read_console(driver: Any) -> list[str]:
    """Return the console's messages, and clear them."""
    return [f"{entry['level']}: {entry['message']}" for entry in driver.get_log("browser")]


def overflow_width(driver: Any) -> int:
    """Return the width of the page beyond its window, pixels."""
    script = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
    return int(driver.execute_script(script))
