"""The main job and its demonstration, on real sources, in a small form."""

import sysconfig
from pathlib import Path

import pytest

pytest.importorskip("PIL")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_kill9_in_a_small_form(rmp, tmp_path):
    sources = Path(sysconfig.get_paths()["stdlib"])
    done = rmp("demo", "kill9", "--root", sources, "--limit", 150, "--out", "out", timeout_s=280)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("byte-equal") == 2
    assert "killed by SIGKILL" in done.stdout
    killed = tmp_path / "out" / "killed"
    assert (killed / "complexity.png").read_bytes() == (tmp_path / "out/undisturbed/complexity.png").read_bytes()
    assert "150 files" in (killed / "complexity.txt").read_text()
    # The job's own account agrees: two owners, and every file measured once as far as commits go.
    (job,) = [path for path in (killed / "checkpoints").iterdir() if (path / "format.json").exists()]
    shown = rmp("show", job).stdout
    assert "completed" in shown
    assert " 150 " in shown
    assert rmp("fsck", job).returncode == 0


def test_the_demonstration_touches_no_folder_that_it_did_not_make(rmp, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    done = rmp("demo", "kill9", "--out", "mine")
    assert done.returncode == 2
    assert "mine holds something else" in done.stderr
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_too_few_files_are_refused(rmp, tmp_path):
    (tmp_path / "few").mkdir()
    (tmp_path / "few" / "one.py").write_text("x = 1\n")
    done = rmp("demo", "kill9", "--root", "few", "--out", "out")
    assert done.returncode == 2
    assert "holds 1 Python files" in done.stderr
