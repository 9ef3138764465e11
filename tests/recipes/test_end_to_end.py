"""Every recipe from prompts to rows that training reads: at once, stage by stage, and cut short at random."""

import json
import random
from pathlib import Path

import pytest

pytest.importorskip("openai", reason="a served model needs openai: pip install -r requirements-server.txt")

import recipe_voices
from fake_endpoint import Endpoint, served
from recipe_runs import LANGUAGES, arguments, options, other_model, rows, write_prompts

from mpo_jax import build as command
from mpo_jax.data.rows import read_rows
from mpo_jax.files import paths
from mpo_jax.recipes.registry import RECIPES


class Killed(BaseException):
    """What a kill would do to this process."""


@pytest.fixture(scope="module")
def other(world, tmp_path_factory) -> Path:
    return other_model(world, tmp_path_factory.mktemp("other") / "model")


@pytest.fixture(scope="module")
def prompts(tmp_path_factory) -> Path:
    return write_prompts(tmp_path_factory.mktemp("prompts") / "prompts.jsonl")


@pytest.fixture(scope="module")
def endpoint():
    with served(recipe_voices.say) as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def wholes(world, other, prompts, endpoint, tmp_path_factory):
    """Recipe -> the folder of a build that nothing disturbed, made when it is first asked for."""
    made: dict[str, Path] = {}

    def whole(recipe: str) -> Path:
        if recipe not in made:
            made[recipe] = tmp_path_factory.mktemp(recipe) / "out"
            command.main(words(recipe, world, other, prompts, endpoint, made[recipe]))
        return made[recipe]

    return whole


def words(recipe: str, world: Path, other: Path, prompts: Path, endpoint: Endpoint, output: Path, *more: str) -> list[str]:
    denominator = ["--denominator", str(other)] if recipe == "icr" else []
    return arguments(recipe, prompts, output, *options(recipe, world, endpoint.url), *denominator, *more)


@pytest.mark.parametrize("recipe", RECIPES)
def test_rows_can_be_read_and_the_manifest_says_what_became_of_every_prompt(recipe, wholes):
    folder = wholes(recipe)
    found = read_rows(folder / "rows.jsonl")
    assert {row.target.language for row in found} - {"en"} == {*LANGUAGES}
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["recipe"] == recipe
    assert sum(manifest["rows"].values()) == len(found)
    dropped = [json.loads(line) for line in (folder / "dropped.jsonl").read_text().splitlines()]
    assert sum(n for counts in manifest["dropped"].values() for n in counts.values()) == len(dropped)
    for language in LANGUAGES:
        ids = {row.id.partition("-")[0] for row in found if row.target.language == language}
        assert ids | {one["id"].partition("-")[0] for one in dropped if one["language"] == language} >= {
            f"q{n}" for n in range(8)
        }
    origins = [json.loads(line) for line in (folder / "origins.jsonl").read_text().splitlines()]
    assert [one["id"] for one in origins] == [row.id for row in found]


@pytest.mark.parametrize("recipe", RECIPES)
def test_again_nobody_is_asked_and_stage_by_stage_the_rows_are_the_same(
    recipe, wholes, world, other, prompts, endpoint, tmp_path, capsys
):
    before, asked = rows(wholes(recipe)), len(endpoint.asked)
    command.main(words(recipe, world, other, prompts, endpoint, wholes(recipe)))
    assert len(endpoint.asked) == asked
    assert rows(wholes(recipe)) == before
    given = words(recipe, world, other, prompts, endpoint, tmp_path / "parts")
    names = [stage.name for stage in RECIPES[recipe]().stages]
    for _ in range(8 if recipe == "on_policy" else 1):  # its first two stages take turns
        for name in names[:2]:
            command.main([*given, "--stage", name])
    for name in (*names[2:], "rows"):
        command.main([*given, "--stage", name])
    assert rows(tmp_path / "parts") == before


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_build_that_is_cut_short_again_and_again_ends_with_the_same_rows(
    recipe, wholes, world, other, prompts, endpoint, tmp_path, monkeypatch
):
    """A kill leaves half of a line in one of the files that grow, or half of a file that is to be replaced."""
    dice, write = random.Random(0), paths.Lines.write
    left = [0]

    def written(lines: paths.Lines, line: str) -> None:
        left[0] -= 1
        if left[0] < 0:
            lines._file.write(line[: len(line) // 2])
            lines._file.flush()
            raise Killed
        write(lines, line)

    monkeypatch.setattr(paths.Lines, "write", written)
    kills = 0
    for most in (3, 12, 12, 30, 30, 100, 10**9):
        left[0] = dice.randrange(most) if most < 10**9 else most
        try:
            command.main(words(recipe, world, other, prompts, endpoint, tmp_path / "out"))
        except Killed:
            kills += 1
    assert kills > 1
    assert rows(tmp_path / "out") == rows(wholes(recipe))
