"""Progress bars appear on a terminal and nowhere else."""

from io import StringIO

from rich.console import Console

from ovml_deploy.training.reporting import Reporter


def spoken(terminal: bool) -> str:
    stream = StringIO()
    reporter = Reporter(Console(file=stream, force_terminal=terminal, width=120))
    with reporter.track("epoch 1/2", 4) as tell:
        tell(1)
        tell(2)
        reporter.line("[1] label 'a[b]' stays as it is")
    return stream.getvalue()


def test_a_terminal_sees_bar_and_lines() -> None:
    shown = spoken(terminal=True)
    assert "epoch 1/2" in shown
    assert "3/4" in shown
    assert "[1] label 'a[b]' stays as it is" in shown


def test_a_file_sees_lines_only() -> None:
    assert spoken(terminal=False) == "[1] label 'a[b]' stays as it is\n"
