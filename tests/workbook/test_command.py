"""`python -m prumerge` says what is here; the wheel works without the extras."""

import shutil
import subprocess
import sys
import zipfile

import pytest

import prumerge
from prumerge.__main__ import COMMANDS, main
from prumerge.paths import MINI, ROOT

# Packages of the extras that the package itself uses. Those that transformers loads by itself
# where it finds them (pandas, scipy, scikit-learn) are left to test_extras and `make wheel`.
EXTRA = "IPython ipywidgets matplotlib seaborn nbformat papermill nbclient nbconvert lmms_eval"
TRIAL = f"""
import sys
for name in {EXTRA.split()}:
    sys.modules[name] = None  # importing it fails
import torch, prumerge
assert prumerge.__file__.startswith(sys.argv[1]), prumerge.__file__
eye = torch.eye(16)[None]
assert len(prumerge.reduce_tokens(eye, eye, torch.arange(16.0)[None]).tokens) == 1
assert callable(prumerge.attach)
from prumerge.__main__ import main
sys.exit(main(["doctor"]))
"""


def printed(capsys, *arguments):
    assert main(arguments) == 0
    return capsys.readouterr().out


def test_help_lists_every_command(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert all(name in text for name in COMMANDS)


def test_no_command_and_a_wrong_one_are_refused(capsys):
    for arguments in ([], ["doktor"]):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 2
    assert "doctor" in capsys.readouterr().err


def test_methods_has_a_line_of_words_for_each(capsys):
    lines = printed(capsys, "methods").splitlines()
    assert [line.split()[0] for line in lines] == prumerge.names()
    assert [line for line in lines if len(line.split()) < 4] == []
    assert "as released" in lines[prumerge.names().index("release+")]


def test_a_method_without_docstring_says_so(capsys, monkeypatch):
    from prumerge.methods import _REGISTRY

    monkeypatch.setattr("prumerge.methods._REGISTRY", dict(_REGISTRY))
    prumerge.register("mine")(lambda encoded, settings: None)
    assert "mine            no docstring" in printed(capsys, "methods")


def test_paths_names_the_folders(capsys):
    assert f"mini       {MINI}\n" in printed(capsys, "paths")


def test_doctor_finds_this_environment_complete(capsys):
    text = printed(capsys, "doctor")
    assert "extra notebooks  complete" in text
    assert f"mini-LLaVA    {MINI}" in text
    assert "LLaVA-1.5-7b" in text and "GiB of GPU memory" in text


def test_doctor_names_what_is_missing_and_fails_for_a_problem(capsys, monkeypatch):
    monkeypatch.setattr("prumerge.__main__._version", lambda name: None)
    monkeypatch.setattr("prumerge.models.checks.problems", lambda: ["torchvision cannot load."])
    assert main(["doctor"]) == 1
    text = capsys.readouterr().out
    assert "pip install 'prumerge[notebooks]'" in text and "ipywidgets" in text
    assert "torchvision cannot load." in text


def test_the_wheel_works_without_the_extras_and_outside_the_repository(tmp_path):
    source, unpacked = tmp_path / "source", tmp_path / "unpacked"
    shutil.copytree(
        ROOT / "prumerge", source / "prumerge", ignore=shutil.ignore_patterns("__pycache__")
    )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "-w", tmp_path, source], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(unpacked)
        held = archive.namelist()
    assert all(name.startswith(("prumerge/", "prumerge-")) for name in held)
    assert any(name.startswith("prumerge/experiments/evaluation/tasks/") for name in held)
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(unpacked)!r})\n{TRIAL}"]
    tried = subprocess.run([*command, str(unpacked)], cwd=tmp_path, capture_output=True, text=True)
    assert tried.returncode == 0, tried.stderr
    assert "it comes with the repository" in tried.stdout
