"""The first signal asks, the second ends, and afterwards everything is as before."""

import os
import signal
import subprocess
import sys

import pytest

from mpo_jax.devices.interruption import CONTINUE, NOTHING_KEPT, SIGNALS, Interrupted, Interruption


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_only_asks(number, capfd):
    before = [signal.getsignal(each) for each in SIGNALS]
    with Interruption() as interruption:
        assert not interruption.asked
        os.kill(os.getpid(), number)
        assert interruption.asked
    assert [signal.getsignal(each) for each in SIGNALS] == before
    assert f"{signal.Signals(number).name}: stopping after this update" in capfd.readouterr().err


def test_the_second_signal_ends_the_process():
    code = (
        "import os, signal\nfrom mpo_jax.devices.interruption import Interruption\n"
        "with Interruption():\n os.kill(os.getpid(), signal.SIGINT)\n os.kill(os.getpid(), signal.SIGTERM)\nprint('alive')"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == -signal.SIGTERM
    assert "alive" not in ended.stdout


def test_the_sentence_and_the_code_say_whether_anything_is_kept():
    kept, lost = Interrupted(7, kept=True), Interrupted(7, kept=False)
    assert str(kept) == "interrupted after update 7; saved; continue with --config.checkpoint.resume=auto"
    assert "update 7" in str(lost)
    assert "nothing was saved" in str(lost)
    assert (kept.code, lost.code) == (CONTINUE, NOTHING_KEPT) == (42, 43)
