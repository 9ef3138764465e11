"""What was recorded is replayed to the very same requests, and nothing that is there is asked again."""

import json

import pytest

from mpo_jax.clients.recorder import Recording
from mpo_jax.data.prompts.base import Message, Prompt
from mpo_jax.errors import InputError
from mpo_jax.generation.base import Response
from mpo_jax.generation.records import read_responses
from mpo_jax.generation.run import generate

PROMPTS = [Prompt(f"p{n}", "sw", (Message("user", f"swali {n}"),)) for n in range(4)]


class Outside:
    shared = False

    def __init__(self, fails=(), settings=None):
        self.fails, self.asked = fails, []
        self.settings = settings or {"model": "toy"}

    def respond(self, requests):
        for request in requests:
            self.asked.append(request.prompt.id)
            if request.prompt.id in self.fails:
                yield request, Response("", "error", None, None, error="down")
            else:
                yield request, Response(f"jibu {request.prompt.id} \u2028", "end", 2, None)


def record(path, folder, outside, prompts=PROMPTS):
    recording = Recording(path, replays=False)
    generate(prompts, recording.wrap(outside), folder)
    recording.close()


def replay(path, folder, outside=None, prompts=PROMPTS):
    generate(prompts, Recording(path, replays=True).wrap(outside or Outside()), folder)


def test_a_replay_answers_as_the_recorded_ones_did_and_asks_nobody(tmp_path):
    record(tmp_path / "recording", tmp_path / "a", Outside())
    outside = Outside()
    replay(tmp_path / "recording", tmp_path / "b", outside)
    assert not outside.asked
    assert read_responses(tmp_path / "a") == read_responses(tmp_path / "b")


def test_what_is_recorded_is_not_asked_again_and_errors_are_not_recorded(tmp_path):
    record(tmp_path / "recording", tmp_path / "a", Outside(fails={"p2"}))
    outside = Outside()
    record(tmp_path / "recording", tmp_path / "b", outside)
    assert outside.asked == ["p2"]
    assert len((tmp_path / "recording").read_text().split("\n")) == 4 + 1


@pytest.mark.parametrize("cut", [1, 30])
def test_a_line_that_a_kill_cut_short_is_dropped(tmp_path, cut):
    path = tmp_path / "recording"
    record(path, tmp_path / "a", Outside())
    path.write_bytes(path.read_bytes()[:-cut])
    outside = Outside()
    record(path, tmp_path / "b", outside)
    assert len(outside.asked) == (cut > 1), "without its end alone the line is whole"
    assert len([json.loads(line) for line in path.read_text().splitlines()]) == 4


def test_what_a_recording_lacks_is_named(tmp_path):
    record(tmp_path / "recording", tmp_path / "a", Outside(), PROMPTS[:2])
    with pytest.raises(
        InputError, match=r"recording has no answer to 'p2' in 'sw' \(sample 0, turn 0\): record it with --record"
    ):
        replay(tmp_path / "recording", tmp_path / "b")
    with pytest.raises(InputError, match="has no answer to 'p0'"):
        replay(tmp_path / "recording", tmp_path / "c", Outside(settings={"model": "another"}))
    with pytest.raises(InputError, match="nowhere does not exist: give a file that --record has written"):
        Recording(tmp_path / "nowhere", replays=True)


def test_a_line_that_is_broken_elsewhere_is_an_error(tmp_path):
    (tmp_path / "recording").write_text('{"key": "a"}\n')
    with pytest.raises(InputError, match="recording, line 1 is no recorded answer"):
        Recording(tmp_path / "recording", replays=True)


def test_a_recording_holds_no_conversation(tmp_path):
    record(tmp_path / "recording", tmp_path / "a", Outside())
    assert "swali" not in (tmp_path / "recording").read_text()
