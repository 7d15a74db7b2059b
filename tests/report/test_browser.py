"""The page in a browser: what a person sees and does."""

import csv
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from inspections import HOSTILE, hostile

from riad_anomalib.report import Report
from riad_anomalib.report.names import cell

pytest.importorskip("selenium", reason="the page is looked at through Selenium: pip install selenium")

from selenium.webdriver import ActionChains, Chrome, ChromeOptions, ChromeService, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.select import Select
from selenium.webdriver.support.wait import WebDriverWait

SCORES = {"bad/1.png": 0.9, "bad/2.png": 0.6, "bad/3.png": 0.3, "good/1.png": 0.2, "good/2.png": 0.4, "good/3.png": 0.7}


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    programs = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if None in programs:
        pytest.skip("the page is looked at in Chromium: apt install chromium chromium-driver")
    options = ChromeOptions()
    options.binary_location, driver = map(str, programs)
    profile = tmp_path_factory.mktemp("profile")
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", f"--user-data-dir={profile}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = Chrome(options=options, service=ChromeService(driver))
    yield browser
    browser.quit()


@pytest.fixture
def browser(chromium: Chrome, tmp_path: Path) -> Iterator[Chrome]:
    """A laptop's browser that downloads to ``tmp_path``; anything that it complains of fails the test."""
    log: Any = chromium.get_log  # not typed
    resize(chromium, 1366, 768)
    chromium.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    log("browser")
    yield chromium
    assert log("browser") == []


def resize(browser: Chrome, width: int, height: int) -> None:
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


@pytest.fixture
def inspected(browser: Chrome, tmp_path: Path) -> Chrome:
    """The page of six pictures, three of them good."""
    report = Report(tmp_path, "Screws", "python inspect", good="good")
    for name, score in SCORES.items():
        report.add(name, score, score > 0.5)
        report.show(np.full((30, 40, 3), 90, np.uint8), np.eye(8, dtype=np.float32), np.eye(8) > 0)
    return opened(browser, report)


def opened(browser: Chrome, report: Report) -> Chrome:
    browser.get(report.write().as_uri())
    settled(browser)
    return browser


def settled(browser: Chrome) -> None:
    """Wait until the page has been drawn twice."""
    browser.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")


def find(browser: Chrome, css: str) -> WebElement:
    return browser.find_element(By.CSS_SELECTOR, css)


def press(browser: Chrome, *keys: str) -> None:
    for key in keys:
        ActionChains(browser).send_keys(key).perform()
    settled(browser)


def names(browser: Chrome) -> list[str]:
    settled(browser)
    places = "[...document.querySelectorAll('.card')].sort((a, b) => a.dataset.place - b.dataset.place)"
    titles: list[str] = browser.execute_script(f"return {places}.map((card) => card.title.toWellFormed())")
    return titles


def counts(browser: Chrome) -> str:
    settled(browser)
    return " ".join(find(browser, "#counts").text.split())


def seen(image: WebElement) -> Callable[[Chrome], bool]:
    return lambda browser: browser.execute_script("return arguments[0].naturalWidth > 0", image)


def test_the_slider_moves_verdicts_counts_and_command(inspected: Chrome) -> None:
    assert names(inspected) == sorted(SCORES, key=lambda name: -SCORES[name])
    told = "anomalous 3 normal 3 missed 1 of 3 defective false alarms 1 of 3 good"
    assert counts(inspected) == f"{told} (33 %, 90 %: 1.7 % to 86 %)"
    slider = find(inspected, "#slider")
    ActionChains(inspected).move_to_element_with_offset(slider, int(0.25 * slider.size["width"]), 0).click().perform()
    settled(inspected)
    threshold = float(find(inspected, "#value").get_attribute("value") or "")
    assert 0.7 < threshold < 0.75
    told = "anomalous 1 normal 5 missed 2 of 3 defective false alarms 0 of 3 good"
    assert counts(inspected) == f"{told} (0 %, 90 %: 0 % to 63 %)"
    assert find(inspected, "#command").text == f"python inspect --threshold={threshold}"
    assert [card.get_attribute("title") for card in inspected.find_elements(By.CSS_SELECTOR, ".is-anomalous")] == [
        "bad/1.png"
    ]
    press(inspected, Keys.HOME)  # the slider has the focus
    assert counts(inspected).startswith("anomalous 6 normal 0 ")
    find(inspected, "#value").send_keys(Keys.CONTROL, "a")
    press(inspected, "0.3", Keys.TAB)
    told = "anomalous 4 normal 2 missed 1 of 3 defective false alarms 2 of 3 good"
    assert counts(inspected) == f"{told} (67 %, 90 %: 14 % to 98 %)"
    find(inspected, "#reset").click()
    assert counts(inspected).startswith("anomalous 3 normal 3 ")


def test_filters_orders_and_folders(inspected: Chrome) -> None:
    for value, shown in (("missed", ["bad/3.png"]), ("alarm", ["good/3.png"]), ("marked", [])):
        Select(find(inspected, "#filter")).select_by_value(value)
        assert names(inspected) == shown
    Select(find(inspected, "#filter")).select_by_value("all")
    Select(find(inspected, "#order")).select_by_value("near")
    assert set(names(inspected)[:2]) == {"bad/2.png", "good/2.png"}
    Select(find(inspected, "#order")).select_by_value("source")
    inspected.find_elements(By.CSS_SELECTOR, "#legend button")[1].click()
    assert names(inspected) == ["good/1.png", "good/2.png", "good/3.png"]
    find(inspected, "#find").send_keys("2")
    assert names(inspected) == ["good/2.png"]


def test_a_click_opens_and_keys_walk_look_and_mark(inspected: Chrome, tmp_path: Path) -> None:
    find(inspected, ".card").click()
    large = find(inspected, "#large")
    WebDriverWait(inspected, 10).until(seen(large))
    assert find(inspected, "#name").text == "bad/1.png"
    assert str(large.get_attribute("src")).endswith("/report_files/0.0.jpg")
    press(inspected, "m")
    assert str(large.get_attribute("src")).endswith("/report_files/0.1.jpg")
    press(inspected, Keys.ARROW_RIGHT)
    assert find(inspected, "#name").text == "good/3.png"
    assert "0.7000 anomalous, known to be good · 2 of 6" in find(inspected, "#said").text
    press(inspected, "w", Keys.ARROW_RIGHT, "w", "w", Keys.ARROW_LEFT, *[Keys.ARROW_RIGHT] * 3, "w")
    assert find(inspected, "#name").text == "bad/3.png"
    press(inspected, Keys.ESCAPE)
    assert not find(inspected, "#viewer").is_displayed()
    assert inspected.execute_script("return document.activeElement.title") == "bad/3.png"
    inspected.refresh()  # marks outlive it
    settled(inspected)
    export = find(inspected, "#export")
    assert export.text == "Export 2 marks"
    export.click()
    WebDriverWait(inspected, 10).until(lambda _: (tmp_path / "marks.csv").exists())
    with (tmp_path / "marks.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [
            ["name", "score", "wrong", "right"],
            ["bad/3.png", "0.3", "normal", "anomalous"],
            ["good/3.png", "0.7", "anomalous", "normal"],
        ]


def test_the_keyboard_reaches_every_picture(inspected: Chrome) -> None:
    inspected.execute_script("document.getElementById('find').focus()")
    press(inspected, Keys.TAB)  # no mark to export yet
    assert inspected.execute_script("return document.activeElement.title") == "bad/1.png"
    press(inspected, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ENTER)
    assert find(inspected, "#name").text == "bad/2.png"
    press(inspected, Keys.ESCAPE, Keys.END)
    assert inspected.execute_script("return document.activeElement.title") == "good/1.png"
    label = inspected.execute_script("return document.activeElement.getAttribute('aria-label')")
    assert label == "good/1.png, 0.2000, normal"


def test_a_hostile_name_stays_text(browser: Chrome, tmp_path: Path) -> None:
    opened(browser, hostile(tmp_path))
    # What is no UTF-8 becomes the sign for that in a browser.
    expected = [re.sub("[\ud800-\udfff]", "\N{REPLACEMENT CHARACTER}", name) for name in HOSTILE]
    assert names(browser) == expected[::-1]
    assert browser.title == HOSTILE[0]
    assert find(browser, "h1").text == HOSTILE[0]
    assert find(browser, "#notes li").text == HOSTILE[2]
    for card in browser.find_elements(By.CSS_SELECTOR, ".card img"):
        WebDriverWait(browser, 10).until(seen(card))
    find(browser, ".card").click()
    for _ in HOSTILE:
        WebDriverWait(browser, 10).until(seen(find(browser, "#large")))
        press(browser, "w", Keys.ARROW_RIGHT)
    press(browser, Keys.ESCAPE)
    find(browser, "#export").click()
    WebDriverWait(browser, 10).until(lambda _: (tmp_path / "marks.csv").exists())
    with (tmp_path / "marks.csv").open(newline="", encoding="utf-8") as file:
        marked = [row[0] for row in csv.reader(file)][1:]
    assert marked == [cell(name) for name in expected]
    assert browser.execute_script("return window.owned") is None
    assert len(browser.find_elements(By.CSS_SELECTOR, "script")) == 2


def test_ten_thousand_pictures_stay_fluid(browser: Chrome, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    report = Report(tmp_path, "Archive", "python inspect")
    for number, score in enumerate(rng.beta(2, 5, 10_000).tolist()):
        report.add(f"day {number % 12}/{number:05}.png", score, score > 0.5)
    start = time.perf_counter()
    opened(browser, report)
    assert time.perf_counter() - start < 10
    assert 10 < len(names(browser)) < 100  # not ten thousand
    move: Any = browser.execute_async_script("""
        const [done] = arguments;
        const slider = document.getElementById("slider");
        const start = performance.now();
        let left = 30;
        const next = () => {
            if (!left--) return done((performance.now() - start) / 30);
            slider.value = 0.2 + 0.02 * left;
            slider.dispatchEvent(new Event("input"));
            requestAnimationFrame(next);
        };
        next();
    """)
    assert move < 500, "ms for a new threshold"
    browser.execute_script("scrollTo(0, document.body.scrollHeight)")
    lowest = min(report.rows, key=lambda row: row.score)
    WebDriverWait(browser, 5).until(lambda _: lowest.name in names(browser))
    assert len(names(browser)) < 100


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [(390, 844), (1366, 768), (1920, 1080)])
def test_it_fits_any_screen_in_light_and_dark(size: tuple[int, int], scheme: str, inspected: Chrome) -> None:
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    inspected.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    resize(inspected, *size)
    settled(inspected)
    assert inspected.execute_script("return document.documentElement.scrollWidth") == size[0]
    colours = {
        name: inspected.execute_script(f"return getComputedStyle(document.body)['{name}']")
        for name in ("backgroundColor", "color")
    }
    bright = {name: sum(map(int, value[4:-1].split(","))) for name, value in colours.items()}
    assert (bright["backgroundColor"] > bright["color"]) == (scheme == "light")
    find(inspected, ".card").click()
    for css in ("#mark", "#next", "#close", "#large"):
        box = find(inspected, css).rect
        assert box["x"] >= 0
        assert box["y"] >= 0
        assert box["x"] + box["width"] <= size[0]
        assert box["y"] + box["height"] <= size[1]
