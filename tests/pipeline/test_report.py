from __future__ import annotations

import re
import time
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from pipeline.errors import UsageError
from pipeline.report import print_summary, render_html, render_markdown
from pipeline.report.chart import panels
from pipeline.report.view import build
from tests.pipeline.report_example import TARGET, example_report, stage, write_example


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("workspace") / "runs" / "20260301-120003-jetson-xavier"
    path.mkdir(parents=True)
    write_example(path)
    return path


@pytest.fixture(scope="module")
def page(run_dir: Path) -> str:
    return render_html(example_report(), run_dir)


@pytest.fixture(scope="module")
def markdown(run_dir: Path) -> str:
    return render_markdown(example_report(), run_dir)


def summary(report: dict[str, Any], width: int) -> str:
    out = StringIO()
    print_summary(report, Console(file=out, width=width))
    return out.getvalue()


def text_of(page: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page.split("</style>")[1]))


class _Balance(HTMLParser):
    VOID = frozenset({"meta", "img", "br", "!doctype"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_well_formed(page: str) -> None:
    parser = _Balance()
    parser.feed(page)
    assert parser.open == []


def test_the_page_needs_no_other_file(page: str) -> None:
    sources = re.findall(r'(?:src|href)\s*=\s*"([^"]*)', page)
    assert sources
    assert all(s.startswith("data:image/png;base64,") for s in sources)
    assert "http" not in page
    assert "@import" not in page


def test_the_page_is_rendered_in_under_a_second(run_dir: Path, page: str) -> None:
    begin = time.process_time()  # the page's own work: a machine that is in use takes nothing from it
    render_html(example_report(), run_dir)
    assert time.process_time() - begin < 1.0


def test_every_stage_and_its_numbers_are_there(page: str, markdown: str) -> None:
    for text in (text_of(page), markdown):
        for expected in ("teach", "benchmark", "27.21 dB", "0.8327", "−0.41 dB", "0.287 M", "1.37 G", "6.94 MB", "3 min 7 s", "25.81 dB"):
            assert expected in text, expected


def test_delta_is_against_the_stage_before_that_has_a_psnr() -> None:
    rows = {s.id: s.delta.text for s in build(example_report()).stages}
    assert rows == {
        "teach": "–",
        "distill": "−0.41 dB",
        "prune": "−0.35 dB",
        "quantize": "−0.07 dB",
        "compile": "–",
        "benchmark": "−0.01 dB",
    }


def test_gates_are_put_in_words_with_margin_and_reason(page: str, markdown: str) -> None:
    for text in (text_of(page), markdown):
        assert "PSNR: at most 0.30 dB worse than distill" in text
        assert "PSNR: at most 0.20 dB worse than prune, on the single worst image" in text
        assert "PSNR: at most 0.50 dB worse than teach, at the pessimistic end of a 95 % interval" in text
        assert "Latency p90: at most 22.2 ms" in text
        assert "no evidence 'target'" in text.replace("&#39;", "'")
    margins = [(g.metric, g.margin.text, g.verdict) for g in build(example_report()).gates]
    assert margins == [
        ("psnr_gain", "+1.21 dB", "passed"),
        ("psnr", "+0.09 dB", "passed"),
        ("psnr", "−0.05 dB", "failed"),
        ("psnr", "+0.13 dB", "passed"),
        ("size", "+2.79 MB", "passed"),
        ("latency_p90", "+2.44 ms", "passed"),
        ("latency_p90", "–", "unproven"),
        ("lpips", "NaN", "failed"),
    ]


def test_unproven_looks_different_from_failed(page: str) -> None:
    assert '<span class="pill unproven"><b aria-hidden="true">?</b> unproven</span>' in page
    assert '<span class="pill failed"><b aria-hidden="true">✗</b> failed</span>' in page
    assert ".gate-failed > *" in page
    assert ".gate-unproven > *" in page


def test_nan_is_red_and_missing_is_a_dash(page: str, markdown: str) -> None:
    assert re.search(r'<span class="num nan"[^>]*>NaN</span>', page)
    assert re.search(r'<span class="num missing"[^>]*>–</span>', page)
    assert "**NaN**" in markdown
    assert "| – |" in markdown


def test_no_host_latency_is_called_the_boards(run_dir: Path) -> None:
    report = example_report()
    for entry in report["stages"]:
        for m in entry["measurements"] + [m for c in entry["candidates"] for m in c["measurements"]]:
            if m["name"].startswith("latency") and m["evidence"] == "host":
                m["value"] = 77.7
    view = build(report)
    latencies = [i for s in view.stages for row in (s, *s.candidates) for i in row.measured.latencies]
    hosts = [i for i in latencies if i.number.text == "77.7 ms"]
    assert len(hosts) == 8
    assert {i.origin for i in hosts} == {"measured on this host"}
    assert all("77.7" not in p.bars[0].number.text for p in panels(view) if TARGET in p.subtitle)
    cells = re.findall(r'<div class="latency">(.*?)</div>', render_html(report, run_dir), re.DOTALL)
    assert all(("measured on this host" in c) == ("77.7 ms" in c) for c in cells)
    assert all((f"estimated for {TARGET}" in c) == ("18.3 ms" in c) for c in cells)
    for part in re.findall(r"p50 77\.7 ms[^|<]*", render_markdown(report, run_dir)):
        assert "measured on this host" in part
        assert TARGET not in part
    for line in summary(report, 120).splitlines():
        assert "77.7 ms" not in line or ("measured on this host" in line and TARGET not in line)


def test_latencies_of_different_origin_or_frame_never_share_a_panel() -> None:
    view = build(example_report())
    shown = {(p.title, p.subtitle): [b.stage for b in p.bars] for p in panels(view)}
    assert shown[("Latency p50", "measured on this host, 256×256")] == ["teach", "distill", "prune", "compile"]
    assert shown[("Latency p50", "measured on this host, 1920×1080")] == ["benchmark"]
    assert shown[("Latency p50", f"estimated for {TARGET}, 1920×1080")] == ["benchmark"]
    marks = [p.mark.text for p in panels(view) if p.mark]
    assert marks == ["budget 22.2 ms"]


def test_psnr_bars_start_at_the_blurred_input_and_stay_in_order() -> None:
    panel = panels(build(example_report()))[0]
    assert panel.subtitle == "bars start at the blurred input, 25.41 dB"
    widths = {b.stage: b.width for b in panel.bars}
    assert widths["teach"] > widths["distill"] > widths["prune"] > widths["quantize"] > widths["benchmark"] > widths["compile"] == 0


def test_a_stage_worse_than_the_blurred_input_goes_left_of_the_line() -> None:
    report = example_report()
    report["stages"][1]["measurements"][0]["value"] = 24.0
    panel = panels(build(report))[0]
    bar = panel.bars[1]
    assert bar.below
    assert bar.x + bar.width == pytest.approx(panel.baseline)


def test_candidates_show_chosen_lost_and_why(page: str, markdown: str) -> None:
    assert "onnxruntime-int8" in page
    assert "fastest that passes" in page
    assert "lost" in text_of(page)
    assert "| **chosen** | fastest that passes |" in markdown
    assert "0.62 dB below distill" in markdown
    assert "the mildest ratio that pays (speedup 1.26 x)" in markdown
    assert "<small>speedup 1.26 x</small>" in page


def test_text_from_the_report_is_never_markup(page: str, markdown: str, run_dir: Path) -> None:
    assert "parity 41 dB | &lt;60 dB&gt;" in page
    assert r"parity 41 dB \| &lt;60 dB>" in markdown
    report = example_report()
    report["stages"][0]["notes"] = ["<script>alert(1)</script>"]
    assert "<script" not in render_html(report, run_dir)


def test_a_failed_stage_shows_its_error_and_skipped_ones_stay_visible(tmp_path: Path) -> None:
    report = example_report() | {"bundle": None, "verdict": "failed"}
    report["stages"] = [
        stage(
            "teach", "distill.teach", "A teacher", "failed", 1.0, error="stage teach: ValueError: odd\nhint: the traceback is in log.txt"
        ),
        stage("distill", "distill.student", "A student", "skipped", 0.0),
    ]
    for text in (text_of(render_html(report, tmp_path)), render_markdown(report, tmp_path)):
        assert "ValueError: odd" in text
        assert "skipped" in text
        assert "27." not in text
    assert "failed" in summary(report, 100)


def test_a_report_with_nothing_but_the_normative_keys_renders(tmp_path: Path) -> None:
    bare = {"schema": 1, "target": "host", "verdict": "passed", "seconds": 1.0, "bundle": "bundle"}
    entry = {"id": "a", "uses": "a.stage", "status": "ran", "key": "k", "seconds": 1.0}
    report = bare | {"stages": [entry | {"outputs": {}, "measurements": [], "gates": [], "candidates": [], "notes": []}]}
    assert "This run has no gates." in render_html(report, tmp_path)
    assert "# ✓ passed · host · 1.0 s" in render_markdown(report, tmp_path)
    assert "✓ passed" in summary(report, 80)


def test_another_schema_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"report.json: has schema 2, this version reads 1\nhint: render it with"):
        render_markdown(example_report() | {"schema": 2}, tmp_path)


@pytest.mark.parametrize("width", [80, 100, 160])
def test_the_summary_fits_the_console(width: int) -> None:
    lines = summary(example_report(), width).splitlines()
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    for expected in ("27.21 dB", "−0.41 dB", "✗ failed", "? unproven", "↩ retreated", "31.4 ms", "5 of 8 gates passed"):
        assert expected in text
    assert lines[-1].startswith("✗ failed  jetson-xavier in 7 min 11 s")


def test_rendering_twice_gives_the_same_bytes(run_dir: Path, page: str, markdown: str) -> None:
    assert render_html(example_report(), run_dir) == page
    assert render_markdown(example_report(), run_dir) == markdown
