"""The page in a real Chromium: everything a reader does, and no error in the console."""

import contextlib
import itertools
import shutil

import pytest

from stjax.report import report
from tests.report.made_run import make_run

webdriver = pytest.importorskip("selenium.webdriver", reason="needs the extra `browser` (selenium)")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
pytestmark = [
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs an installed chromium and chromedriver"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"),
)
GENES = ("ERBB2", "GNAS", "FASN", "ERBB3")
WIDE, NARROW = 1400, 420


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The page of one run, and that of two."""
    folder = tmp_path_factory.mktemp("browser")
    runs = [
        make_run(folder / "first", genes=GENES, sections=("S1", "<S2>")),
        make_run(folder / "second", genes=GENES, sections=("S1", "<S2>"), seed=4, noise=1.0, synthetic=True),
    ]
    report(runs[:1], folder / "one.html")
    report(runs, folder / "two.html")
    return folder


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.set_script_timeout(20)
    yield driver
    driver.quit()


@contextlib.contextmanager
def opened(browser, path, width=WIDE):
    """The page drawn at a width; afterwards, that nothing went wrong."""
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.get(path.as_uri())
    settle(browser)
    yield browser
    assert [entry for entry in browser.get_log("browser") if entry["level"] != "DEBUG"] == []


def settle(browser):
    """Waits for maps to be unpacked and drawn."""
    browser.execute_async_script(
        "const done = arguments[0]; setTimeout(() => requestAnimationFrame(() => requestAnimationFrame(done)), 150);"
    )


def js(browser, code, *arguments):
    return browser.execute_script(code, *arguments)


def click(browser, selector):
    element = browser.find_element("css selector", selector)
    js(browser, "arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", element)
    element.click()
    settle(browser)
    return element


def press(browser, *keys):
    webdriver.ActionChains(browser).send_keys(*keys).perform()
    settle(browser)


def pixels(browser, panel=0):
    """What a map shows."""
    return js(browser, "return document.querySelectorAll('.panel .frame canvas')[arguments[0]].toDataURL()", panel)


def column(browser, place):
    rows = "#gene-table tbody tr > :nth-child(" + str(place) + ")"
    return js(browser, "return [...document.querySelectorAll(arguments[0])].map((e) => e.textContent)", rows)


def test_genes_are_sorted_and_searched(browser, files):
    with opened(browser, files / "one.html"):
        assert len(column(browser, 1)) == 4
        best = [float(value) for value in column(browser, 3)[:3]]
        assert best == sorted(best, reverse=True)
        assert column(browser, 3)[3] == "–"  # noqa: RUF001 -- a constant prediction has no PCC, and comes last
        click(browser, "#gene-table thead [data-column=gene]")
        assert column(browser, 1) == sorted(GENES)
        assert js(browser, "return document.querySelector('[aria-sort=ascending] button').dataset.column") == "gene"
        press(browser, webdriver.Keys.ENTER)  # the header kept the focus
        assert column(browser, 1) == sorted(GENES, reverse=True)
        click(browser, "#gene-search").send_keys("erbb")
        assert column(browser, 1) == ["ERBB3", "ERBB2"]
        assert browser.find_element("id", "gene-count").text == "2 of 4 genes"


def test_gene_is_picked_by_table_list_and_dot(browser, files):
    with opened(browser, files / "one.html"):
        best = browser.find_element("css selector", ".gene-name").text
        row, other = next((row, gene) for row, gene in enumerate(GENES) if gene not in (best, "FASN"))
        before = pixels(browser)
        click(browser, f"#gene-table [data-row='{row}'] button")
        assert browser.find_element("css selector", ".gene-name").text == other
        assert pixels(browser) != before
        assert js(browser, "return document.activeElement.id") == "panels"
        entry = click(browser, "#map-gene")
        assert js(browser, "return arguments[0].getAttribute('aria-expanded')", entry) == "true"
        entry.send_keys("fas", webdriver.Keys.ENTER)
        settle(browser)
        assert browser.find_element("css selector", ".gene-name").text == "FASN"
        assert browser.find_element("css selector", "#gene-table tr.chosen th").text == "FASN"
        entry.send_keys("nothing like it", webdriver.Keys.ESCAPE)
        assert entry.get_attribute("value") == "FASN"
        dots = browser.find_elements("css selector", "#scatter .dot:not(.chosen)")
        js(browser, "arguments[0].dispatchEvent(new MouseEvent('click'))", dots[0])
        settle(browser)
        assert browser.find_element("css selector", ".gene-name").text != "FASN"


def test_map_is_changed_by_its_controls(browser, files):
    with opened(browser, files / "one.html"):
        assert len(browser.find_elements("css selector", ".panel")) == 3
        seen = [pixels(browser)]
        js(
            browser,
            "const s = document.getElementById('map-opacity'); s.value = 20; s.dispatchEvent(new Event('input'))",
        )
        settle(browser)
        assert browser.find_element("id", "map-opacity-value").text == "20 %"
        seen.append(pixels(browser))
        for selector in ("#map-grey", "#map-shared", "#zoom-in", "#zoom-out"):
            click(browser, selector)
            seen.append(pixels(browser))
        assert (
            len(set(seen[:-1])) == len(seen) - 1
        )  # every control but the last shows; zooming out again undoes zooming in
        click(browser, "#zoom-fit")
        for view, panels in (("truth", 1), ("interval", 1), ("all", 3)):
            click(browser, f"#map-view label:has([value={view}])")
            assert len(browser.find_elements("css selector", ".panel")) == panels
        js(
            browser,
            "const s = document.getElementById('map-section'); s.value = '1'; s.dispatchEvent(new Event('change'))",
        )
        settle(browser)
        assert "in section <S2>" in browser.find_element("id", "gene-facts").text
        assert pixels(browser) not in seen


def test_a_map_that_does_not_vary_is_in_one_colour_and_says_so(browser, files):
    def said():
        return [title.text for title in browser.find_elements("css selector", ".panel h3")]

    with opened(browser, files / "one.html"):
        assert said() == ["Measured", "Predicted", "Predicted \u2212 measured"]
        entry = click(browser, "#map-gene")
        entry.send_keys("ERBB3", webdriver.Keys.ENTER)  # whose prediction `make_run` made constant
        settle(browser)
        assert said() == ["Measured", "Predicted: does not vary", "Predicted \u2212 measured"]
        click(browser, "#map-view label:has([value=interval])")  # predictions -1 and +1, each with its own rounding
        assert said() == ["Width of the prediction interval: does not vary"]
        assert "does not vary" in browser.find_element("css selector", ".panel canvas").get_attribute("aria-label")


def test_spots_say_their_values_to_pointer_and_keys(browser, files):
    with opened(browser, files / "one.html"):
        canvas = browser.find_element("css selector", ".panel canvas")
        js(browser, "arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", canvas)
        for place in itertools.product(range(-36, 37, 12), repeat=2):  # finer than a spot, over more than a pitch
            webdriver.ActionChains(browser, duration=0).move_to_element_with_offset(canvas, *place).perform()
            if browser.find_element("id", "tip").is_displayed():
                break
        text = browser.find_element("id", "tip").text
        assert text.startswith("spot S1_")
        assert "measured" in text
        assert "predicted" in text
        browser.find_element("id", "panels").click()
        press(browser, "]")
        assert "measured" in browser.find_element("id", "readout").text
        before = pixels(browser)
        press(browser, webdriver.Keys.ARROW_LEFT)
        assert pixels(browser) != before
        press(browser, "0")
        press(browser, "+")
        assert pixels(browser) != before


@pytest.mark.parametrize("width", [WIDE, NARROW])
@pytest.mark.parametrize("name", ["one.html", "two.html"])
def test_page_fits_the_window(browser, files, name, width):
    with opened(browser, files / name, width):
        assert js(browser, "return document.documentElement.scrollWidth") == width
        wide = js(
            browser,
            """return [...document.querySelectorAll('main *, header *')]
            .filter((e) => !e.closest('.scroll, .hidden, svg') && e.getBoundingClientRect().right > innerWidth + 1)
            .map((e) => e.outerHTML.slice(0, 90))""",
        )
        assert wide == []
        charts = js(
            browser, "return [...document.querySelectorAll('.plot svg')].map((e) => e.getAttribute('aria-label'))"
        )
        assert len(charts) == (5 if name == "one.html" else 6)
        assert all(charts)


def test_everything_is_reached_and_named_by_keyboard(browser, files):
    with opened(browser, files / "two.html"):
        unnamed = js(
            browser,
            """return [...document.querySelectorAll('button, select, input, [tabindex], canvas[role], svg[role], a')]
            .filter((e) => e.getClientRects().length && !e.getAttribute('aria-label'))
            .filter((e) => !(e.closest('label') || e.labels?.length || e.textContent.trim()))
            .map((e) => e.outerHTML.slice(0, 100))""",
        )
        assert unnamed == []
        js(browser, "document.body.focus()")
        reached = set()
        for _ in range(60):
            webdriver.ActionChains(browser).send_keys(webdriver.Keys.TAB).perform()
            reached.add(js(browser, "return document.activeElement.id || document.activeElement.name"))
        wanted = {
            "run",
            "theme",
            "print",
            "forest-figure",
            "gene-search",
            "map-gene",
            "map-opacity",
            "map-view",
            "panels",
        }
        assert wanted <= reached, wanted - reached
        js(browser, "document.querySelector('#gene-table tbody [tabindex=\"0\"]').focus()")
        press(browser, webdriver.Keys.END)
        press(browser, webdriver.Keys.ARROW_UP)
        third = column(browser, 1)[2]
        assert js(browser, "return document.activeElement.textContent") == third
        press(browser, webdriver.Keys.ENTER)
        assert browser.find_element("css selector", ".gene-name").text == third


def test_run_is_chosen_for_the_whole_page(browser, files):
    with opened(browser, files / "two.html"):
        assert "SYNTHETIC DATA" in browser.find_element("tag name", "main").text
        before = browser.find_element("css selector", "#summary").text, column(browser, 3), pixels(browser, 1)
        js(browser, "const s = document.getElementById('run'); s.value = '1'; s.dispatchEvent(new Event('change'))")
        settle(browser)
        after = browser.find_element("css selector", "#summary").text, column(browser, 3), pixels(browser, 1)
        assert all(one != other for one, other in zip(before, after, strict=True))
        assert browser.find_element("css selector", ".run-name:not([hidden] *)").text == "second"


def test_theme_changes_and_paper_is_light(browser, files):
    with opened(browser, files / "one.html"):
        colour = "return getComputedStyle(document.body).backgroundColor"
        first = js(browser, colour)
        click(browser, "#theme")
        assert js(browser, colour) != first
        settle(browser)
        js(browser, "dispatchEvent(new Event('beforeprint'))")
        assert js(browser, "return document.documentElement.dataset.theme") == "light"
        assert js(browser, "return document.querySelector('#forest svg').getAttribute('viewBox')").startswith(
            "0 0 660 "
        )
        js(browser, "dispatchEvent(new Event('afterprint'))")
        printed = browser.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})
        assert len(printed["data"]) > 20_000
