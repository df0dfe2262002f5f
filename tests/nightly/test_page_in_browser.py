"""The page in headless Chromium: start, upload, result, bad file, several, on a desk and a phone.

Needs the extras [demo] and [browser] and Chromium with its driver. Screenshots for looking at are
written to the folder that MEDCOLOR_SCREENSHOTS names.
"""

import base64
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from serving_helpers import encode, make_run, pixels

pytestmark = [pytest.mark.nightly, pytest.mark.slow]
webdriver = pytest.importorskip("selenium.webdriver")
pytest.importorskip("gradio")
Keys = pytest.importorskip("selenium.webdriver.common.keys").Keys
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SWITCHES = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-dev-shm-usage", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"),
)
SECONDS = 120
ANSWER = "document.querySelector('#answer .film-page')"


def wait_for(look):
    """Returns the first result of ``look`` that is true."""
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        if found := look():
            return found
        time.sleep(0.2)
    raise AssertionError(f"nothing came within {SECONDS} s")


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Of the page, served by the command in a process and a temporary folder of its own."""
    folder = tmp_path_factory.mktemp("page")
    run_dir, temporary = make_run(folder / "run"), folder / "tmp"
    temporary.mkdir()
    command = [sys.executable, "-m", "medcolor_tf.demo", f"--run_dir={run_dir}", "--port=0"]
    environment = os.environ | {"TMPDIR": str(temporary)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert "Open http://127.0.0.1:" in line, line
            yield line.split()[1], temporary
        finally:
            process.terminate()
            process.wait(timeout=60)
    assert not list(temporary.iterdir()), "nothing of the uploads is left"


@pytest.fixture(params=[1200, 400])
def browser(request, tmp_path):
    binary = next(filter(None, map(shutil.which, BROWSERS)), None)
    if binary is None or shutil.which("chromedriver") is None:
        pytest.skip("needs Chromium and chromedriver on the PATH")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for switch in (*SWITCHES, f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(switch)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    driver = webdriver.Chrome(
        options=options, service=webdriver.ChromeService(shutil.which("chromedriver"))
    )
    size = {"width": request.param, "height": 900, "deviceScaleFactor": 1}
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {**size, "mobile": request.param < 600}
    )
    yield driver
    driver.quit()


def upload(browser, files):
    """Drops files and returns the text of the answer to them."""
    before = browser.execute_script(f"return {ANSWER}?.innerText ?? ''")
    inputs = wait_for(lambda: browser.find_elements("css selector", "input[type=file]"))
    inputs[0].send_keys("\n".join(map(str, files)))
    return wait_for(
        lambda: (
            (text := browser.execute_script(f"return {ANSWER}?.innerText ?? ''")) != before and text
        )
    )


def screenshot(browser, name):
    if folder := os.environ.get("MEDCOLOR_SCREENSHOTS"):
        height = browser.execute_script("return document.documentElement.scrollHeight")
        width = browser.execute_script("return innerWidth")
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        taken = browser.execute_cdp_cmd(
            "Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip}
        )
        Path(folder, f"{name}-{width}.png").write_bytes(base64.b64decode(taken["data"]))


def test_a_visit(browser, address, tmp_path):
    url, temporary = address
    for i in range(2):
        (tmp_path / f"film{i}.png").write_bytes(encode(pixels(64, 60, seed=i), "PNG"))
    bad = tmp_path / "bad ${x}.jpg"
    bad.write_bytes(encode(pixels(64, 60), "JPEG")[:-60])
    browser.get(url)
    wait_for(lambda: browser.find_elements("css selector", "input[type=file]"))
    text = browser.execute_script("return document.body.innerText")
    assert "not a medical device" in text
    screenshot(browser, "start")

    one = upload(browser, [tmp_path / "film0.png"])
    assert "film0.png" in one
    assert "Pleural Effusion" in one
    images = f"[...{ANSWER}.querySelectorAll('figure img')]"
    shown = browser.execute_script(f"return {images}.map((i) => [i.naturalWidth, i.alt])")
    assert [width for width, _ in shown] == [320] * 4
    assert shown[2][1] == "Heat map of Edema over film0.png"
    screenshot(browser, "one")

    assert "was not read: JPEG is damaged or truncated" in upload(browser, [bad])
    screenshot(browser, "bad")

    several = upload(browser, [tmp_path / "film0.png", tmp_path / "film1.png", bad])
    assert "3 films" in several
    link = f"{ANSWER}.querySelector('a.download')"
    name, address_of_csv = browser.execute_script(f"return [{link}.download, {link}.href]")
    table = base64.b64decode(address_of_csv.partition(",")[2]).decode()
    assert (name, len(table.splitlines())) == ("probabilities.csv", 4)
    screenshot(browser, "several")

    # The keyboard reaches the upload, the films, the CSV and the card.
    browser.execute_script("document.activeElement.blur()")
    reached = set()
    for _ in range(30):
        browser.switch_to.active_element.send_keys(Keys.TAB)
        reached.add(browser.execute_script("return document.activeElement.tagName"))
    assert {"BUTTON", "SUMMARY", "A"} <= reached

    inner, scrolled = browser.execute_script(
        "return [innerWidth, document.documentElement.scrollWidth]"
    )
    assert scrolled <= inner
    assert not any(path.stat().st_size for path in temporary.rglob("*.png"))
    assert_only_asks(browser, url)


def assert_only_asks(browser, url):
    """No request went anywhere else, and nothing was an error."""
    asked = set()
    for entry in browser.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            asked.add(message["params"]["request"]["url"])
    foreign = [a for a in asked if a.startswith(("http", "ws")) and not a.startswith(url)]
    assert len(asked) > 5
    assert not foreign
    severe = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert not severe
