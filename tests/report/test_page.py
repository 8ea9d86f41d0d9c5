"""The page in a real browser: it sorts tables, shows tooltips and sends no requests; file names are not markup."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import made_runs
import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

from edgemobile.devices.host.counting import CacheMisses
from edgemobile.devices.host.estimating import Estimate
from edgemobile.devices.host.records import Prefix
from edgemobile.report.page import _summary, page
from edgemobile.report.plots import pareto_plot

HOSTILE = "</title><script>alert(1)</script>$\\frac{x$ & <img src=http://example.org/x>.onnx"
INT8 = "b" * 64


@pytest.fixture
def make(request: pytest.FixtureRequest):
    return next(one for one in request.config.pluginmanager.get_plugins() if hasattr(one, "make_scores"))


def _opened(browser, tmp_path: Path, text: str, width_px: int = 1200):
    path = tmp_path / "report.html"
    path.write_text(text, encoding="utf-8")
    browser.events.clear()
    browser.view(width_px, 844)
    browser.open(path)
    return path


@pytest.fixture
def opened(browser, everything, tmp_path: Path):
    path = _opened(browser, tmp_path, page(everything, "A report"))
    yield browser
    assert browser.complaints() == []
    assert browser.requests() == [path.as_uri()]


def _centre(browser, expression: str) -> tuple[float, float]:
    browser.js(f"({expression}).scrollIntoView({{block: 'center'}})")
    # The scroll that this makes hides a tip; let it pass first.
    browser.js("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    box = f"({expression}).getBoundingClientRect()"
    return tuple(browser.js(f"(b => [b.x + b.width / 2, b.y + b.height / 2])({box})"))


def test_a_click_sorts_by_value_and_another_turns_it_round(opened) -> None:
    column = "[...document.querySelectorAll('h2')].find(h => h.textContent === 'Files').parentNode"
    read = f"[...{column}.querySelectorAll('tbody tr')].map(row => row.cells[3].textContent)"
    button = f"{column}.querySelectorAll('th button')[3]"
    opened.click(*_centre(opened, button))
    assert opened.js(read) == ["4.00 MiB", "16.00 MiB"]  # as text, "16" would come first
    opened.click(*_centre(opened, button))
    assert opened.js(read) == ["16.00 MiB", "4.00 MiB"]
    assert opened.js(f"{button}.parentNode.getAttribute('aria-sort')") == "descending"


def test_what_has_no_value_stays_at_the_end(opened) -> None:
    section = "[...document.querySelectorAll('h2')].find(h => h.textContent === 'Cost of one inference').parentNode"
    read = f"[...{section}.querySelectorAll('tbody tr')].map(row => row.cells[2].textContent)"
    for _ in range(2):
        opened.click(*_centre(opened, f"{section}.querySelectorAll('th button')[2]"))
        assert opened.js(read)[2:] == ["–", "–"]


def test_the_pointer_over_a_point_shows_its_values(opened) -> None:
    tip = "document.getElementById('tip')"
    assert opened.js(f"{tip}.hidden")
    point = "[...document.querySelectorAll('.wide .tip')].find(t => t.ariaLabel.startsWith('float.onnx\\n'))"
    opened.hover(*_centre(opened, point))
    words = opened.js(f"{tip}.textContent")
    assert not opened.js(f"{tip}.hidden")
    for part in ("float.onnx", "5.00 ms", "top-1 80.00 %", "litert 2.3.0"):
        assert part in words
    opened.hover(2, 2)
    assert opened.js(f"{tip}.hidden")


def test_a_layer_and_an_op_answer_too(opened) -> None:
    for first, part in (("features.1", "diverges in its arithmetic"), ("Conv\\n", "90.0 %")):
        point = f"[...document.querySelectorAll('.wide .tip')].find(t => t.ariaLabel.startsWith('{first}'))"
        opened.hover(*_centre(opened, point))
        assert part in opened.js("document.getElementById('tip').textContent")


@pytest.mark.parametrize("dark", [False, True])
def test_a_phone_shows_all_of_it_without_sideways_scrolling(opened, dark: bool) -> None:
    opened.view(390, 844, dark=dark)
    assert opened.js("document.documentElement.scrollWidth") == 390
    assert opened.js("[...document.querySelectorAll('.narrow')].every(one => one.offsetParent)")
    assert opened.js("[...document.querySelectorAll('.wide')].every(one => !one.offsetParent)")
    paper = opened.js("getComputedStyle(document.body).backgroundColor")
    assert paper == ("rgb(21, 25, 29)" if dark else "rgb(255, 255, 254)")
    text = "getComputedStyle(document.querySelector('.narrow svg text'))"
    assert opened.js(f"parseFloat({text}.fontSize)") >= 10
    assert opened.js(f"{text}.fill") == ("rgb(152, 162, 173)" if dark else "rgb(102, 112, 122)")


def test_print_is_on_white_paper_whatever_the_screen_is(opened) -> None:
    opened.view(1200, 844, dark=True, media="print")
    assert opened.js("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 254)"
    assert opened.pdf().startswith(b"%PDF")


def test_instructions_never_stand_on_an_axis_of_time(opened) -> None:
    titles = opened.js(
        "[...document.querySelectorAll('figure')]"
        ".map(one => [one.textContent, one.querySelector('strong')?.textContent || ''])"
    )
    emulated = [text for text, title in titles if title.startswith("emulated")]
    assert len(emulated) == 2
    assert all("median latency" not in text for text in emulated)
    assert any("million instructions" in text for text in emulated)
    on_boards = [text for text, title in titles if title.startswith("pi5")]
    assert on_boards
    assert not any("instructions" in text for text in on_boards)


def test_an_unstable_figure_says_so(opened) -> None:
    text = opened.js("document.body.textContent")
    assert "unstable: int8" in text
    assert "the interquartile range is" in text


@pytest.mark.parametrize(
    ("second", "says"),
    [
        (
            0.78,
            "highest accuracy, within the intervals of others: 80.00 %: a.onnx; its interval overlaps that of b.onnx",
        ),
        (0.6, "most accurate: 80.00 %: a.onnx"),
        (None, "most accurate: 80.00 %: a.onnx"),
    ],
)
def test_one_file_is_the_most_accurate_only_beyond_its_interval(found, make, second: float | None, says: str) -> None:
    more = {} if second is None else {"b_onnx": (INT8, second)}
    all_of = found(make.make_scores(a_onnx=("a" * 64, 0.8), **more))
    (tile,) = [one for one in _summary(all_of) if "accura" in one.what]
    assert ": ".join((tile.what, tile.figure, tile.words)).replace("; 100 images of photos.zip (test)", "") == says


def test_one_file_is_the_fastest_only_beyond_its_interval(found, make) -> None:
    def tile(*ms: float) -> str:
        """Processes of these medians of the second file; the first takes 2 ms in all."""
        slow = tuple((int(one * 1e6),) * 5 for one in ms for _ in range(2))
        cases = make.make_case("a.onnx", "a" * 64, 2.0), make.make_case("b.onnx", INT8, 2.0, rounds_ns=slow)
        first = _summary(found(make.make_run(*cases)))[0]
        return ": ".join((first.what, first.figure, first.words))

    assert tile(2.3, 2.3, 2.31, 2.3, 2.3) == "fastest, pi5, 1 thread: 2.00 ms: a.onnx"
    doubtful = (
        "lowest median, within the intervals of others, pi5, 1 thread: 2.00 ms: a.onnx; "
        "its interval overlaps that of b.onnx"
    )
    assert tile(2.0, 2.06, 2.02, 1.99, 2.02) == doubtful


def test_a_failure_is_the_first_tile_and_red(browser, found, make, tmp_path: Path) -> None:
    layer = make.LayerParity("features.1", "Conv", 12.0, 0.5, 0.9, diverges_in="arithmetic")
    all_of = found(make.make_run(make.make_case("int8.onnx", INT8, 2.0)), make.make_parity(layer))
    assert [tile.failed for tile in _summary(all_of)] == [True, False, False]
    _opened(browser, tmp_path, page(all_of))
    tile = "document.querySelector('.summary div:first-child')"
    assert browser.js(f"{tile}.textContent").startswith("parity1 of 1 fail")
    assert browser.js(f"getComputedStyle({tile}.querySelector('p')).color") == "rgb(176, 0, 32)"


def test_tiles_and_verdicts_are_seen_without_scrolling(browser, everything, tmp_path: Path) -> None:
    _opened(browser, tmp_path, page(everything), width_px=1280)
    tops = browser.js("[...document.querySelectorAll('.summary div')].map(one => one.offsetTop)")
    assert len(set(tops)) == 1
    section = "[...document.querySelectorAll('h2')].find(h => h.textContent === 'Cost of one inference').parentNode"
    right = f"{section}.querySelector('tbody tr').cells[1].getBoundingClientRect().right"
    assert browser.js(f"{section}.querySelector('tbody tr').cells[1].textContent") in ("stable", "unstable")
    for width_px in (1280, 390):
        browser.view(width_px, 844)
        assert browser.js(right) <= width_px


def test_labels_of_many_points_do_not_cover_each_other(found, make) -> None:
    """Sixteen files with similar values: a label without room is omitted, and its point keeps its tooltip."""
    names = [f"net-{number:02}_onnx" for number in range(16)]
    cases = [
        make.make_case(name.replace("_", "."), f"{number:02}" * 32, 2.0 + 0.01 * number)
        for number, name in enumerate(names)
    ]
    scores = make.make_scores(**{name: (f"{number:02}" * 32, 0.8) for number, name in enumerate(names)})
    (line,) = found(make.make_run(*cases), scores).lines
    drawing = pareto_plot(line, 464)
    drawing.figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in drawing.figure.axes[0].texts if text.get_text().endswith(".onnx")]
    assert 2 <= len(boxes) < 16
    assert len(drawing.tips) == 16
    for index, box in enumerate(boxes):
        for other in boxes[:index]:
            width = min(box.x1, other.x1) - max(box.x0, other.x0)
            height = min(box.y1, other.y1) - max(box.y0, other.y0)
            assert min(width, height) < 6


@pytest.mark.parametrize(("second", "sure"), [(0.78, False), (0.6, True)])
def test_a_front_is_dotted_where_accuracies_do_not_differ_beyond_their_intervals(
    found, make, second: float, sure: bool
) -> None:
    run = make.make_run(make.make_case("a.onnx", "a" * 64, 5.0), make.make_case("b.onnx", INT8, 2.0))
    (line,) = found(run, make.make_scores(a_onnx=("a" * 64, 0.8), b_onnx=(INT8, second))).lines
    (steps,) = [one for one in pareto_plot(line, 464).figure.axes[0].lines if one.get_drawstyle() == "steps-post"]
    assert (steps.get_linestyle() == "-") is sure


def test_hostile_names_are_text(browser, found, make, tmp_path: Path) -> None:
    parity = make.make_parity(file=HOSTILE)
    layer = make.LayerParity(HOSTILE, HOSTILE, 5.0, 1, 1, diverges_in="arithmetic")
    parity = replace(parity, files=(replace(parity.files[0], layers=(layer,), missed=(HOSTILE,)),), notes=(HOSTILE,))
    manifest = make.make_manifest(labels=(HOSTILE, "dog"))
    manifest["command"] = HOSTILE
    run = make.make_run(
        make.make_case(HOSTILE, INT8, 2.0, profile=(make.OpTime(HOSTILE, HOSTILE, 5.0),)),
        device=HOSTILE,
        notes=(HOSTILE,),
    )
    path = _opened(browser, tmp_path, page(found(manifest, run, parity), HOSTILE))
    assert browser.js("document.title") == HOSTILE
    assert browser.js("document.querySelectorAll('script').length") == 1
    assert browser.js("document.querySelectorAll('img').length") == 0
    assert browser.complaints() == []
    assert browser.requests() == [path.as_uri()]


def test_the_policy_refuses_what_is_not_ours(browser, everything, tmp_path: Path) -> None:
    """If an escape were missing, no script would run and no request would be sent."""
    extra = "<script>document.title='taken'</script><img src='http://127.0.0.1:9/x'></main>"
    _opened(browser, tmp_path, page(everything, "A report").replace("</main>", extra))
    assert browser.js("document.title") == "A report"
    assert any("Content Security Policy" in words for words in browser.complaints())


@pytest.mark.parametrize("part", range(5))
def test_each_kind_alone_makes_a_page(found, make, part: int) -> None:
    records = [
        make.make_run(make.make_case("a.onnx", INT8, 2.0)),
        make.make_run(make.make_case("a.onnx", INT8, None)),
        make.make_manifest(),
        make.make_parity(),
        make.make_scores(a_onnx=(INT8, 0.5), v3=(None, 0.5)),
    ]
    text = page(found(records[part]), "t")
    assert text.startswith("<!doctype html>")
    assert len(text) < 500_000


def test_the_same_sources_give_the_same_page(everything) -> None:
    assert page(everything, "t") == page(everything, "t")


def test_the_cycles_of_layers_are_shown_by_op_as_estimated(found) -> None:
    def estimate(cycles: float) -> Estimate:
        return Estimate("cortex-a76", cycles, (CacheMisses(0, 0),) * 3, 0.999, "neoverse-n1", "19.1.7")

    prefixes = [("", "", 1), ("stem", "CONV_2D", 9), ("pool", "MEAN", 11), ("head", "CONV_2D", 21)]
    layers = tuple(
        Prefix(layer, op, 0, "int8", (millions * 10**6,), estimate(millions * 1e6)) for layer, op, millions in prefixes
    )
    case = made_runs.make_counted(prefixes=layers, estimate=estimate(21e6))
    text = page(found(made_runs.make_run(case)))
    assert "estimated for a Raspberry Pi 5, 2.4 GHz, not measured, by kind of op" in text
    assert "CONV_2D int8\n18.000 M cycles, 85.7 %\n2 layers" in text
