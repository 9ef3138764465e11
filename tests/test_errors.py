"""A person's mistake is a sentence and exit code 2; a bug keeps its traceback."""

import errno

import pytest

from mpo_jax.errors import InputError, check_choice, one_sentence


def test_an_input_error_ends_the_program_with_its_sentence(capsys):
    with pytest.raises(SystemExit) as stopped, one_sentence():
        raise InputError("rows.jsonl has no rows: give a file with at least one.")
    assert stopped.value.code == 2
    assert capsys.readouterr() == ("", "error: rows.jsonl has no rows: give a file with at least one.\n")


def test_a_full_disk_is_a_sentence_wherever_it_happens(capsys):
    with pytest.raises(SystemExit) as stopped, one_sentence():
        raise OSError(errno.ENOSPC, "No space left on device", "metrics.jsonl")
    assert stopped.value.code == 2
    assert capsys.readouterr().err == (
        "error: metrics.jsonl could not be written (No space left on device): make room, and run the command again.\n"
    )


@pytest.mark.parametrize("bug", [ValueError, AssertionError, KeyError, FileNotFoundError])
def test_a_bug_keeps_its_traceback(bug):
    with pytest.raises(bug), one_sentence():
        raise bug("x")


def test_nothing_happens_to_a_program_that_works(capsys):
    with one_sentence():
        print("fine")
    assert capsys.readouterr() == ("fine\n", "")


def test_a_choice_names_setting_value_and_choices():
    check_choice("export.dtype", "float32", ("float32", "bfloat16"))
    with pytest.raises(InputError, match=r"export\.dtype='int8' is not known: write one of 'float32', 'bfloat16'\."):
        check_choice("export.dtype", "int8", ("float32", "bfloat16"))
