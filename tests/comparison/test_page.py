"""The report page: one file, everything in it, nothing from outside; looked at in a real browser."""

import base64
import json
import math
import re
import shutil
import sys

import pytest
from matplotlib.image import imsave

import compare_runs
from comparison.entries import gather
from comparison.page import build, charts
from comparison.report import setups
from comparison.results import read_results

from .examples import write


def certificate(density):
    kept = round(100 * density)
    counts = {"kept": kept, "total": 100, "density": density}
    return {
        "asked": {"ratio": 100 * (1 - density), "criterion": "snip"},
        "asked_keep": kept,
        **counts,
        "ratio": 100 * (1 - density),
        "groups": {"shared": counts},
        "tasks": {"seg": counts},
        "layers": {"stem": {"kept": kept // 2, "total": 50}, "head": {"kept": kept - kept // 2, "total": 50}},
        "hash": "0" * 64,
        "warnings": [],
    }


@pytest.fixture
def folder(tmp_path):
    out = tmp_path / "out"
    for seed in range(3):
        write(out, "baseline", seed, (30.0 + seed, 1.0, 0.50))
        for ratio in (90, 95):
            drop = (ratio - 85) / 5
            cert = certificate(1 - ratio / 100)
            write(out, "random", seed, (20.0 + seed - drop, 1.5, 0.6), ratio=ratio, certificate=cert)
            write(
                out, "disparse_static", seed, (25.0 + seed - drop, 1.2, 0.55), ratio=ratio, certificate=cert
            )
    return out


def made(folder, **options):
    return build.page(read_results([folder]), "A <study>", **options)


def test_the_page_needs_nothing_from_outside(folder):
    text = made(folder)
    body = re.sub(r"<script>.*?</script>", "", text, flags=re.S)
    assert not re.findall(r"(?:src|href)=[\"'](?!#|data:)", body)
    assert "A &lt;study&gt;" in body and "<study>" not in body


def test_every_score_and_certificate_is_on_it(folder):
    text = made(folder)
    assert text.count('<table class="sortable">') == 2  # one for each sparsity
    assert "<td>24.00 ± 1.00</td>" in text.replace(" class=best", "")  # 25 + mean seed 1 - 2 at 95 %
    assert text.count("<details>") == 12 and "nyuv2, test images, protocol metric" in text


def test_the_command_repeats_every_run(folder):
    (line,) = build.commands(read_results([folder]))
    # the example files name one setting of their own; what they leave out counts as the schema's default
    assert line == (
        "python3 reproduce.py --dataset nyuv2 --methods disparse_static,random --ratios 90,95 --seeds 0,1,2 "
        "--split test --set 'data.tasks=[]' --set optim.iterations=100 --set dynamic.until=15000"
    )


def test_a_cell_says_who_is_better_by_how_much(folder):
    results = [r for r in read_results([folder]) if r.ratio in (None, 90)]
    entries = gather(results, "metric", setups())
    figure = charts.matrix(entries)
    labels = [entry.label for entry in entries]
    row, column = labels.index("disparse_static"), labels.index("random")
    first = figure.data[0]  # mIoU, always 5 better
    assert (first.z[row][column], first.text[row][column]) == (1, "+5.00")
    assert (first.z[column][row], first.z[row][row]) == (-1, None)


def test_curves_have_a_line_for_each_method_and_the_dense_level(folder):
    entries = {
        ratio: gather([r for r in read_results([folder]) if r.ratio in (None, ratio)], "metric", setups())
        for ratio in (90, 95)
    }
    dense = entries[90][0]
    figure = charts.curves({ratio: group[1:] for ratio, group in entries.items()}, dense)
    shown = {trace.name: trace for trace in figure.data if trace.visible}
    assert tuple(shown["random"].x) == (90, 95) and tuple(shown["random"].y) == (20.0, 19.0)
    assert tuple(shown["dense"].y) == (31.0, 31.0)


def test_the_frontier_joins_what_nothing_beats(folder):
    entries = {
        ratio: gather([r for r in read_results([folder]) if r.ratio in (None, ratio)], "metric", setups())
        for ratio in (90, 95)
    }
    methods, line = charts.frontier({r: group[1:] for r, group in entries.items()}, entries[90][0]).data
    assert len(methods.x) == 4  # two methods at two sparsities
    # disparse_static loses less than random at either, and less where more is kept
    assert list(line.text) == ["disparse_static", "disparse_static"] and line.x == pytest.approx([5.0, 10.0])
    assert line.y[0] < line.y[1]


def test_a_reference_for_one_task_pays_for_none(folder):
    write(folder, "baseline", 0, (33.0, 0.9, 0.5), variant="+tasks=seg", name="nyuv2_baseline+tasks=seg")
    path = folder / "seed0" / "nyuv2_baseline+tasks=seg.json"
    content = json.loads(path.read_text())
    del content["metrics"]["edge"], content["directions"]["edge"]
    path.write_text(json.dumps(content))
    results = [r for r in read_results([folder]) if r.ratio in (None, 90)]
    entries = gather(results, "metric", setups())
    dense = next(entry for entry in entries if entry.label == "dense")
    others = [entry for entry in entries if entry is not dense]
    seg, edge = charts.changes(others, dense).data
    place = [entry.label for entry in others].index("baseline:tasks=seg")
    # 33 against 30 is +10 %, 0.9 against 1 is +10 %
    assert seg.x[place] == pytest.approx(10.0) and math.isnan(edge.x[place])
    assert "baseline:tasks=seg" in made(folder)


def test_panels_are_embedded_once_for_each_method(folder, tmp_path):
    for method in ("random", "disparse_static"):
        pictures = folder / "seed0" / f"nyuv2_{method}_90_test_pictures"
        pictures.mkdir()
        for index in range(3):
            imsave(pictures / f"{index:04d}.png", [[[0.0, index / 3, 1.0]]])
    text = made(folder, panels=2)
    (data,) = re.findall(r'<script type="application/json">(.*?)</script>', text)
    found = json.loads(data)
    assert sorted(found) == ["disparse_static at 90 %", "random at 90 %"]
    assert list(found["random at 90 %"]) == ["0000", "0001"]
    assert found["random at 90 %"]["0000"].startswith("data:image/png;base64,")
    assert "base64" not in made(folder).split("</head>")[1]


def test_a_damaged_certificate_is_named(folder):
    path = folder / "seed0" / "nyuv2_random_90.json"
    content = json.loads(path.read_text())
    content["certificate"]["layers"] = [1]
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="nyuv2_random_90.json is a damaged result file: its certificate"):
        made(folder)


def test_the_command_writes_it(folder, tmp_path, monkeypatch, capsys):
    path = tmp_path / "deep" / "report.html"
    monkeypatch.setattr(sys, "argv", ["compare_runs.py", str(folder), "--html", str(path)])
    compare_runs.main()
    assert f"{path}" in capsys.readouterr().out
    assert path.read_text().startswith("<!doctype html>")


@pytest.mark.parametrize("words", [["--panels", "-1"], ["--html", "x.html", "--dataset", "nowhere"]])
def test_what_is_wrong_is_said_and_nothing_is_written(words, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["compare_runs.py", str(folder), *words])
    with pytest.raises(ValueError, match="--panels -1 is not a number of images|no result has dataset"):
        compare_runs.main()
    assert not (tmp_path / "x.html").exists()


# ------------------------------------------------------------------- in a browser
@pytest.fixture(scope="module")
def browser():
    """Headless Chromium; tests that need it are skipped where it is not installed."""
    webdriver = pytest.importorskip("selenium.webdriver")
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        pytest.skip("no chromium and chromedriver")
    options = webdriver.ChromeOptions()
    for word in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1280,900"):
        options.add_argument(word)
    options.binary_location = shutil.which("chromium")
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    driver = webdriver.Chrome(options=options, service=service)
    yield driver
    driver.quit()


@pytest.fixture
def opened(browser, folder, tmp_path):
    """The page of the example results, with pictures, in the browser, with no network to fall back on."""
    for method, blue in (("random", 0.0), ("disparse_static", 1.0)):
        pictures = folder / "seed0" / f"nyuv2_{method}_90_test_pictures"
        pictures.mkdir()
        imsave(pictures / "0000.png", [[[0.5, 0.5, blue]] * 300] * 100)
    path = tmp_path / "report.html"
    path.write_text(made(folder, panels=1))
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.get(path.as_uri())
    return browser


def texts(driver, selector):
    return driver.execute_script(
        "return [...document.querySelectorAll(arguments[0])].map((n) => n.innerText ?? n.textContent)",
        selector,
    )


@pytest.mark.slow
def test_in_a_browser_a_table_sorts_both_ways(opened):
    heads = texts(opened, "table:first-of-type th")[:6]
    miou = next(place for place, text in enumerate(heads) if text.startswith("seg mIoU"))
    press = "document.querySelectorAll('table')[0].querySelectorAll('th button')[arguments[0]].click()"
    rows = "[...document.querySelectorAll('table')[0].tBodies[0].rows]"
    first = f"return {rows}.map(row => row.cells[arguments[0]].innerText)"
    opened.execute_script(press, miou)
    rising = [float(text.split()[0]) for text in opened.execute_script(first, miou)]
    assert rising == sorted(rising) == [20.0, 25.0, 31.0]
    opened.execute_script(press, miou)
    assert [float(t.split()[0]) for t in opened.execute_script(first, miou)] == [31.0, 25.0, 20.0]
    opened.execute_script(press, 1)
    assert opened.execute_script(first, 1) == ["dense", "disparse_static", "random"]


@pytest.mark.slow
def test_in_a_browser_charts_are_drawn_and_say_more_under_the_pointer(opened):
    from selenium.webdriver import ActionChains

    assert opened.execute_script("return document.querySelectorAll('.main-svg').length") > 5
    point = opened.find_element("css selector", ".chart .scatterlayer .point")
    opened.execute_script("arguments[0].scrollIntoView({block: 'center'})", point)
    ActionChains(opened).move_to_element(point).pause(0.5).perform()
    (told, *_) = texts(opened, ".hoverlayer .hovertext")
    assert "3 seeds" in told or "dense" in told
    assert opened.get_log("browser") == []


@pytest.mark.slow
def test_in_a_browser_the_slider_moves_the_border(opened):
    clip = "return getComputedStyle(document.querySelector('.over')).clipPath"
    assert "50%" in opened.execute_script(clip)
    opened.execute_script(
        "const r = document.querySelector('.panels input'); r.value = 20; r.dispatchEvent(new Event('input'))"
    )
    assert "20%" in opened.execute_script(clip)
    sources = opened.execute_script("return [...document.querySelectorAll('.pair img')].map(i => i.src)")
    assert len(set(sources)) == 2 and all(source.startswith("data:image/png") for source in sources)


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 400])
def test_in_a_browser_nothing_sticks_out(width, opened):
    opened.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500},
    )
    opened.refresh()
    widths = "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    content, window = opened.execute_script(widths)
    assert content == window <= width


@pytest.mark.slow
def test_in_a_browser_the_printed_page_holds_everything(opened):
    pdf = base64.b64decode(opened.execute_cdp_cmd("Page.printToPDF", {"paperWidth": 8.3})["data"])
    assert pdf.startswith(b"%PDF") and 2 <= pdf.count(b"/Type /Page\n") + pdf.count(b"/Type /Page ") <= 20
