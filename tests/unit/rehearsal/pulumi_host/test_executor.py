from __future__ import annotations

import json
import traceback

from rehearsal.pulumi_host.executor import user_traceback


def failure(cause: bool = False) -> Exception:
    try:
        json.loads("{")
    except ValueError as error:
        if not cause:
            return error
        try:
            raise KeyError("outer") from error
        except KeyError as outer:
            return outer
    raise AssertionError


def test_frames_of_the_machinery_go_and_the_message_stays() -> None:
    text = user_traceback(failure(), (json.__path__[0],))
    assert text.startswith("Traceback (most recent call last):\n")
    assert text.count("File ") == 1
    assert __file__ in text
    assert text.endswith("line 1 column 2 (char 1)\n")


def test_causes_are_trimmed_too() -> None:
    text = user_traceback(failure(cause=True), (json.__path__[0],))
    assert "direct cause" in text
    assert text.count("File ") == 2
    assert "decoder.py" not in text


def test_nothing_hidden_changes_nothing() -> None:
    error = failure(cause=True)
    assert user_traceback(error, ()) == "".join(traceback.format_exception(error))


def test_an_error_of_the_machinery_alone_is_its_message() -> None:
    text = user_traceback(failure(), (json.__path__[0], __file__))
    assert text.startswith("json.decoder.JSONDecodeError: ")


def test_a_syntax_error_names_its_file_and_line() -> None:
    try:
        compile("x = = 1", "program.py", "exec")
    except SyntaxError as error:
        text = user_traceback(error, (__file__,))
    assert 'File "program.py", line 1' in text
    assert "test_executor" not in text


def test_a_cycle_of_causes_ends() -> None:
    one, two = ValueError("one"), ValueError("two")
    one.__context__, two.__context__ = two, one
    assert "ValueError: one" in user_traceback(one, ())
