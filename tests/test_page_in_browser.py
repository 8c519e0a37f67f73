"""The page of a sweep in a real browser: what is drawn, what a mouse and a finger do, and how soon it is there."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from browser import Browser, needs_browser, started
from matplotlib.image import imread
from synthetic_sweep import Law, sweep_config, write_forecast, write_runs
from waiting import wait_until

from scaling import laws, report
from scaling.sweeps import load_runs

pytestmark = needs_browser
HOSTILE = "<script>document.title = 'taken'</script><img src=x onerror=\"document.title = 'taken'\"> & %{x} </style>"
PANELS = 7


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep with two broken runs, one of which ended with a hostile reason, its forecast and two tests of it."""
    home = tmp_path_factory.mktemp("runs") / "synthetic"
    ids = write_runs(sweep_config(), home, Law(), broken=2)
    write_forecast(sweep_config(), home, Law())
    for run_id in ids:
        path = home / run_id / "result.json"
        text = path.read_text()
        path.write_text(text.replace("the loss of step 812 is nan", HOSTILE.replace('"', '\\"')))
    report.write(home)
    return home


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with started(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def page(browser: Browser, home: Path) -> Browser:
    """The page on a desktop, in the light theme; nothing was complained of while it opened."""
    browser.complaints()
    browser.shape(1280, 900)
    browser.open(home / "report.html")
    assert browser.complaints() == []
    return browser


def column(page: Browser, key: str) -> list[str]:
    """What a column says of the rows that are shown, from the top, in full precision."""
    script = """
      const table = document.querySelector(".runs table");
      const at = table.querySelector(`th[data-key=${arguments[0]}]`).cellIndex;
      return [...table.tBodies[0].rows].filter((r) => r.offsetParent).map((r) => r.cells[at].dataset.value);"""
    return list(page.ask(script, key))


def heading(page: Browser, key: str) -> None:
    """A click on the name of a column."""
    page.click(page.all(f".runs th[data-key={key}] button")[0])


def colors(page: Browser) -> tuple[float, float]:
    """Brightness of the page's paper and of what figures are drawn on, from 0 to 1."""
    picture = imread(io.BytesIO(page.picture()))
    left, top, *_ = page.ask("const r = document.querySelector('.plot .nsewdrag').getBoundingClientRect();"
                             "return [r.left, r.top];")  # fmt: skip
    return float(picture[5, 5, :3].mean()), float(picture[int(top) + 6, int(left) + 6, :3].mean())


def test_every_panel_is_drawn_under_its_name_soon_after_the_page_opens(page):
    assert len(page.all(".plot .main-svg .xaxislayer-above, .plot .main-svg .xaxislayer-below")) >= PANELS
    names = page.ask("return [...document.querySelectorAll('.plot')].map((p) => p.getAttribute('aria-label'))")
    assert len(set(names)) == PANELS and "Forecast against outcome: The test, close up" in names
    (painted,) = page.ask("return performance.getEntriesByName('first-contentful-paint').map((e) => e.startTime)")
    drawn = page.ask("return performance.getEntriesByName('drawn')[0].startTime")
    print(f"first paint {painted:.0f} ms, all figures {drawn:.0f} ms")
    assert painted < 10_000  # 0.2 to 1 s on a quiet machine: nothing is waited for, as from a network


def test_hovering_over_a_run_tells_about_it(page, home):
    at = """
      const place = document.querySelector("#isoflop .plot");
      place.scrollIntoView({block: "center"});
      const box = place.querySelector(".nsewdrag").getBoundingClientRect();
      const trace = place.data.find((t) => t.mode === "markers" && t.text);
      const to = (axis, value) => axis.d2p ? axis.d2p(value) : axis.c2p(axis.d2c(value));
      const full = place._fullLayout;
      return [box.left + to(full.xaxis, trace.x[0]), box.top + to(full.yaxis, trace.y[0]), trace.text[0]];"""
    x, y, text = page.ask(at)
    page.hover(x - 3, y)
    page.hover(x, y)
    wait_until(lambda: page.all("#isoflop .hovertext"))
    said = page.ask("return document.querySelector('#isoflop .hoverlayer').textContent")
    runs = load_runs(home).set_index("run_id")
    run = text.split("<br>")[0]
    assert run in said and f"{runs.loss[run]:.4f}" in said


def test_a_zoom_shows_its_own_ticks_and_is_undone_by_a_button(page):
    ask = "const p = document.querySelector('#isoflop .plot'); return [p.layout.xaxis.range, p.layout.xaxis.tickmode]"
    (reset,) = page.all("#isoflop .reset")
    before = page.ask(ask)
    assert not reset.is_displayed()
    left, top, width, height = page.ask(
        "const p = document.querySelector('#isoflop .plot'); p.scrollIntoView({block: 'center'});"
        "const r = p.querySelector('.nsewdrag').getBoundingClientRect(); return [r.left, r.top, r.width, r.height]"
    )
    page.mouse("mousePressed", left + 0.3 * width, top + 0.3 * height, 1)
    page.mouse("mouseMoved", left + 0.5 * width, top + 0.6 * height, 1)
    page.mouse("mouseReleased", left + 0.5 * width, top + 0.6 * height)
    wait_until(reset.is_displayed)
    wait_until(lambda: page.ask(ask)[1] == "auto")
    zoomed = page.ask(ask)[0]
    assert np.diff(zoomed) == pytest.approx(0.2 * np.diff(before[0]), rel=0.05)
    page.click(reset)
    wait_until(lambda: page.ask(ask) == before)
    assert not reset.is_displayed() and page.complaints() == []


def test_a_figure_is_saved_as_a_png_that_names_it(page, tmp_path):
    page.downloads_to(tmp_path)
    page.click(page.all("#forecast .png")[1])
    path = tmp_path / "synthetic-forecast-2.png"
    wait_until(path.exists)
    wait_until(lambda: path.read_bytes()[-8:-4] == b"IEND")
    pixels = imread(path)
    assert pixels.shape[:2] == (1200, 1800)
    title, inside = pixels[:80, :, :3].min(2), pixels[200:900, 300:1500, :3].min(2)
    assert (title < 0.5).sum() > 300 and (inside < 0.95).mean() > 0.1 and page.complaints() == []


def test_the_table_is_sorted_by_any_column_and_what_is_not_known_stays_last(page, home):
    losses = load_runs(home).loss
    shown = sorted(losses.dropna())
    heading(page, "loss")
    assert [float(v) for v in column(page, "loss")[: len(shown)]] == pytest.approx(shown)
    assert column(page, "loss")[len(shown) :] == [""] * int(losses.isna().sum())
    heading(page, "loss")
    assert [float(v) for v in column(page, "loss")[: len(shown)]] == pytest.approx(shown[::-1])
    assert column(page, "loss")[len(shown) :] == [""] * int(losses.isna().sum())
    assert page.all(".runs th[aria-sort=descending]")[0].get_attribute("data-key") == "loss"
    heading(page, "run_id")
    assert column(page, "run_id") == sorted(column(page, "run_id"), key=str.lower)
    assert len(page.all(".runs th[aria-sort]")) == 1


def test_the_rows_that_are_shown_are_a_csv_that_a_law_can_be_fitted_to(page, home, tmp_path):
    (field,) = page.all(".runs input")
    field.send_keys("fit completed")
    runs = load_runs(home).query("role == 'fit' and status == 'completed'").sort_values("loss")
    assert sorted(column(page, "run_id")) == sorted(runs.run_id)
    assert page.all(".runs output")[0].text == f"{len(runs)} of 17"
    heading(page, "loss")
    page.downloads_to(tmp_path)
    page.click(page.all(".runs .csv")[0])
    path = tmp_path / "synthetic.csv"
    wait_until(lambda: path.exists() and path.stat().st_size)
    rows = list(csv.DictReader(path.open(encoding="utf-8")))
    assert [row["run_id"] for row in rows] == list(runs.run_id)
    table = laws.read_csv(path, N="params", D="tokens", loss="loss", C="flops")
    for read, written in ((table.N, runs.params_total), (table.flops, runs.flops), (table.loss, runs.loss)):
        np.testing.assert_array_equal(read, written)
    path.unlink()
    field.clear()
    field.send_keys("diverged")
    wait_until(lambda: len(column(page, "run_id")) == 1)
    page.click(page.all(".runs .csv")[0])
    wait_until(lambda: path.exists() and path.stat().st_size)
    assert [row["status"] for row in csv.DictReader(path.open(encoding="utf-8"))] == [f"diverged: {HOSTILE}"]


def test_what_a_run_says_is_text_and_nothing_else(page):
    assert page.ask("return document.title") == "synthetic: scaling report"
    assert page.ask("return document.querySelectorAll('main img, main td script').length") == 0
    assert HOSTILE in page.ask("return document.querySelector('.runs').textContent")


def test_the_dark_theme_reaches_page_and_figures(page):
    assert min(colors(page)) > 0.9
    page.shape(1280, 900, dark=True)
    wait_until(lambda: page.ask("return performance.getEntriesByName('drawn').length") == 2)
    assert max(colors(page)) < 0.2 and page.complaints() == []


@pytest.mark.parametrize("dark", [False, True])
def test_a_phone_scrolls_downwards_only_and_shows_the_losses(page, home, dark):
    page.shape(390, dark=dark)
    page.open(home / "report.html")
    assert page.ask("return [document.documentElement.scrollWidth, window.innerWidth]") == [390, 390]
    ends = page.ask("return [...document.querySelectorAll('.runs [data-key=loss], .plot')]"
                    ".map((e) => e.getBoundingClientRect().right)")  # fmt: skip
    assert max(ends) <= 390
    sizes = page.ask("return [...document.querySelectorAll('.plot text')]"
                     ".map((e) => parseFloat(getComputedStyle(e).fontSize))")  # fmt: skip
    assert min(sizes) >= 10 and page.complaints() == []


def test_the_page_of_several_groups_of_a_table_is_drawn_as_well(browser, tmp_path):
    rng = np.random.default_rng(0)
    N, D, group = (grid.ravel() for grid in np.meshgrid([1e8, 3e8, 1e9], [2e9, 6e9, 2e10], [0, 1]))
    loss = 1.8 + 480 / N**0.35 + (2100 - 300 * group) / D**0.37
    table = {"params": N, "tokens": D, "loss": loss * np.exp(0.002 * rng.standard_normal(len(N)))}
    names = [HOSTILE if which else "$\\baseline$" for which in group]
    fit = laws.fit(laws.Runs(table), "chinchilla", group=names, shared=("alpha", "beta"), loss=laws.l2(), starts=8)
    page = report.write_fit(fit, tmp_path / "groups.html")
    for width in (1280, 390):
        browser.shape(width)
        browser.open(page)
        assert browser.ask("const e = document.documentElement; return e.scrollWidth === e.clientWidth")
        assert browser.complaints() == [] and browser.ask("return document.title").endswith("scaling report")
    labels = browser.ask("return [...document.querySelectorAll('.plot')].map((p) => p.getAttribute('aria-label'))")
    assert len(set(labels)) == len(labels) == 7
    assert HOSTILE in browser.ask("return document.querySelector('#groups').textContent")


def test_a_keyboard_reaches_every_control_and_each_has_a_name(page):
    nameless = page.ask("""
      return [...document.querySelectorAll("button, input, a[href], [role=img]")].filter((e) =>
        !(e.getAttribute("aria-label") || e.textContent.trim() || (e.labels && e.labels.length))).length""")
    assert nameless == 0
    heads = page.ask("return [...document.querySelectorAll('table')].every((t) => t.querySelector('th[scope]'))")
    assert heads and page.ask("return document.querySelectorAll('.runs caption').length") == 1
    (button,) = page.all(".runs th[data-key=params] button")
    page.ask("arguments[0].focus()", button)
    button.send_keys("\ue007")  # return
    sizes = [float(value) for value in column(page, "params")]
    assert sizes == sorted(sizes)
