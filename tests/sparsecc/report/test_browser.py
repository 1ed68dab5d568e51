"""The page in a real browser: what clicks and keys do, how it looks, what it may do."""

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from sparsecc.report import Report
from tests.sparsecc.report.searched import searched

BROWSER, DRIVER = (shutil.which(name) for name in ("chromium", "chromedriver"))
QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--window-size=1200,900"),
)
PHONE = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
HOSTILE = "<img src=x onerror='hacked=1'>\"><script>hacked=1</script>"

pytestmark = pytest.mark.skipif(not (BROWSER and DRIVER), reason="chromium is not installed")


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for argument in (*QUIET, f"--user-data-dir={tmp_path_factory.mktemp('browser')}"):
        options.add_argument(argument)
    driver = webdriver.Chrome(options, Service(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def report(pruned_mlp) -> Report:
    """A search's report; the last layer was left alone, and nothing was measured of it."""
    made = searched(pruned_mlp.report)
    *others, last = made.plan.layers
    bare = last.model_copy(update={"loss": None, "options": ()})
    return dataclasses.replace(
        made, plan=made.plan.model_copy(update={"layers": (*others, bare)}), title="mlp"
    )


@pytest.fixture(scope="module")
def page(report, tmp_path_factory) -> Path:
    return report.save(tmp_path_factory.mktemp("page") / "report.html")


@pytest.fixture(autouse=True)
def opened(browser, page) -> Iterator[None]:
    """Every test starts with the page as it loads, and ends without a complaint of the browser."""
    browser.get(page.as_uri())
    yield
    assert browser.get_log("browser") == []


def names(browser) -> list[str]:
    """Names of the layers that are shown, from top to bottom."""
    bodies = browser.find_elements(By.CSS_SELECTOR, ".layers > tbody")
    rows = [
        body.find_element(By.CSS_SELECTOR, ".row > th") for body in bodies if body.is_displayed()
    ]
    return [row.text.splitlines()[0].strip() for row in rows]


def head(browser, title: str):
    """The button that sorts by a column."""
    return browser.find_element(By.XPATH, f"//thead//button[text()='{title}']")


def point_at(browser, selector: str) -> None:
    """Move the pointer there, once the page has come to rest: scrolling hides tooltips."""
    element = browser.find_element(By.CSS_SELECTOR, selector)
    browser.execute_async_script(
        "arguments[0].scrollIntoView({block: 'center'});"
        "requestAnimationFrame(() => requestAnimationFrame(arguments[1]))",
        element,
    )
    webdriver.ActionChains(browser).move_to_element(element).perform()


def test_it_loads_nothing_else(browser, page):
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0
    assert browser.title == "mlp · sparsecc"


def test_numbers_are_sorted_as_numbers_both_ways(browser, report):
    by_time = sorted(report.rows, key=lambda row: -row.est_ms)
    head(browser, "Predicted ms").click()
    times = {row.name: row.est_ms for row in report.rows}
    assert [times[name] for name in names(browser)] == [row.est_ms for row in by_time]
    assert head(browser, "Predicted ms").find_element(By.XPATH, "..").get_attribute(
        "aria-sort"
    ) == ("descending")
    head(browser, "Predicted ms").click()
    assert [times[name] for name in names(browser)] == [row.est_ms for row in reversed(by_time)]


def test_texts_are_sorted_from_a_to_z(browser):
    head(browser, "Layer").click()
    assert names(browser) == ["fc1", "fc2", "head"]
    head(browser, "Layer").click()
    assert names(browser) == ["head", "fc2", "fc1"]


def test_what_was_not_measured_comes_last_either_way(browser):
    for _ in range(2):
        head(browser, "Loss").click()
        assert names(browser)[-1] == "head"


def test_layers_are_filtered_by_words_and_kind(browser):
    words = browser.find_element(By.ID, "words")
    words.send_keys("FC 4x1")
    assert names(browser) == ["fc1", "fc2"]
    assert browser.find_element(By.ID, "shown").text == "2 of 3 layers"
    words.send_keys(" nonsense")
    assert names(browser) == []
    words.send_keys(Keys.CONTROL, "a", Keys.DELETE)
    browser.find_element(By.CSS_SELECTOR, "#kind option[value=library]").click()
    assert names(browser) == ["head"]


def test_a_row_opens_by_the_keyboard_and_stays_with_its_layer(browser, report):
    button = browser.find_elements(By.CSS_SELECTOR, ".open")[1]
    more = browser.find_elements(By.CSS_SELECTOR, ".more")
    assert not any(row.is_displayed() for row in more)
    button.send_keys(Keys.ENTER)
    assert button.get_attribute("aria-expanded") == "true"
    assert [row.is_displayed() for row in more] == [False, True]
    options = more[1].find_elements(By.CSS_SELECTOR, "td > table > tbody > tr")
    assert len(options) == len(report.plan.layers[1].options)
    assert more[1].find_element(By.CSS_SELECTOR, ".is-chosen").text.endswith("chosen")
    head(browser, "Layer").click()
    head(browser, "Layer").click()
    body = more[1].find_element(By.XPATH, "ancestor::tbody[1]")
    assert body.find_element(By.CSS_SELECTOR, ".row").text.startswith("fc2")
    button.send_keys(Keys.SPACE)
    assert not more[1].is_displayed()


def test_tooltips_by_pointer_and_by_keyboard(browser):
    tip = browser.find_element(By.ID, "tip")
    assert not tip.is_displayed()
    chosen = browser.find_element(By.CSS_SELECTOR, "circle.chosen")
    browser.execute_script("arguments[0].focus()", chosen)
    assert "(chosen)" in tip.text
    point_at(browser, "[data-option='4x1:0.9'] rect")
    assert tip.text.startswith("fc1 · 4x1:0.9: loss 0.0")
    point_at(browser, ".flow .strip li")
    assert tip.text.startswith("fc1 · sparsecc.SparseMatMul_relu")


def test_nothing_sticks_out_on_a_phone(browser, page):
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", PHONE)
    try:
        browser.get(page.as_uri())
        widths = browser.execute_script(
            "return [document.documentElement.scrollWidth, window.innerWidth]"
        )
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert widths == [390, 390]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_stand_out_from_their_ground(browser, page, scheme):
    """WCAG 2.2 AA: 4.5 to 1 for text."""
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    browser.get(page.as_uri())
    ground = _colour(browser, "body", "backgroundColor")
    assert (_luminance(ground) < 0.2) == (scheme == "dark")
    for selector in ("h1", ".lead", ".why", ".choice", ".facts .good", "svg text", ".kicker"):
        what = "fill" if "svg" in selector else "color"
        light, dark = sorted(
            (_luminance(_colour(browser, selector, what)), _luminance(ground)), reverse=True
        )
        assert (light + 0.05) / (dark + 0.05) >= 4.5, selector


def test_names_of_a_model_are_shown_and_not_run(browser, report, tmp_path):
    rows = [dataclasses.replace(row, name=HOSTILE + row.name, why=HOSTILE) for row in report.rows]
    hostile = dataclasses.replace(report, rows=rows, title=HOSTILE)
    browser.get(hostile.save(tmp_path / "r.html").as_uri())
    assert browser.execute_script("return typeof hacked") == "undefined"
    assert names(browser) == [row.name for row in rows]
    assert browser.find_element(By.TAG_NAME, "h1").text == HOSTILE


def test_the_policy_stops_what_is_not_ours(browser):
    browser.execute_script(
        "const s = document.createElement('script'); s.text = 'window.hacked = 1';"
        "document.body.append(s)"
    )
    assert browser.execute_script("return typeof hacked") == "undefined"
    assert "Content Security Policy" in browser.get_log("browser")[0]["message"]


def _colour(browser, selector: str, what: str) -> tuple[int, ...]:
    text = browser.execute_script(
        f"return getComputedStyle(document.querySelector({selector!r})).{what}"
    )
    return tuple(int(part) for part in text.partition("(")[2].rstrip(")").split(",")[:3])


def _luminance(colour: tuple[int, ...]) -> float:
    """Relative luminance as WCAG defines it, 0 to 1."""
    linear = [
        part / 255 / 12.92 if part / 255 <= 0.04045 else ((part / 255 + 0.055) / 1.055) ** 2.4
        for part in colour
    ]
    return sum(part * weight for part, weight in zip(linear, (0.2126, 0.7152, 0.0722), strict=True))
