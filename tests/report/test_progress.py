"""A line that says how far a work is."""

from mmv_jax.report.progress import progress


def test_where_there_is_no_terminal_the_first_and_the_last_are_told(capsys):
    report = progress("read")
    for done in range(1, 6):
        report(done, 5)
    assert capsys.readouterr().err.splitlines() == ["read 1 of 5 studies", "read 5 of 5 studies"]


def test_on_a_terminal_one_line_renews_itself(capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    report = progress("read")
    for done in range(1, 4):
        report(done, 3)
    assert (
        capsys.readouterr().err == "read 1 of 3 studies\rread 2 of 3 studies\rread 3 of 3 studies\n"
    )
