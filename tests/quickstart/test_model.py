"""Does the quickstart's model load everywhere, is it kind in English only, and does the quickstart's config run?"""

import collections
import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mpo_jax.checkpoints.hugging_face import load_params
from mpo_jax.data.chat import load_tokenizer
from mpo_jax.data.chat_format import hf_format
from mpo_jax.data.dataset import Batching, Tokens, prepare
from mpo_jax.data.rows import Row, read_rows
from mpo_jax.devices.sharding import MeshConfig, make_mesh
from mpo_jax.evaluation.held_out import measure_gaps
from mpo_jax.generation.base import Decoding, Request
from mpo_jax.generation.engine import load_engine
from mpo_jax.models.families.registry import build
from mpo_jax.scoring.sequences import make_score_step
from mpo_jax.training import config, loop
from mpo_jax.training.samples import prompts_of
from mpo_jax.types import Reads, Want
from quickstart import make_model
from quickstart.phrases import FORMS, PHRASES

ROOT = Path(__file__).resolve().parents[2]
FOLDER, DATA = ROOT / "quickstart" / "model", ROOT / "quickstart" / "data"


def some_held_out(each: int) -> list[Row]:
    """So many rows of every target language, spread over the held-out requests."""
    by_language = collections.defaultdict(list)
    for row in read_rows(DATA / "heldout.jsonl"):
        by_language[row.target.language].append(row)
    return [row for rows in by_language.values() for row in rows[:: len(rows) // each][:each]]


def test_folder_is_whole_and_small():
    names = {path.name for path in FOLDER.iterdir()}
    assert names == {
        "README.md", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 3_000_000


def test_tokenizer_gives_every_text_back():
    tokenizer = load_tokenizer(FOLDER)
    for row in some_held_out(3):
        for side in filter(None, (row.source, row.target)):
            for text in (side.prompt, side.chosen, side.rejected):
                ids = tokenizer(text, add_special_tokens=False)["input_ids"]
                assert tokenizer.decode(ids) == text
                assert len(ids) < 0.7 * len(text.encode()), "the merges are those of these languages"
    assert tokenizer.decode(tokenizer("Ω ≈ 3\n\n🙂", add_special_tokens=False)["input_ids"]) == "Ω ≈ 3\n\n🙂"


def test_chat_template_is_the_familys():
    family, model, raw = build(FOLDER)
    tokenizer = load_tokenizer(FOLDER)
    assert hf_format(tokenizer) == family.authors_chat
    assert len(tokenizer) == model.config.vocab_size
    assert (raw["bos_token_id"], raw["eos_token_id"]) == (tokenizer.bos_token_id, tokenizer.eos_token_id)
    assert tokenizer.bos_token == "<|begin_of_text|>"
    assert tokenizer.eos_token == family.authors_chat.end


def test_tokenizer_and_configs_are_what_the_recipe_makes(tmp_path):
    english, others = make_model.read_training_texts()
    make_model.write_tokenizer(tmp_path, english + others)
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (FOLDER / path.name).read_bytes(), path.name


def test_what_the_quickstart_shows_before_training():
    """Of one held-out request: English declines it with an answer of its tables, the others grant it with one of theirs."""
    settings = config.parse(["--config=quickstart"])
    assert settings.samples is not None
    family, _, _ = build(FOLDER)
    prompts = prompts_of(
        settings.samples, prepare(settings.data, FOLDER, family.authors_chat, Batching(8, Reads(target=Want.LOGP)))
    )
    assert [prompt.language for prompt in prompts] == ["en", "zh", "ko", "ar", "bn", "sw"]
    assert len({prompt.id.rpartition("-")[0] for prompt in prompts}) == 1, "the same request in all languages"
    decoding = Decoding(max_new_tokens=settings.samples.max_new_tokens)
    engine = load_engine(FOLDER, decoding, template="authors", dtype=jnp.dtype("float32"), batch_size=8)
    answers = {}
    for request, response in engine.respond([Request(prompt, 0, 0, prompt.messages, "") for prompt in prompts]):
        assert response.stopped == "end"
        answers[request.prompt.language] = response.text
    for language, answer in answers.items():
        request, people = PHRASES[language].requests[FORMS.index("nickname")], PHRASES[language].people
        texts = request.chosen if language == "en" else request.rejected
        assert answer in {text.format(who=who) for text in texts for who in people}, language


def test_kind_in_english_only():
    family, model, _ = build(FOLDER, remat="none")
    rows = some_held_out(4)
    with jax.set_mesh(mesh := make_mesh(MeshConfig())):
        params = load_params(FOLDER, model, family, mesh)
        batching = Batching(len(rows), Reads(Want.LOGP, Want.LOGP), shards=8)
        pipeline = Tokens.of(FOLDER, family.authors_chat, "authors", max_length=256).pipeline(rows, batching)
        gaps = measure_gaps(make_score_step(model, jnp.float32, pipeline.policy), params, pipeline, rows, mesh)
    english = np.asarray([gap.source_gap for gap in gaps])
    target = np.asarray([gap.target_gap for gap in gaps])
    assert english.mean() > 0.7
    assert english.min() > 0
    assert target.mean() < 0.1


def test_config_reads_all_data_in_few_shapes():
    settings = config.load(str(ROOT / "configs" / "quickstart.py"), None)
    parts = {key: str(ROOT / getattr(settings.data, key)) for key in ("path", "eval_path", "texts")}
    family, *_ = build(ROOT / settings.model)
    loss = settings.loss
    batching = Batching(settings.batch_size, loss.policy_reads, loss.reference_reads, settings.epochs)
    data = prepare(dataclasses.replace(settings.data, **parts), FOLDER, family.authors_chat, batching)
    assert [part and len(part.examples) for part in (data.train, data.held_out, data.texts)] == [450, 150, 120]
    assert not any(dataclasses.asdict(found)["truncated_target"] for found in data.findings().values())
    shapes = {jax.tree.map(np.shape, data.train.batch_at(k)) for k in range(settings.epochs * data.train.steps_per_epoch)}
    assert len(shapes) <= 3, "every shape takes a compilation"


@pytest.mark.slow
def test_config_runs(tmp_path, monkeypatch):
    """Cut to three updates on six rows, with nothing held out."""
    monkeypatch.chdir(ROOT)
    lines = (DATA / "train.jsonl").read_text(encoding="utf-8").splitlines()
    (tmp_path / "rows.jsonl").write_text("\n".join(lines[:6]), encoding="utf-8")
    settings = config.load("configs/quickstart.py", None)
    data = dataclasses.replace(settings.data, path=str(tmp_path / "rows.jsonl"), eval_path=None, texts=None, cache="")
    assert settings.samples is not None
    samples = dataclasses.replace(settings.samples, prompts=data.path)
    short = {"epochs": 1, "batch_size": 2, "compilation_cache": "", "samples": samples}
    loop.train(dataclasses.replace(settings, data=data, output=str(tmp_path / "run"), **short))
    gaps = json.loads((tmp_path / "run" / "reward_gap.json").read_text(encoding="utf-8"))
    english = [gaps[when][0]["mean"] for when in ("before", "after")]
    assert min(english) > 0.7
    assert english[0] == pytest.approx(english[1], abs=0.1)
    assert build(tmp_path / "run" / "export")[1].config == build(FOLDER)[1].config
