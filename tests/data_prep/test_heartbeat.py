"""Signs of life on a terminal: what a silent command is at, gone as soon as it says something, and none elsewhere."""

import io
import sys
import time

import pytest

from data_prep import cli, heartbeat


class Screen(io.StringIO):
    """A terminal: what is on it, and all that was written."""

    def isatty(self):
        return True

    def lines(self):
        """As they are seen: a carriage return goes to the start of the line, and letters overwrite."""
        seen = []
        for line in self.getvalue().split("\n"):
            shown = ""
            for part in line.split("\r"):
                shown = part + shown[len(part) :]
            seen.append(shown.rstrip())
        return seen


def put_up(monkeypatch):
    """A screen in place of stdout and stderr. Not as a fixture: pytest puts its own there after those."""
    made = Screen()
    monkeypatch.setattr(sys, "stdout", made)
    monkeypatch.setattr(sys, "stderr", made)
    monkeypatch.setattr(heartbeat, "QUIET_S", 0.1)
    return made


def wait_for(screen, text):
    end = time.monotonic() + 20
    while text not in screen.getvalue():
        assert time.monotonic() < end, screen.getvalue()
        time.sleep(0.01)


def test_a_silent_command_says_what_it_is_at_until_it_says_something(monkeypatch):
    screen = put_up(monkeypatch)
    with heartbeat.Heartbeat():
        print("begun")
        with heartbeat.doing("compiling"):
            wait_for(screen, "compiling ... 0 s")
        wait_for(screen, "working ... 0 s")
        print("done")
    print("after")
    assert screen.lines() == ["begun", "done", "after", ""]


def test_a_bar_goes_on_and_a_line_that_is_not_ended_is_left_alone(monkeypatch):
    screen = put_up(monkeypatch)
    monkeypatch.setenv("COLUMNS", "60")
    with heartbeat.Heartbeat():
        with cli.progress(total=2, description="reading") as bar:
            drawn = screen.getvalue().count("reading")
            wait_for(screen, "[00:01<")
            assert screen.getvalue().count("reading") > drawn
            bar.update()
        print("half of", end="")
        time.sleep(0.3)
        print(" a line")
    assert "half of a line\n" in screen.getvalue()  # nothing between
    assert [line for line in screen.lines() if line] == ["half of a line"]


def test_where_there_is_no_terminal_nothing_is_shown(monkeypatch):
    screen = put_up(monkeypatch)
    monkeypatch.setattr(screen, "isatty", lambda: False)
    with heartbeat.Heartbeat():
        time.sleep(0.3)
    assert screen.getvalue() == ""


def test_the_line_is_gone_before_an_error_is_told(monkeypatch):
    screen = put_up(monkeypatch)

    def main(_):
        wait_for(screen, "working")
        raise cli.InputError("it is wrong")

    monkeypatch.setattr(sys, "argv", ["command"])
    with pytest.raises(SystemExit):
        cli.run(main)
    assert screen.lines() == ["error: it is wrong", ""]
