"""Progress bars say what is done, and in a longer piece of work at which step it is."""

import pytest

from notice_lens.progress import bar, one_line, step


def test_a_bar_carries_the_name_of_its_step_and_is_wiped(capsys):
    with step("3 of 14: states, text"), bar(True, "patching", total=2, unit="patches") as shown:
        shown.update(2)
    written = capsys.readouterr().err
    assert "3 of 14: states, text, patching" in written
    assert not written.endswith("\n"), "a bar of a step leaves no line behind"
    with bar(True, "patching", total=2, unit="patches") as shown:
        shown.update(2)
    alone = capsys.readouterr().err
    assert alone.lstrip("\r").startswith("patching:")
    assert alone.endswith("\n")


def test_no_bar_is_shown_where_none_is_wanted(capsys):
    with bar(False, "patching", total=2, unit="patches") as shown:
        shown.update(2)
    assert capsys.readouterr().err == ""


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test sets; the line is redrawn whenever it is later."""
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return now


def last_line(capsys) -> str:
    return capsys.readouterr().err.rpartition("\r")[2].strip()


def test_one_line_counts_steps_and_says_how_long_the_rest_takes(capsys, clock):
    """Of 10 parts of the time 2 took 6 seconds: the other 8 take 24."""
    with one_line(True, {"sweep": 2, "statistics": 3, "report": 5}, "mini-blip"):
        with step("sweep"), bar(True, "patching", total=4, unit="patches") as shown:
            clock[0] += 2
            shown.update(1)
            assert last_line(capsys) == "mini-blip, 1 of 3: sweep, patching 25%"
            clock[0] += 4
        with step("statistics"):
            assert last_line(capsys) == "mini-blip, 2 of 3: statistics, about 24 s left"
            clock[0] += 600
        with step("elsewhere"):
            assert last_line(capsys) == "mini-blip, elsewhere, about 10 min left"
    assert last_line(capsys) == "", "the line is wiped"


def test_the_line_is_not_redrawn_at_every_unit(capsys, clock):
    with one_line(True, {"sweep": 1}), step("sweep"), bar(True, "patching", total=1000, unit="patches") as shown:
        capsys.readouterr()
        for _ in range(1000):
            clock[0] += 0.001
            shown.update(1)
    assert 5 <= capsys.readouterr().err.count("patching") <= 10


def test_no_line_is_shown_where_none_is_wanted_and_an_error_ends_it(capsys):
    with one_line(False, {"sweep": 1}), step("sweep"), bar(False, "patching", total=2, unit="patches") as shown:
        shown.update(2)
    assert capsys.readouterr().err == ""
    with pytest.raises(ValueError, match="stopped"), one_line(True, {"sweep": 1}), step("sweep"):
        raise ValueError("stopped")
    with bar(True, "patching", total=2, unit="patches") as shown:
        shown.update(2)
    assert "patching: 100%" in capsys.readouterr().err, "bars are bars again"
