"""An adapter's updates are PEFT's; on any mesh, in microbatches, live or cached; at the start nothing has changed."""

import contextlib
import dataclasses
import functools
import io
import itertools
import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import peft_step
import pytest
import tiny
from safetensors.numpy import load_file, save_file
from world import command, config_file, metrics

from mpo_jax import losses
from mpo_jax.checkpoints.hugging_face import load_params
from mpo_jax.checkpoints.peft_folder import WEIGHTS, load_adapter, load_with_adapter, named, read_lora_config
from mpo_jax.devices.sharding import batch_to_mesh
from mpo_jax.errors import InputError
from mpo_jax.losses import Mpo
from mpo_jax.losses.base import numbers_of
from mpo_jax.models.adapters import LoraConfig, abstract_adapter, init_adapter, prepared
from mpo_jax.models.families.registry import build
from mpo_jax.models.parameters import Frozen
from mpo_jax.models.weight_table import export_tree
from mpo_jax.scoring.objective import Task
from mpo_jax.telemetry.flops import update_work
from mpo_jax.telemetry.memory import bytes_on
from mpo_jax.training.assemble import assemble
from mpo_jax.training.config import parse
from mpo_jax.training.optim import OptimConfig, make_optimizer
from mpo_jax.training.step import TrainStep, abstract_state, init_state, jit_train_step, loss_and_grads
from mpo_jax.training.step_arguments import on_mesh, step_numbers

MODEL = tiny.model()
BASE = tiny.two_params(MODEL)[0]
CONFIG = LoraConfig(4, 8.0)
OPTIMIZER = make_optimizer(OptimConfig(peak_lr=peft_step.LR, eps=peft_step.EPS, warmup=0.0, decay="constant"), 10)


def noisy(abstract):
    """An adapter as after some training: neither factor is zero."""
    random = np.random.default_rng(0)
    return jax.tree.map(lambda x: (0.1 * random.normal(size=x.shape)).astype(np.float32), abstract)


@pytest.mark.parametrize("zero", ["a", "b"])
def test_nothing_has_changed_before_the_first_update(zero):
    config = dataclasses.replace(CONFIG, zero=zero)
    on = tiny.mesh()
    adapter = init_adapter(MODEL, config, 3, on)
    for factors in jax.tree.leaves(adapter, is_leaf=lambda x: isinstance(x, dict) and "a" in x):
        assert not np.any(factors[zero])
        assert 0.05 < np.std(factors["ab".replace(zero, "")]) < 0.6
    task, batch, numbers = Task(MODEL, Mpo(), ()), tiny.micro(tiny.batch(4), 1), numbers_of(Mpo())
    loss, metrics, _ = loss_and_grads(task, adapter, Frozen(prepared(BASE, config), {}, shared=True), batch, numbers)
    expected, of_base, _ = loss_and_grads(task, BASE, Frozen({}, BASE), batch, numbers)
    assert float(metrics["loss/retain"].value) == 0
    assert float(loss.value) == float(expected.value)
    assert float(metrics["logps/chosen"].value) == float(of_base["logps/chosen"].value)


def start(case: str):
    """(model, base, settings, adapter by PEFT's names, adapter) of a case of `peft_step`."""
    folder, rank, alpha, rslora = peft_step.CASES[case]
    family, model, _ = build(peft_step.FIXTURES / folder)
    config = LoraConfig(rank, alpha, rslora=rslora)
    adapter = noisy(abstract_adapter(model, config))
    base = functools.partial(load_params, peft_step.FIXTURES / folder, model, family)
    return model, base, config, named(adapter, model, family, config), adapter


@pytest.mark.parametrize("case", peft_step.CASES)
def test_updates_are_pefts(case):
    model, base, config, _, adapter = start(case)
    on, batch = tiny.mesh(), tiny.batch(peft_step.ROWS)
    expected = {k.removeprefix(f"{case}: "): v for k, v in np.load(peft_step.FIXTURES / "lora.npz").items() if k.startswith(case)}
    frozen = Frozen(prepared(base(on), config), {}, shared=True)
    family = build(peft_step.FIXTURES / peft_step.CASES[case][0])[0]
    compare(expected, ours(model, adapter, frozen, on, batch), lambda tree: named(jax.device_get(tree), model, family, config))


@pytest.mark.parametrize("case", peft_step.CASES)
def test_stored_updates_are_those_of_this_peft(case):
    pytest.importorskip("torch")
    pytest.importorskip("peft")
    _, rank, alpha, rslora = peft_step.CASES[case]
    live = peft_step.peft_updates(peft_step.CASES[case][0], rank, alpha, rslora, start(case)[3], tiny.batch(peft_step.ROWS))
    stored = np.load(peft_step.FIXTURES / "lora.npz")
    for name, value in live.items():
        np.testing.assert_allclose(value, stored[f"{case}: {name}"], rtol=1e-4, atol=1e-5, err_msg=name)


def ours(model, adapter, frozen, on, batch, parts: int = 1):
    """(losses of three updates, the first gradients, the adapter at the end)."""
    with jax.set_mesh(on):
        task, numbers = Task(model, Mpo(), ()), step_numbers(Mpo(), peft_step.LR)
        placed = place(adapter, model, on)
        state = init_state(placed, OPTIMIZER, on)
        step = jit_train_step(TrainStep(task, OPTIMIZER, jnp.float32), abstract_state(placed, OPTIMIZER, on))
        data = batch_to_mesh(tiny.micro(batch, parts), on)
        _, _, gradients = jax.jit(functools.partial(loss_and_grads, task))(state.trainable, frozen, data, numbers_of(Mpo()))
        gradients, losses = jax.device_get(gradients), []
        for _ in range(peft_step.UPDATES):
            state, metrics = step(state, frozen, data, on_mesh(numbers, on))
            losses.append(float(metrics["loss"].value))
        return losses, gradients, jax.device_get(state.trainable)


def place(adapter, model, on):
    """On the mesh, as a run lays it out."""
    rank = jax.tree.leaves(adapter)[0].shape[-1]
    where = abstract_adapter(model, LoraConfig(rank, 8.0), on)
    return jax.tree.map(lambda x, like: jax.device_put(jnp.array(x), like.sharding), adapter, where)


def compare(expected, found, names):
    losses, gradients, after = found
    # a loss is made of gaps, differences of log-probabilities of about 5
    np.testing.assert_allclose(losses, expected["losses"], rtol=1e-5, atol=5e-6)
    for kind, tree in (("gradient", gradients), ("after", after)):
        for name, value in names(tree).items():
            like = expected[f"{kind} {name}"]
            np.testing.assert_allclose(value, like, rtol=1e-5, atol=1e-5 * max(1, np.abs(like).max()), err_msg=f"{kind} {name}")


@pytest.fixture(scope="module")
def plain():
    on = tiny.mesh()
    frozen = Frozen(prepared(tiny.place(MODEL, BASE, on), CONFIG), {}, shared=True)
    return ours(MODEL, noisy(abstract_adapter(MODEL, CONFIG)), frozen, on, tiny.batch(8))


@pytest.mark.parametrize(
    ("shape", "parts"), [((1, 1, 1), 4), ((8, 1, 1), 1), ((1, 8, 1), 1), ((1, 1, 8), 1), ((2, 2, 2), 2)], ids=str
)
def test_any_mesh_and_microbatches_compute_the_same(plain, shape, parts):
    on = tiny.mesh(*shape)
    with jax.set_mesh(on):
        frozen = Frozen(prepared(tiny.place(MODEL, BASE, on), CONFIG), {}, shared=True)
    found = ours(MODEL, noisy(abstract_adapter(MODEL, CONFIG)), frozen, on, tiny.batch(8), parts)
    np.testing.assert_allclose(found[0], plain[0], rtol=1e-5)
    for a, b in zip(jax.tree.leaves(found[1:]), jax.tree.leaves(plain[1:]), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-5 * np.abs(b).max())


def products(hlo):
    """The sizes of the matrices that a compiled program's products make, in ascending order, without axes of one."""
    made = re.findall(r" = \w+\[([\d,]+)\]\S* (?:dot|convolution)\(", hlo)
    return {tuple(sorted(int(n) for n in sizes.split(",") if n != "1")) for sizes in made}


def test_the_step_has_no_gradient_of_a_frozen_weight():
    """Each size stands for one axis here, so a product of two axes of a weight is that weight's gradient. The whole model's step
    has those of all projections."""
    D, N, H, F = 40, 8, 12, 56
    model, on = tiny.model(hidden_size=D, heads=N, kv_heads=N, head_dim=H, ffn=F), tiny.mesh()
    task, batch = Task(model, Mpo(), ()), tiny.micro(tiny.batch(4, length=20), 1)
    base = model.abstract(on)

    def made(trainable, frozen):
        state = abstract_state(trainable, OPTIMIZER, on)
        step = jit_train_step(TrainStep(task, OPTIMIZER, jnp.float32), state)
        return products(step.lower(state, frozen, batch, step_numbers(Mpo(), 0.1)).compile().as_text())

    gradients = {(D, F), (D, N * H)}
    assert made(base, Frozen({}, base)) >= gradients
    lora = made(abstract_adapter(model, CONFIG, on), Frozen(prepared(base, CONFIG), {}, shared=True))
    assert lora >= {(CONFIG.rank, D), (CONFIG.rank, F), (CONFIG.rank, N * H)} and not lora & gradients


def test_the_reference_is_the_base_without_a_copy_and_without_a_gradient():
    frozen = Frozen(prepared(BASE, CONFIG), {}, shared=True)
    shared = jax.tree.leaves(frozen.reference_params)
    assert all(any(x is y for y in jax.tree.leaves(BASE)) for x in shared) and len(shared) == len(jax.tree.leaves(BASE))
    assert len(jax.tree.leaves(frozen)) == len(shared), "the arrays are arguments of the step once"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"rank": -1}, "lora.rank=-1 must be above 0"),
        ({"rank": 4, "alpha": 0}, "lora.alpha=0 must be a number above 0"),
        ({"rank": 4, "targets": "q_proj,embed"}, "lora.targets='embed'"),
        ({"rank": 4, "zero": "c"}, "lora.zero='c'"),
    ],
    ids=str,
)
def test_settings_that_cannot_be_are_named(given, said):
    with pytest.raises(InputError) as refused:
        LoraConfig(**given)
    assert said in str(refused.value)


def test_an_adapter_counts_by_its_rank_or_by_the_root_of_it():
    assert (LoraConfig(16, 32.0).scale, LoraConfig(16, 32.0, rslora=True).scale) == (2, 8)


def test_a_fresh_adapter_depends_on_its_seed_and_no_two_factors_are_alike():
    one, same, other = (jax.tree.leaves(init_adapter(MODEL, CONFIG, seed, tiny.mesh())) for seed in (1, 1, 2))
    drawn = [x for x in one if np.any(x)]
    assert all(np.array_equal(x, y) for x, y in zip(one, same, strict=True))
    assert not any(np.array_equal(x, y) for x, y in zip(drawn, (y for y in other if np.any(y)), strict=True))
    assert not any(np.array_equal(x, y) for x, y in itertools.combinations(drawn, 2))
    a = init_adapter(MODEL, CONFIG, 1, tiny.mesh())["layers"]
    for factor, inputs in ((a["attention"]["q"]["a"], 32), (a["attention"]["o"]["a"], 64), (a["mlp"]["down"]["a"], 64)):
        assert 0.9 < np.abs(factor).max() * inputs**0.5 <= 1


def test_a_rank_that_is_not_low_is_refused():
    with pytest.raises(InputError, match=r"lora\.rank=32 is no low rank for q_proj, whose weights have rank 32 at most"):
        abstract_adapter(MODEL, LoraConfig(32, 8.0))


def test_every_kind_of_reading_takes_the_shared_reference():
    """Pairs of both sides, mismatched ones, and whole distributions: as with a copy of the base of its own."""
    every = losses.Sum({"mpo": Mpo(), "kto": losses.Kto(), "kl": Mpo(retain_by="kl_of_policy"), "dpo": losses.Dpo(side="source")})
    task, batch = Task(MODEL, every, ()), tiny.micro(tiny.batch(4, divergence=True), 2)
    adapter, base = noisy(abstract_adapter(MODEL, CONFIG)), prepared(BASE, CONFIG)
    gradient = jax.jit(functools.partial(loss_and_grads, task))
    shared, own = (
        gradient(adapter, frozen, batch, numbers_of(every)) for frozen in (Frozen(base, {}, shared=True), Frozen(base, BASE))
    )
    np.testing.assert_allclose(shared[0].value, own[0].value, rtol=1e-6)
    assert float(own[1]["kl/loss/retain"].total) > 0 and float(own[1]["kto/z0"].total) > 0
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max()), shared[2], own[2])


LORA = LoraConfig(4, targets="q_proj,v_proj,down_proj")
SETTINGS = ["--config.lora.rank=4", "--config.lora.targets=q_proj,v_proj,down_proj", "--config.optim.peak_lr=1e-2"]


@pytest.fixture(scope="module")
def whole(world, tmp_path_factory):
    """The output of a run of an adapter that nothing disturbed, with what it printed."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        run = command(world, tmp_path_factory.mktemp("lora"), *SETTINGS)
    (run / "printed.txt").write_text(printed.getvalue())
    return run


def test_a_run_says_what_is_trained_frozen_and_shared(world, whole):
    sizes = dict(re.findall(r"^(trainable parameters|frozen parameters|reference) +(\S+) ", printed(whole), re.MULTILINE))
    _, model, _ = build(world / "model")
    on = tiny.mesh(fsdp=8)
    held = {"trainable parameters": abstract_adapter(model, LORA, on), "frozen parameters": model.abstract(on), "reference": {}}
    assert sizes == {name: f"{bytes_on(tree) / 1e9:.3g}" for name, tree in held.items()}
    assert re.search(r"^reference .* \(shares the frozen parameters\)$", printed(whole), re.MULTILINE)


def printed(run):
    return (run / "printed.txt").read_text()


def test_a_run_leaves_the_adapter_and_the_merged_model(world, whole):
    family, model, _ = build(world / "model")
    on = tiny.mesh()
    config, _ = load_adapter(whole / "adapter", model, family, on)
    assert (config.rank, config.names, config.alpha) == (4, ("q_proj", "v_proj", "down_proj"), 32.0)
    merged = load_with_adapter(world / "model", model, family, on, jnp.float32, whole / "adapter")
    exported = load_params(whole / "export", model, family, on)
    untouched = load_params(world / "model", model, family, on)
    moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), merged, untouched)
    assert moved["layers"]["attention"]["q"] and moved["layers"]["mlp"]["down"]
    assert not moved["layers"]["attention"]["k"] and not moved["embedding"]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a.astype(jnp.bfloat16), b, rtol=2**-7), merged, exported)
    said = re.search(r"export: .*; (.* of .* weights \(.*%\) differ from .* in bfloat16; .* is .*, of model\..*)", printed(whole))
    assert said and f"## Weights\n\n{said[1]}." in (whole / "export" / "README.md").read_text()
    held = sum(path.stat().st_size for path in (whole / "checkpoints").rglob("*") if path.is_file())
    whole_state = 3 * (world / "model" / "model.safetensors").stat().st_size  # masters and two moments
    assert held < whole_state / 2, "a checkpoint holds the adapter alone"


def test_a_run_holds_the_base_once_and_counts_an_adapters_work(world, whole, tmp_path):
    run = assemble(parse([f"--config={config_file(world, tmp_path)}", *SETTINGS]))
    assert run.frozen.shared and not run.frozen.reference
    assert len(jax.tree.leaves(run.frozen)) == len(jax.tree.leaves(build(world / "model")[1].abstract()))
    work = update_work(run.model.config, run.data.train.batch_at(1), run.programs.state.trainable)
    lines = map(json.loads, (whole / "metrics.jsonl").read_text().splitlines())
    (second,) = (line for line in lines if line["step"] == 2 and "step_seconds" in line)
    assert second["tflops_per_second"] * second["step_seconds"] * 8e12 == pytest.approx(work.flops, rel=1e-5)


def test_an_interrupted_run_goes_on_to_the_same_numbers(world, whole, tmp_path, interrupted):
    with interrupted(3):
        command(world, tmp_path, *SETTINGS)
    resumed = command(world, tmp_path, *SETTINGS, "--config.checkpoint.resume=auto")
    clocks = ("step_seconds", "tokens_per_second", "tflops_per_second")
    for ours, theirs in zip(metrics(resumed), metrics(whole), strict=True):
        assert {k: v for k, v in ours.items() if k not in clocks} == {k: v for k, v in theirs.items() if k not in clocks}


def test_a_cached_reference_trains_alike(world, whole, tmp_path):
    cached = command(world, tmp_path, *SETTINGS, "--config.reference=cached")
    for ours, theirs in zip(metrics(cached), metrics(whole), strict=True):
        for name in ours.keys() & theirs.keys() - {
            "packing_efficiency",
            "step_seconds",
            "tokens_per_second",
            "tflops_per_second",
        }:
            assert ours[name] == pytest.approx(theirs[name], rel=1e-4, abs=1e-5), name


def held_out(run, update):
    """The metrics on held-out rows, and the gaps of the table, before the run or after it."""
    (line,) = (x for x in metrics(run) if x["step"] == update and "eval_loss" in x)
    gaps = json.loads((run / "reward_gap.json").read_text())["after" if update else "before"]
    return {k: v for k, v in line.items() if k.startswith("eval_")} | {gap["name"]: gap["mean"] for gap in gaps}


def test_a_run_starts_from_the_adapter_of_another(world, whole, tmp_path):
    """The folder has its settings. What is measured first is what the run before measured last: the reference is the base again.
    A continuation finds the folder wherever it lies, and no other one."""
    folder, moved, other = whole / "adapter", tmp_path / "moved", tmp_path / "other"
    settings = ["--config.epochs=1", "--config.optim.peak_lr=1e-2"]
    more = command(world, tmp_path, f"--config.lora.start={folder}", *settings)
    assert held_out(more, 0) == pytest.approx(held_out(whole, 4), rel=1e-5, abs=1e-6)
    assert held_out(more, 2)["eval_loss"] != pytest.approx(held_out(more, 0)["eval_loss"], rel=1e-3)
    assert read_lora_config(more / "adapter") == read_lora_config(folder)
    settings.append("--config.checkpoint.resume=auto")
    command(world, tmp_path, f"--config.lora.start={shutil.copytree(folder, moved)}", *settings)
    shutil.copytree(folder, other)
    save_file({name: 2 * x for name, x in load_file(folder / WEIGHTS).items()}, other / WEIGHTS)
    with pytest.raises(InputError, match=r"belongs to another run: model files\.lora\.start was '"):
        command(world, tmp_path, f"--config.lora.start={other}", *settings)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_a_run_starts_from_what_peft_saved(world, tmp_path):
    """Its weights before the first update are those that PEFT computes when it merges its adapter."""
    torch, peft = pytest.importorskip("torch"), pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    hf = AutoModelForCausalLM.from_pretrained(world / "model", dtype=torch.float32)
    theirs = peft.get_peft_model(hf, peft.LoraConfig(r=3, lora_alpha=5, target_modules=["o_proj", "up_proj"], use_rslora=True))
    with torch.no_grad():
        for parameter in (p for name, p in theirs.named_parameters() if "lora_" in name):
            parameter.copy_(0.2 * torch.randn_like(parameter))
    theirs.save_pretrained(tmp_path / "peft")
    run = assemble(parse([f"--config={config_file(world, tmp_path)}", f"--config.lora.start={tmp_path / 'peft'}"]))
    assert (run.lora.rank, run.lora.names, run.lora.scale) == (3, ("o_proj", "up_proj"), 5 / 3**0.5)
    expected = theirs.merge_and_unload().state_dict()
    for name, ours in export_tree(run.weights(run.masters()), run.model, run.family.weights(run.model.config)):
        np.testing.assert_allclose(ours, expected[name], atol=1e-6, err_msg=name)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--config.lora.rank=8"], "lora.rank=8 contradicts lora.start='{start}', an adapter with rank=4: leave lora.rank out"),
        (["--config.lora.alpha=8"], "lora.alpha=8.0 contradicts lora.start='{start}', an adapter with alpha=32.0"),
        (
            ["--config.lora.targets=q_proj"],
            "lora.targets=q_proj contradicts lora.start='{start}', an adapter with targets=q_proj,v_",
        ),
        (["--config.lora.rslora=True"], "lora.rslora=True contradicts lora.start='{start}', an adapter with rslora=False"),
        (["--config.lora.zero=a"], "lora.zero='a' has no effect with lora.start='{start}'"),
        (["--config.frozen=embedding"], "frozen='embedding' has no effect with lora.rank=4"),
        (["--config.lora.start=nowhere"], "nowhere/adapter_config.json cannot be read as JSON"),
    ],
    ids=str,
)
def test_settings_that_an_adapter_contradicts_are_named(world, whole, tmp_path, given, said):
    start = whole / "adapter"
    with pytest.raises(InputError) as refused:
        parse([f"--config={config_file(world, tmp_path)}", f"--config.lora.start={start}", *given])
    assert said.format(start=start) in str(refused.value)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--config.frozen=embedding"], "frozen='embedding' has no effect with lora.rank=4"),
        (["--config.reference_dtype=bfloat16"], "must be the same"),
    ],
    ids=str,
)
def test_settings_that_clash_are_a_sentence(world, tmp_path, given, said):
    with pytest.raises(InputError, match=said):
        command(world, tmp_path, *SETTINGS, *given)
