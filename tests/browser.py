"""A headless Chromium for tests of pages, where there is one."""

import base64
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from waiting import LIMIT_S, wait_until

webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium, of the extra dev")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
needs_browser = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="needs a browser and its driver: apt-get install chromium chromium-driver"
)
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
)  # fmt: skip


class Browser:
    """One window, with what tests ask of it."""

    def __init__(self, driver: Any):
        self.driver = driver

    def shape(self, width: int, height: int = 844, *, dark: bool = False) -> None:
        """Its size in pixels, a phone's below 640, and the theme that it asks for."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 640}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        theme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [theme]})

    def open(self, page: Path) -> None:
        """Show a page until its figures are drawn."""
        self.driver.get(page.as_uri())
        wait_until(lambda: self.ask("return !!performance.getEntriesByName('drawn').length"))

    def ask(self, script: str, *args: Any) -> Any:
        """What a script returns."""
        return self.driver.execute_script(script, *args)

    def all(self, selector: str) -> list[Any]:
        """Elements of the page."""
        return list(self.driver.find_elements("css selector", selector))

    def click(self, element: Any) -> None:
        """As a person does, wherever on the page it is."""
        self.ask("arguments[0].scrollIntoView({block: 'center'})", element)
        element.click()

    def hover(self, x: float, y: float) -> None:
        """Move the mouse to a place in the window."""
        self.mouse("mouseMoved", x, y)

    def mouse(self, kind: str, x: float, y: float, buttons: int = 0) -> None:
        """One event of the mouse."""
        button = "left" if buttons or kind == "mouseReleased" else "none"
        event = {
            "type": kind,
            "x": x,
            "y": y,
            "button": button,
            "buttons": buttons,
            "clickCount": int(button == "left"),
        }
        self.driver.execute_cdp_cmd("Input.dispatchMouseEvent", event)

    def downloads_to(self, folder: Path) -> None:
        """Where files go that a page saves."""
        told = {"behavior": "allow", "downloadPath": str(folder)}
        self.driver.execute_cdp_cmd("Browser.setDownloadBehavior", told)

    def complaints(self) -> list[str]:
        """What the page wrote in the console since the last call."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def picture(self) -> bytes:
        """The window as PNG."""
        return base64.b64decode(self.driver.get_screenshot_as_base64())


@contextmanager
def started(profile: Path) -> Iterator[Browser]:
    """A browser with a fresh profile."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.set_page_load_timeout(LIMIT_S)
    try:
        yield Browser(driver)
    finally:
        driver.quit()
