"""Progress bars say what is done, and in a longer piece of work at which step it is."""

from notice_lens.progress import bar, step


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
