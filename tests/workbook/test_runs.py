"""Running and recording notebooks: values arrive, mistakes are refused, nothing half-done stays."""

import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from notebook_check import in_recording_environment
from notebook_rules import problems

from prumerge.paths import NOTEBOOKS, ROOT
from prumerge.workbook import record, runs
from prumerge.workbook.runs import RunError

FIXTURES = ROOT / "tests/fixtures"
GRID = FIXTURES / "declares-two-parameters.ipynb"
FAILS = FIXTURES / "fails-with-divisor-0.ipynb"


@pytest.fixture(autouse=True)
def recording_environment(monkeypatch):
    in_recording_environment(monkeypatch)


def printed(path):
    """What the cells of a notebook printed."""
    cells = nbformat.read(path, as_version=4).cells
    return "".join(out.get("text", "") for cell in cells for out in cell.get("outputs", []))


def test_other_values_reach_the_cells_and_the_original_stays(tmp_path):
    before = GRID.read_bytes()
    output = runs.run_notebook(GRID, tmp_path / "new/folder/copy.ipynb", {"side": 4})
    assert printed(output) == "grid: 16 patches\n"
    assert GRID.read_bytes() == before
    assert [path.name for path in output.parent.iterdir()] == ["copy.ipynb"]


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"sied": 4}, "has no parameter 'sied': did you mean 'side'"),
        ({"budget": 4}, "has no parameter 'budget': it has label, side"),
        ({"side": "1e-3"}, "side='1e-3' is text where .* wants a number"),
    ],
)
def test_a_parameter_that_would_change_nothing_is_refused(parameters, sentence, tmp_path):
    with pytest.raises(ValueError, match=sentence):
        runs.run_notebook(GRID, tmp_path / "copy.ipynb", parameters)
    assert not list(tmp_path.iterdir())


def test_a_missing_notebook_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"no notebook .*absent\.ipynb"):
        runs.run_notebook(tmp_path / "absent.ipynb", tmp_path / "copy.ipynb")


def test_a_failed_run_is_kept_aside_and_an_earlier_result_stays(tmp_path):
    output = runs.run_notebook(FAILS, tmp_path / "copy.ipynb", {"divisor": 5})
    good = output.read_bytes()
    with pytest.raises(RunError, match=r"cell \[4\]; .*\n  ZeroDivisionError"):
        runs.run_notebook(FAILS, output, {"divisor": 0})
    assert output.read_bytes() == good
    failed = tmp_path / "copy.failed.ipynb"
    assert printed(failed).startswith("before")
    assert sorted(tmp_path.iterdir()) == [failed, output]

    runs.run_notebook(FAILS, output, {"divisor": 2})
    assert not failed.exists()


def test_a_cell_that_takes_too_long_ends_the_run(tmp_path):
    slow = FIXTURES / "takes-a-second.ipynb"
    with pytest.raises(RunError, match="Timeout"):
        runs.run_notebook(slow, tmp_path / "copy.ipynb", {"seconds": 30.0}, timeout_s=1)
    assert not (tmp_path / "copy.ipynb").exists()


def test_recording_gives_the_committed_bytes_again(tmp_path):
    copy = tmp_path / GRID.name
    document = nbformat.read(GRID, as_version=4)
    document.metadata["papermill"] = {"duration": 1.0}
    for cell in document.cells:
        cell.metadata["execution"] = {"iopub.status.busy": "2024-01-01"}
        if cell.cell_type == "code":
            cell.update(execution_count=None, outputs=[])
    nbformat.write(document, copy)
    assert record.record_notebook(copy).read_bytes() == GRID.read_bytes()
    assert problems(copy) == []
    assert list(tmp_path.iterdir()) == [copy]


def test_a_failed_recording_leaves_the_notebook_as_it_was(tmp_path, capsys):
    copy = tmp_path / "copy.ipynb"
    copy.write_text(FAILS.read_text().replace("divisor: int = 5", "divisor: int = 0"))
    before = copy.read_bytes()
    assert record.main([str(copy)]) == 1
    assert copy.read_bytes() == before
    assert printed(tmp_path / "copy.failed.ipynb") == "before\n"
    told = capsys.readouterr()
    assert "stopped after" in told.out
    assert "in cell [3]" in told.err
    assert "ZeroDivisionError" in told.err


@pytest.mark.parametrize("command", ["runs", "record"])
def test_a_full_disk_leaves_no_half_notebook(command, tmp_path):
    copy = Path(shutil.copy(GRID, tmp_path))
    words = [str(copy)] if command == "record" else [str(copy), str(tmp_path / "out.ipynb")]
    # Files of this process end at so many bytes, as on a disk without room for more.
    code = (
        "import resource, sys; from prumerge.workbook import record, runs\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (900, 900))\n"
        f"sys.exit({command}.main({words!r}))"
    )
    before = copy.read_bytes()
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 1, run.stderr
    assert "cut short and is not kept\n  OSError: [Errno 27]" in run.stderr
    assert copy.read_bytes() == before and list(tmp_path.iterdir()) == [copy]


def test_the_shell_runs_a_copy_and_refuses_in_one_line(tmp_path, capsys):
    output = tmp_path / "copy.ipynb"
    assert runs.main([str(GRID), str(output), "-p", "side", "5", "-p", "label", "n"]) == 0
    assert "n: 25 patches" in printed(output)
    assert runs.main([str(GRID), str(output), "-p", "sied", "5"]) == 1
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(("given", "taken"), [([], True), (["svg"], "svg"), (["pdf"], "pdf")])
def test_figures_are_png_or_a_vector_format(given, taken, tmp_path, monkeypatch):
    ran = []
    monkeypatch.setattr(runs, "run_notebook", lambda *called: ran.append(called))
    notebook, output = str(NOTEBOOKS / "07_cost_model.ipynb"), str(tmp_path / "copy.ipynb")
    assert runs.main([notebook, output, "--figures", *given]) == 0
    assert ran == [(Path(notebook), Path(output), {"save_figures": taken})]


def test_no_bar_is_shown_the_first_time_a_data_set_is_read(monkeypatch):
    told = "from datasets.utils import are_progress_bars_disabled as off; print(off())"
    run = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    assert run.stdout == "True\n"
