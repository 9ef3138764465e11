"""The study of a model's own data: what becomes a row, by tables made by hand, and the command from its line to its tables."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from mpo_jax.data.chat import Example, TokenPair
from mpo_jax.experiments import own_data, own_pairs
from mpo_jax.experiments.learning import MODEL
from mpo_jax.experiments.measuring import implicit_rewards
from mpo_jax.experiments.results import Run
from mpo_jax.experiments.world import DOMINANT, END, LANGUAGES, Noise, Request, World
from mpo_jax.experiments.writing import answers, make_engine

WORLD = World(seed=3)
UNSAFE, SAFE = Request(0, 1, polite=False), Request(20, 1, polite=True)


def samples(*of_requests: list[int]) -> list[list[np.ndarray]]:
    """request -> sample, each of as many tokens as the number says, the last sample's tokens being the largest."""
    return [[np.full(length, 10 * i + k, np.int32) for k, length in enumerate(lengths)] for i, lengths in enumerate(of_requests)]


def test_lengths_are_calibrated_by_the_recipe():
    """Without a penalty the longest sample is best and the shortest worst. At 0.5 nats a token all are as good as their rest."""
    of = samples([2, 6, 4], [2, 4, 8])
    length_NK = np.asarray([[2, 6, 4], [2, 4, 8]], float)
    rest_NK = np.asarray([[0.0, 0.01, 0.02], [0.0, 0.01, 0.0]])
    score_NK = own_pairs.calibrated(0.5 * length_NK + rest_NK, of)
    chosen = [len(pair.chosen) - len(pair.rejected) for pair in own_pairs.best_and_worst([of[0][0]] * 2, of, score_NK).values()]
    assert abs(np.mean(chosen)) < abs(np.mean([4, 6])), "the best are no longer the longest"


def test_the_best_sample_is_chosen_and_the_worst_rejected():
    of = samples([2, 3, 4], [2, 2, 2], [3, 3, 3])
    of[2][1] = of[2][0]
    scores = np.asarray([[0.1, 0.9, -0.3], [0.5, 0.5, 0.5], [1.0, 0.0, 0.5]])
    prompts = [np.asarray([7]), np.asarray([8]), np.asarray([9])]
    pairs = own_pairs.best_and_worst(prompts, of, scores)
    assert pairs.keys() == {0}, "equal scores make no pair, and neither do equal texts"
    assert [ids.tolist() for ids in (pairs[0].prompt, pairs[0].chosen, pairs[0].rejected)] == [[7], [1] * 3, [2] * 4]


@pytest.mark.parametrize("language", ["a", "e"])
def test_a_word_is_as_probable_as_the_dictionary_says(language: str):
    reference = WORLD.refusal(DOMINANT, UNSAFE)
    words, rest = len(WORLD.tokens[language]), own_pairs.MISTAKEN
    right = (1 - rest) / 4 + rest / words  # one of the four words of the answer translates to it
    assert np.exp(own_pairs.translation_logps(WORLD, language, WORLD.refusal(language, UNSAFE), reference)) == pytest.approx(
        [right] * 4
    )
    compliance = own_pairs.translation_logps(WORLD, language, WORLD.compliance(language, UNSAFE), reference)
    action = (1 - rest) / 5 + rest / words  # of the compliance's five words only the action is in the refusal
    assert np.exp(compliance) == pytest.approx([rest / words, action, rest / words, rest / words])
    for nothing in (np.asarray([END]), np.asarray([], np.int32), WORLD.refusal("g", UNSAFE)):
        assert np.exp(own_pairs.translation_logps(WORLD, language, nothing, reference)) == pytest.approx([rest / words] * 4)


def test_the_refusal_is_the_best_aligned_sample():
    of = [[WORLD.compliance("f", UNSAFE), WORLD.refusal("f", dataclasses.replace(UNSAFE, action=1)), WORLD.refusal("f", UNSAFE)]]
    score_NK = own_pairs.alignments(WORLD, "f", of, [WORLD.refusal(DOMINANT, UNSAFE)])
    assert score_NK[0, 2] == max(score_NK[0]) > min(score_NK[0]) == score_NK[0, 0]


def test_a_given_answer_is_preferred_unless_it_is_the_model_s_own():
    own = samples([2], [3])
    given = [np.asarray([5, 6]), own[1][0].copy()]
    pairs = own_pairs.preferred(given, [np.asarray([7]), np.asarray([8])], own)
    assert pairs.keys() == {0}
    assert pairs[0].chosen.tolist() == [5, 6] and pairs[0].rejected.tolist() == own[0][0].tolist()


def test_rows_are_told_apart_by_their_first_words():
    refusal, compliance = WORLD.refusal("e", UNSAFE), WORLD.compliance("e", UNSAFE)
    answered = [(0, refusal, compliance), (0, compliance, refusal), (1, refusal, compliance), (1, refusal, refusal)]
    rows = [Example(f"{i}.e", "e", None, TokenPair(refusal, chosen, rejected)) for i, chosen, rejected in answered]
    assert own_pairs.facts(WORLD, rows, [UNSAFE, SAFE]) == {"rows": 4, "told": 0.75, "right": pytest.approx(1 / 3)}
    assert own_pairs.facts(WORLD, rows[3:], [UNSAFE, SAFE])["right"] == 0, "and not 0 / 0"


def test_the_better_answer_depends_on_the_request():
    assert own_pairs.better(WORLD, "a", UNSAFE).chosen.tolist() == WORLD.refusal("a", UNSAFE).tolist()
    assert own_pairs.better(WORLD, "a", SAFE).chosen.tolist() == WORLD.compliance("a", SAFE).tolist()


@pytest.fixture(scope="module")
def two_models():
    """Random ones, large enough for answers to differ."""
    return [jax.tree.map(lambda x: 5 * x, MODEL.init(jax.random.key(seed))) for seed in (0, 1)]


def test_a_reward_is_a_sum_over_all_tokens(two_models):
    """The reward of two tokens is that of the first and that of the second after it; the order of answers stays."""
    first, second = WORLD.refusal("a", UNSAFE)[:2], WORLD.compliance("a", UNSAFE)[:2]
    prompt = WORLD.prompt(DOMINANT, UNSAFE)
    longer = np.append(prompt, first[:1])
    pairs = [TokenPair(prompt, first, second), TokenPair(prompt, first[:1], second[:1]), TokenPair(longer, first[1:], first[:1])]
    model, base = two_models
    reward_N2 = implicit_rewards(model, base, pairs, 3)
    assert reward_N2[0, 0] == pytest.approx(reward_N2[1, 0] + reward_N2[2, 0], abs=1e-3)
    assert reward_N2 == pytest.approx(-implicit_rewards(base, model, pairs, 1), abs=1e-3)
    assert abs(reward_N2).min() > 0.01


def test_samples_differ_and_are_those_of_their_request(two_models):
    engine = make_engine(8)
    drawn = answers(engine.otherwise(own_pairs.SAMPLED), two_models[0], WORLD, [UNSAFE, SAFE], own_pairs.SAMPLED.samples)
    greedy = answers(engine, two_models[0], WORLD, [SAFE, UNSAFE])
    assert drawn.keys() == greedy.keys() == set(LANGUAGES)
    assert all(len(of_request) == own_pairs.SAMPLED.samples for of in drawn.values() for of_request in of)
    assert len({tuple(answer.tolist()) for answer in drawn["a"][0]}) > 1
    assert greedy["a"][1][0].tolist() == answers(engine, two_models[0], WORLD, [UNSAFE])["a"][0][0].tolist()


def test_accuracies_are_averaged_over_kinds_and_languages():
    """The reward always prefers refusals: right for every unsafe request, wrong for every safe one."""
    values = {
        f"reward/{after}/{kind}/{language}": float(kind == "unsafe")
        for after in own_data.AFTER
        for kind in own_data.KINDS
        for language in LANGUAGES
    }
    table = own_data._accuracy_table([Run(own_data.ALIGNED, seed, Noise(), 0.0, values) for seed in (0, 1)])
    cells = "1.00 ± 0.00 | 0.00 ± 0.00 | 0.50 ± 0.00"
    assert f"| targets | {cells} | {cells} |" in table


@pytest.mark.slow
def test_the_command_writes_its_results(tmp_path, monkeypatch):
    parse = own_data.parse

    def tiny(argv):
        study, folder = parse(argv)
        return dataclasses.replace(study, prompts=16, requests=2, base_updates=60), folder

    few = ("aligned", "icr_1", "dpo", "dpo_nll_lidr", "mpo_mapo")
    monkeypatch.setattr(own_data, "parse", tiny)
    monkeypatch.setattr(own_data, "ARMS", {name: own_data.ARMS[name] for name in few})
    monkeypatch.setattr(own_data, "RATES", (1e-4, 2e-4))
    own_data.main(["--seeds=1", f"--out={tmp_path}"])
    kept = json.loads((tmp_path / "results.json").read_text())
    assert [run["method"] for run in kept["runs"]] == ["base", *few]
    assert all(kept["grids"][name].keys() == {"0.0001", "0.0002"} for name in few)
    assert len({json.dumps(run["values"]) for run in kept["runs"]}) == 1 + len(few), "each arm changes something"
    found = {run["method"]: run["values"] for run in kept["runs"]}
    assert found["icr_1"]["rows"] > found["dpo"]["rows"] == 6 * 16, "samples of the dominant language are rows too"
    assert found["dpo"]["right"] == 1
    tables = (tmp_path / "tables.md").read_text()
    assert "Accuracy of the implicit reward" in tables and "`mpo_mapo`" in tables and (tmp_path / "safety.png").is_file()


@pytest.mark.parametrize(("argument", "sentence"), [("--seeds=0", "at least 1"), ("--out=gs://a/b", "not a local folder")])
def test_bad_arguments_are_a_sentence(argument, sentence, capsys):
    with pytest.raises(SystemExit):
        own_data.main([argument])
    assert sentence in capsys.readouterr().err
