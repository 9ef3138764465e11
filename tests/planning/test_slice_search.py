"""A search ends at the smallest slice that fits, and compiles nothing that arithmetic leaves out."""

import json

import pytest
from slices import FITS, config, config_file, needs_compiler

from mpo_jax import plan
from mpo_jax.losses import Mpo
from mpo_jax.planning import advice, programs, slice_fit, slice_search, tpu_compiler
from mpo_jax.training.optim import OptimConfig

GIB_16 = tpu_compiler.Memory(fits=False, peak=16 * 2**30, usable=round(15.75 * 2**30))


def answers(model_dir, monkeypatch, fits, topologies, **changes):
    """What a search says, where the compiler says of a layout what `fits` does, and which layouts were compiled for it."""
    compiled, said = [], []

    def compile_it(layout):
        compiled.append((layout.topology, slice_search.settings(layout.config)))
        memory = FITS if fits(layout) else GIB_16
        found = {"step": memory}
        return slice_fit.SliceReport(
            layout.topology, layout.slices, dict(layout.mesh.shape), 1, 1, 1, 1, 0, 0, False, 1, 1, 1.0, None, memory.fits, found
        )

    monkeypatch.setattr(slice_search, "compiled", compile_it)
    found = list(slice_search.search(config(model_dir, **changes), topologies, None, 1, said.append))
    return found, compiled, said


@needs_compiler
def test_a_search_ends_at_the_first_layout_that_fits(model_dir, monkeypatch):
    cached_on_four = lambda layout: layout.topology == "v5e:2x2" and layout.config.reference == "cached"  # noqa: E731
    found, compiled, said = answers(model_dir, monkeypatch, cached_on_four, ["v5e:2x4", "v5e:2x2", "v5e:1x1"])
    (answer,) = found
    assert answer.plan is not None and answer.settings is not None
    assert (answer.plan.topology, answer.tried) == ("v5e:2x2", ("v5e:1x1", "v5e:2x2"))
    assert (answer.settings["reference"], answer.settings["mesh.fsdp"], answer.settings["microbatches"]) == ("cached", 4, 1)
    assert compiled[0][1]["reference"] == "live", "the config's own comes first"
    assert compiled[-1] == (answer.plan.topology, answer.settings)
    assert len({repr(layout) for layout in compiled}) == len(compiled), "none is compiled twice"
    assert any("v5e:2x2 --config.mesh.data=1" in line for line in said)
    advised = advice.recommend(answer, config(model_dir), advice.Asked())
    assert "--config.mesh.fsdp=4 --config.mesh.tensor=1 --config.reference=cached" in advised


@needs_compiler
def test_what_cannot_fit_is_never_compiled(model_dir, monkeypatch):
    monkeypatch.setattr(slice_search, "usable_bytes", lambda kind: 2**20)
    found, compiled, said = answers(model_dir, monkeypatch, lambda layout: True, ["v5e:1x1", "v6e:2x2"])
    assert not compiled and [(answer.generation, answer.plan) for answer in found] == [("v5e", None), ("v6e", None)]
    assert said[0].startswith("v5e:1x1: the state and its gradients take ") and len(said) == 2
    advised = advice.recommend(found[0], config(model_dir), advice.Asked())
    assert advised.startswith("v5e: does not fit v5e:1x1: try --config.optim")


def test_distributions_are_never_advised_to_be_cached(model_dir):
    run = config(model_dir, loss=Mpo(retain_by="kl_of_policy"))
    said = advice.recommend(slice_search.SearchResult("v5e", ("v5e:1x1",)), run, advice.Asked())
    assert said.startswith("v5e: does not fit v5e:1x1: try --config.optim") and "cached" not in said + advice.advice(run)


@needs_compiler
def test_microbatches_that_cannot_fit_do_not_end_a_search(model_dir, monkeypatch):
    """Their gradients add up in float32, which alone is too much here; a cached reference comes after them."""
    bound = lambda **run: slice_fit.least_bytes(programs.lay_out(config(model_dir, **run), "v5e:1x1"))  # noqa: E731
    usable = bound()[1] + 1
    assert bound(microbatches=2, reference="cached")[0] > usable
    monkeypatch.setattr(slice_search, "usable_bytes", lambda kind: usable)
    (answer,), _, _ = answers(model_dir, monkeypatch, lambda layout: layout.config.reference == "cached", ["v5e:1x1"])
    assert answer.settings is not None and answer.settings["reference"] == "cached"


@needs_compiler
def test_a_search_keeps_what_would_change_the_numbers(model_dir, monkeypatch):
    changes = dict(batch_size=4, microbatches=2, remat="attention", reference="cached", optim=OptimConfig(kind="adafactor"))
    _, compiled, _ = answers(model_dir, monkeypatch, lambda layout: False, ["v5e:2x2"], **changes)
    tried = [chosen for _, chosen in compiled]
    assert {chosen["reference"] for chosen in tried} == {"cached"}
    assert [chosen["remat"] for chosen in tried] == sorted(chosen["remat"] for chosen in tried), "attention, then full"
    assert {chosen["microbatches"] for chosen in tried} == {2, 4}


@needs_compiler
def test_the_search_command_prints_its_answer(model_dir, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(slice_fit, "compile_for", lambda lowered, kind: FITS)
    path = config_file(model_dir, tmp_path)
    plan.main([f"--config={path}", "--search", "--topologies=v5e:2x2,v5e:1x1", "--tokens=128", "--json"])
    (answer,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert (answer["generation"], answer["plan"]["topology"], answer["settings"]["reference"]) == ("v5e", "v5e:1x1", "live")
    for wrong, words in (
        ([], "No slice was given"),
        (["--search", "--mfu=40"], "--mfu=40.0"),
        (["--search", "--slices=0"], "--slices=0"),
    ):
        with pytest.raises(SystemExit):
            plan.main([f"--config={path}", *wrong])
        assert words in capsys.readouterr().err
