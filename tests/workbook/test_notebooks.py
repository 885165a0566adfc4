"""The committed notebooks: well formed, true to their outputs, and able to run with other values.

That the outputs are what the code gives today is nbval's part (`make test`); here stands what nbval
does not see, and a proof that nbval would notice a change.
"""

import re
import shutil
from pathlib import Path

import nbclient
import nbformat
import pytest
from jupyter_client.manager import AsyncKernelManager
from jupyter_core.utils import run_sync
from nbformat.v4 import new_code_cell, new_notebook
from nbval.plugin import IPyNbCell, IPyNbFile, get_sanitize_patterns
from notebook_cases import CASES, EXPECTED, REFUSED, SAYS, TIMEOUT_S
from notebook_check import check, in_recording_environment
from notebook_rules import LARGEST_BYTES, code_cells, outputs, problems

from prumerge.paths import FIGURES, NOTEBOOKS, ROOT
from prumerge.workbook.runs import (
    KERNEL,
    RunError,
    check_parameters,
    declared_parameters,
    run_notebook,
)

FOUND = sorted(p for p in NOTEBOOKS.glob("*.ipynb") if len(p.suffixes) == 1)
RUNS = [(p, case) for p in FOUND for case in CASES.get(p.stem, {})]
WRONG = [(p, sentence) for p in FOUND for sentence in REFUSED.get(p.stem, {})]
each_notebook = pytest.mark.parametrize("notebook", FOUND, ids=lambda path: path.stem)


@pytest.mark.parametrize("name", EXPECTED)
def test_notebook_is_there(name):
    assert NOTEBOOKS / f"{name}.ipynb" in FOUND


@each_notebook
def test_notebook_is_expected_and_listed_for_readers(notebook):
    assert notebook.stem in EXPECTED
    assert notebook.stem in (NOTEBOOKS / "README.md").read_text(encoding="utf-8")


@each_notebook
def test_committed_state(notebook):
    assert problems(notebook) == []


def test_committed_figures_are_small():
    """One is written again with each recording, and history keeps all of them."""
    large = {
        p.name: p.stat().st_size for p in FIGURES.iterdir() if p.stat().st_size > LARGEST_BYTES
    }
    assert large == {}, "draw.save writes 256 colours: save again, in less space"
    assert {p.suffix for p in FIGURES.iterdir()} == {".png"}


@each_notebook
def test_notebook_makes_claims_and_shows_a_picture(notebook):
    document = nbformat.read(notebook, as_version=4)
    assert any(re.search(r"^\s*assert ", c.source, re.M) for c in code_cells(document))
    assert any("image/png" in output.get("data", {}) for output in outputs(document))


@each_notebook
def test_smoke_parameters_exist_and_differ_from_the_defaults(notebook):
    defaults = declared_parameters(notebook)
    assert CASES.get(notebook.stem), f"tests/notebook_cases.py has no case for {notebook.stem}"
    for parameters in CASES[notebook.stem].values():
        check_parameters(notebook, parameters)
        assert any(defaults[name] != value for name, value in parameters.items())


@pytest.fixture(scope="module")
def running():
    """One kernel for all runs: a new one for each would take 5 seconds to import, 45 times."""
    manager = AsyncKernelManager(kernel_name=KERNEL)
    with pytest.MonkeyPatch.context() as monkeypatch:
        in_recording_environment(monkeypatch)
        yield manager
    run_sync(manager.shutdown_kernel)(now=True)


@pytest.fixture
def kernel(running):
    """A kernel without any name or history; what it has imported stays, and is no garbage."""
    code = "%reset -f\nimport gc\ngc.collect()\ngc.freeze()\ndel gc"
    clear = new_notebook(cells=[new_code_cell(code)])
    nbclient.execute(clear, cwd=str(NOTEBOOKS), km=running)
    return running


@pytest.mark.parametrize(("notebook", "case"), RUNS, ids=lambda v: getattr(v, "stem", v))
def test_notebook_runs_with_other_values(notebook, case, tmp_path, kernel):
    committed = notebook.read_bytes()
    parameters = CASES[notebook.stem][case]
    executed = run_notebook(
        notebook, tmp_path / notebook.name, parameters, timeout_s=TIMEOUT_S, kernel=kernel
    )
    document = nbformat.read(executed, as_version=4)
    assert all(c.execution_count for c in code_cells(document))
    assert SAYS.get(notebook.stem, {}).get(case, "") in told(document)
    assert notebook.read_bytes() == committed


def told(document: nbformat.NotebookNode) -> str:
    """All that the cells of a notebook have printed."""
    return "".join(output.get("text", "") for output in outputs(document))


@pytest.mark.parametrize(("notebook", "sentence"), WRONG, ids=lambda v: getattr(v, "stem", v))
def test_a_value_outside_its_limits_is_refused_in_a_sentence(notebook, sentence, tmp_path, kernel):
    parameters, copy = REFUSED[notebook.stem][sentence], tmp_path / notebook.name
    with pytest.raises(RunError, match=re.escape(sentence)):
        run_notebook(notebook, copy, parameters, timeout_s=TIMEOUT_S, kernel=kernel)


@each_notebook
def test_misspelt_parameter_is_refused_before_anything_runs(notebook, tmp_path):
    name = next(iter(declared_parameters(notebook)))
    with pytest.raises(ValueError, match=f"did you mean '{name}'"):
        run_notebook(notebook, tmp_path / "copy.ipynb", {f"{name}x": 1})
    assert not list(tmp_path.iterdir())


@each_notebook
def test_one_changed_digit_in_a_stored_output_is_noticed(notebook, tmp_path, request):
    """By nbval's own comparison, without running anything: below, a fixture is run as well."""
    stored = nbval_cells(notebook, request)
    tampered = nbval_cells(tamper(notebook, tmp_path / notebook.name), request)
    last = len(tampered) - 1
    for number, (cell, changed) in enumerate(zip(stored, tampered, strict=False)):
        assert cell.options["check"], f"{notebook.name}: cell {number} is not compared"
        same = cell.compare_outputs(changed.cell.outputs, cell.cell.outputs)
        assert same == (number < last)


def nbval_cells(notebook: Path, request) -> list[IPyNbCell]:
    """The cells as a strict check collects them."""
    file = IPyNbFile.from_parent(request.session, path=notebook)
    text = (NOTEBOOKS / "sanitize.cfg").read_text(encoding="utf-8")
    file.compare_outputs, file.sanitize_patterns = True, dict(get_sanitize_patterns(text))
    return list(file.collect())


def tamper(notebook: Path, copy: Path) -> Path:
    """Write a copy that ends with the first cell that shows a number, its last digit changed."""
    document = nbformat.read(notebook, as_version=4)
    for position, cell in enumerate(document.cells):
        for output in cell.get("outputs", []):
            shown = output if "text" in output else output.get("data", {})
            key = "text" if "text" in output else "text/plain"
            if "image/png" in shown or not (digits := re.findall(r"\d", shown.get(key, ""))):
                continue
            head, _, tail = shown[key].rpartition(digits[-1])
            shown[key] = f"{head}{(int(digits[-1]) + 1) % 10}{tail}"
            document.cells = document.cells[: position + 1]
            nbformat.write(document, copy)
            return copy
    raise AssertionError(f"{notebook.name} shows no number as text: nbval has nothing to compare")


def test_a_strict_check_passes_what_is_true_and_fails_one_digit(tmp_path):
    """The same two steps on fixtures, so that they are tried whatever the notebooks hold."""
    names = ("declares-two-parameters.ipynb", "draws-a-figure.ipynb")
    true = [Path(shutil.copy(ROOT / "tests/fixtures" / name, tmp_path)) for name in names]
    result = check(*true, tamper(true[0], tmp_path / "tampered.ipynb"))
    (failed,) = re.findall(r"^FAILED (\S+)::", result.stdout, re.MULTILINE)
    assert result.returncode == 1 and failed.endswith("/tampered.ipynb"), result.stdout
    assert re.search(r"\b1 failed, \d+ passed in ", result.stdout), result.stdout


def test_pages_of_the_pretrained_tower_are_skipped_where_that_is_missing(tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['skimage'] = None\n")
    shutil.copy(NOTEBOOKS / "conftest.py", tmp_path)
    names = ("01_attention_sparsity.ipynb", "02_iqr_selection.ipynb")
    pages = [Path(shutil.copy(NOTEBOOKS / name, tmp_path)) for name in names]
    result = check(*pages, PYTHONPATH=f"{tmp_path}:{ROOT}")
    cells = sum(len(code_cells(nbformat.read(page, as_version=4))) for page in pages)
    assert result.returncode == 0 and f" {cells} skipped in " in result.stdout, result.stdout
    assert "want skimage: pip install 'prumerge[tower]', then pip" in result.stdout


def test_checking_without_the_recording_variables_is_refused(tmp_path):
    copy = shutil.copy(ROOT / "tests/fixtures/declares-two-parameters.ipynb", tmp_path)
    shutil.copy(NOTEBOOKS / "conftest.py", tmp_path)
    result = check(Path(copy), TQDM_DISABLE="")
    assert result.returncode != 0
    assert "source .ci/env.sh" in result.stdout + result.stderr
