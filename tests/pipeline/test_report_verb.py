from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.pipeline.report_example import example_report, write_example


@pytest.fixture
def run(cli, pipeline_file: Path, target_file: Path) -> Path:
    code, _, err = cli("run", pipeline_file, "--target", target_file)
    assert code == 0, err
    return (pipeline_file.parent / ".pipeline" / "runs" / "latest").resolve()


def test_the_documents_are_written_again_as_the_run_wrote_them(cli, run: Path):
    before = {name: (run / name).read_text() for name in ("report.md", "report.html")}
    for name in before:
        (run / name).write_text("lost")
    code, out, err = cli("report", "latest", "--workspace", run.parent.parent)
    assert (code, out, err) == (0, f"{run / 'report.md'}\n{run / 'report.html'}\n", "")
    assert {name: (run / name).read_text() for name in before} == before


def test_a_changed_report_gives_changed_documents(cli, run: Path):
    tree = json.loads((run / "report.json").read_text())
    tree["stages"][0]["notes"] = ["written by hand"]
    (run / "report.json").write_text(json.dumps(tree))
    cli("report", run)
    assert "written by hand" in (run / "report.md").read_text() and "written by hand" in (run / "report.html").read_text()


def test_each_format_alone_goes_to_standard_output_or_a_file(cli, run: Path, tmp_path: Path):
    assert cli("report", run, "--format", "md") == (0, (run / "report.md").read_text(), "")
    assert cli("report", run, "--format", "html")[1] == (run / "report.html").read_text()
    assert json.loads(cli("report", run, "--format", "json")[1]) == json.loads((run / "report.json").read_text())
    out = tmp_path / "some" / "page.html"
    assert cli("report", run, "--format", "html", "--out", out) == (0, f"{out}\n", "")
    assert out.read_text() == (run / "report.html").read_text()


def test_a_page_with_pictures(cli, tmp_path: Path):
    write_example(tmp_path)
    code, out, _ = cli("report", tmp_path, "--format", "html")
    assert code == 0 and out.count("data:image/") >= 3 and "jetson-xavier" in out


def test_wrong_arguments(cli, run: Path, tmp_path: Path):
    assert cli("report", run, "--format", "htm") == (2, "", "--format: unknown format 'htm'\nhint: did you mean 'html'?\n")
    said = "--out x: one file cannot hold both documents\nhint: say which with --format md, html or json\n"
    assert cli("report", run, "--out", "x") == (2, "", said)
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" / "page.html"
    code, _, err = cli("report", run, "--format", "md", "--out", out)
    assert code == 2 and err.startswith(f"--out {out}: cannot be written (") and err.count("\n") == 2


@pytest.mark.parametrize("form", [(), ("--format", "json")])
def test_a_report_of_another_schema_is_refused(cli, tmp_path: Path, form: tuple[str, ...]):
    (tmp_path / "report.json").write_text(json.dumps(example_report() | {"schema": 2}))
    code, out, err = cli("report", tmp_path, *form)
    assert (code, out) == (2, "") and "schema" in err and "\nhint: " in err


def test_a_run_without_a_report(cli, run: Path):
    (run / "report.json").unlink()
    code, out, err = cli("report", run)
    what = f"{run / 'report.json'}: file does not exist\nhint: the run has not ended, or was killed; run it again\n"
    assert (code, out, err) == (2, "", what)


def test_help_has_examples(cli):
    code, out, _ = cli("report", "--help")
    assert code == 0 and out.count("Example: python -m pipeline report") == 2
