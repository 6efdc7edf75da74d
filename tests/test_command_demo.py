"""The command line demo prints a table, counts the outcomes and saves a figure."""

import importlib.util
import re

import pytest

import lmjax
from lmjax._command.main import main

PARAMETERS = ("amplitude", "x", "y", "width", "background")
NUMBER = r"-?\d+\.\d+"


def test_demo_prints_errors_and_outcomes_and_saves_a_figure(tmp_path, capsys):
    figure = tmp_path / "spots.png"
    assert main(["demo", "--fits", "20", "--figure", str(figure)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("20 images")
    for name in PARAMETERS:
        row = rf"^{name} +\w+" + rf" +({NUMBER})" * 4 + "$"
        found = re.search(row, out, re.MULTILINE)
        assert found, f"no row for {name} in\n{out}"
        middle, low, high, error = map(float, found.groups())
        assert low <= middle <= high
        assert error > 0.0
    names = "|".join(status.name for status in lmjax.Status)
    counts = re.findall(rf"^({names}) +(\d+)  \w", out, re.MULTILINE)
    assert sum(int(count) for _, count in counts) == 20
    assert f"figure saved to {figure}" in out
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert figure.stat().st_size > 10_000


@pytest.mark.slow
def test_demo_works_without_matplotlib(tmp_path, capsys, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "matplotlib" else find_spec(name, *rest),
    )
    figure = tmp_path / "spots.png"
    assert main(["demo", "--fits", "1", "--figure", str(figure)]) == 0
    assert "pip install 'lmjax[plot]'" in capsys.readouterr().out
    assert not figure.exists()


@pytest.mark.parametrize("fits", ["0", "-3", "4001"])
def test_number_of_fits_out_of_range_is_refused(fits, tmp_path, capsys):
    figure = tmp_path / "spots.png"
    assert main(["demo", "--fits", fits, "--figure", str(figure)]) == 2
    message = f"lmjax: --fits: expected 1 to 4000 images, got {fits}\n"
    assert capsys.readouterr().err == message
    assert not figure.exists()


def test_version(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out.strip() == lmjax.__version__


def test_without_a_command_shows_the_usage(capsys):
    with pytest.raises(SystemExit) as stop:
        main([])
    assert stop.value.code == 2
    message = "the following arguments are required: COMMAND (lmjax --help)\n"
    assert capsys.readouterr().err == f"lmjax: {message}"
