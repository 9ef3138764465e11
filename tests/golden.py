"""Does the library compute the stored golden numbers?

    python tests/golden.py DIR...

DIR holds `ref/` and `policy/` (Hugging Face checkpoints), `golden.npz` and `golden.json`; `batch.npz` lies beside it. Prints
the worst error of every quantity, relative to the largest entry of its array, and exits with 1 where one is above its
tolerance: 1e-4 for values and losses, 1e-3 for gradients and the AdamW trajectory.
"""

import dataclasses
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mpo_jax.checkpoints.hugging_face import load_params
from mpo_jax.data.batch_shapes import shapes_of
from mpo_jax.data.chat import Example, TokenPair
from mpo_jax.data.packing import pack
from mpo_jax.data.row_layout import Capacity, RowShapes, Shapes
from mpo_jax.devices.sharding import MeshConfig, make_mesh
from mpo_jax.losses import Cpo, Dpo, Ipo, Kto, LengthRegularizedDpo, Mpo, Orpo, RobustDpo, Sft, Simpo
from mpo_jax.losses.base import PreferenceLoss, numbers_of
from mpo_jax.models.families.registry import build
from mpo_jax.models.parameters import Frozen
from mpo_jax.models.weight_table import export_tree
from mpo_jax.scoring.objective import Task
from mpo_jax.scoring.sequences import answer_logps, divergences, score
from mpo_jax.training.optim import OptimConfig, make_optimizer
from mpo_jax.training.step import TrainStep, init_state, loss_and_grads
from mpo_jax.training.step_arguments import step_numbers
from mpo_jax.types import Batch, Mean, Packed, Pair, Reads, RowLoss, Scores, SequenceScores, Want

POOLINGS = {"last_seq": "last", "last_prompt": "last_prompt", "mean_nonpad": "mean", "mean_all": "mean_padded"}
REDUCTIONS = {"sq_norm": "sum", "mse": "mean"}
TOLERANCE = {"value": 1e-4, "gradient": 1e-3, "adamw": 1e-3}
# What the stored numbers also hold and the library does not offer: states before the final norm, and padding that sees padding.
NOT_COMPARED = ("l2_rows_prenorm/", "l2_rows/mean_all_causal")
PAD = 2
NOTHING = Reads()

# The stored settings (golden.json, `hyperparameters`), all on the target side and without retention.
METHODS: dict[str, PreferenceLoss] = {
    "sft_token_mean": Sft(reduction="token_mean"),
    "sft_seq_sum": Sft(reduction="sum"),
    "sft_seq_mean": Sft(reduction="row_mean"),
    "dpo": Dpo(beta=0.1),
    "ipo": Ipo(tau=0.1, length_normalize=False),
    "ipo_avg": Ipo(tau=0.1, length_normalize=True),
    "rdpo": RobustDpo(beta=0.1, epsilon=0.1),
    "cpo": Cpo(beta=0.1, lam=1.0, nll_reduction="sum"),
    "kto_original_mismatch": Kto(beta=0.1),
    "orpo": Orpo(lam=1.0),
    "r_dpo": LengthRegularizedDpo(beta=0.1, alpha=0.05),
    "r_dpo_minus": LengthRegularizedDpo(beta=0.1, alpha=-0.05),
    "simpo": Simpo(beta=2.0, gamma=1.0),
    "mpo_const": Mpo(retain=0.0, gap_target="1.58"),
    "mpo_no_ln": Mpo(retain=0.0, rg_normalize=False),
    "mpo_policy_gap": Mpo(retain=0.0, gap_target="policy"),
}

Quantity = tuple[str, str, Any, Any]  # name, kind of tolerance, ours, golden


def pair_of(arrays: Any, side: str, i: int) -> TokenPair:
    ids, prompt, end = (arrays[f"{side}_{name}"] for name in ("input_ids", "prompt_len", "seq_len"))
    return TokenPair(ids[i, : prompt[i]], *(ids[j, prompt[i] : end[j]] for j in (i, i + len(ids) // 2)))


def one(batch: Batch) -> Batch:
    """Its only microbatch."""
    return jax.tree.map(lambda x: x[0], batch)


def batch_of(arrays: Any, policy: Reads, reference: Reads = NOTHING, target: str = "target") -> Batch:
    """The stored padded rows [chosen; rejected] of both sides, by the library's own packing, with a microbatch axis.

    What is pooled with "mean_padded" takes the stored width of the dominant side.
    """
    B, width = len(arrays["source_input_ids"]) // 2, arrays["source_input_ids"].shape[1]
    rows = [Example(str(i), "xx", pair_of(arrays, "source", i), pair_of(arrays, target, i)) for i in range(B)]
    shapes = shapes_of([rows], policy, reference, padded_length=width)
    return pack(rows, shapes, policy, reference, languages=("xx",), pad_id=PAD, padded_length=width)


def padded_rows(arrays: Any, side: str) -> Packed:
    """One side as it is stored: a sequence a packed row, in the order of slots, padding pooled."""
    width = arrays[f"{side}_input_ids"].shape[1]
    reads = Reads(target=Want.LOGP | Want.HIDDEN, pooling="mean_padded")
    B = len(arrays["source_input_ids"]) // 2
    rows = [Example(str(i), "xx", None, pair_of(arrays, side, i)) for i in range(B)]
    shapes = Shapes(RowShapes(2 * B, (Capacity(width, width),)), None)
    return one(pack(rows, shapes, reads, NOTHING, languages=("xx",), pad_id=PAD, padded_length=width)).policy


def both(pair: Pair, read: Any) -> np.ndarray:
    """[chosen; rejected], as the golden arrays are."""
    return np.concatenate([np.asarray(read(pair.chosen)), np.asarray(read(pair.rejected))])


@dataclasses.dataclass
class StoredPoint:
    """The library's KTO with a stored reference point in the place of its own, and, `as_printed`, with the sign that Table 7 of
    the paper prints before its second term."""

    z0: float
    as_printed: bool
    policy_reads = reference_reads = Reads(target=Want.LOGP)

    def __call__(self, policy: Scores, reference: Scores) -> RowLoss:
        def answers(ratio: float) -> Pair:
            answer = SequenceScores(jnp.full(2, ratio, jnp.float32), jnp.ones(2))
            return Pair(answer, answer)

        policy = dataclasses.replace(policy, mismatch=answers(self.z0 / 0.1))
        reference = dataclasses.replace(reference, mismatch=answers(0.0))
        rows, first_term = (Kto()(policy, reference, 0.1, 1.0, weight) for weight in (1.0, 0.0))
        return dataclasses.replace(rows, loss_B=2 * first_term.loss_B - rows.loss_B) if self.as_printed else rows


class Golden:
    """One golden folder: its numbers, its two models, and the library's answers."""

    def __init__(self, folder: Path):
        self.arrays = np.load(folder.parent / "batch.npz")
        self.stored = np.load(folder / "golden.npz")
        self.facts = json.loads((folder / "golden.json").read_text())
        self.family, self.model, _ = build(folder / "ref")
        self.mesh = make_mesh(MeshConfig(fsdp=1), jax.devices()[:1])
        self.params = {
            name: load_params(folder / name, self.model, self.family, self.mesh, jnp.float32) for name in ("ref", "policy")
        }

    def __getitem__(self, key: str) -> np.ndarray:
        return self.stored[f"f64/{key}"]

    def score(self, params: str, reads: Reads, target: str = "target") -> Scores:
        batch = one(batch_of(self.arrays, reads, target=target))
        B = batch.weight_B.shape[0]
        return jax.jit(score, static_argnums=(0, 3, 4))(self.model, self.params[params], batch.policy, reads, B)

    def values(self) -> Iterator[Quantity]:
        """Log-probabilities, gaps, pooled states, logits."""
        for name in ("ref", "policy"):
            sides = {}
            for target in ("target", "mismatch"):
                scores = self.score(name, Reads(Want.LOGP, Want.LOGP), target)
                sides |= {"source": scores.source, target: scores.target}
            for side, pair in sides.items():
                yield f"{name}_{side}_sum_logp", "value", both(pair, lambda x: x.logp_B), self[f"{name}_{side}_sum_logp"]
                yield f"{name}_{side}_mean_logp", "value", both(pair, lambda x: x.mean_logp_B), self[f"{name}_{side}_mean_logp"]
            if name == "policy":
                yield "rg_t", "value", sides["target"].mean_gap_B, self["rg_t"]
            else:
                yield "rg_d", "value", sides["source"].mean_gap_B, self["rg_d"]
            yield from self.probes(name)

    def probes(self, name: str) -> Iterator[Quantity]:
        """Single token log-probabilities, logits and final states, padding included where it is stored."""
        params = self.params[name]
        source, target = (padded_rows(self.arrays, side) for side in ("source", "target"))
        B = source.tokens_ST.shape[0] // 2
        hidden_STD = self.model.hidden(params, source)
        yield f"{name}_probe_hidden", "value", hidden_STD[np.asarray([0, 9])], self[f"{name}_probe_hidden"]
        hidden_STD = self.model.hidden(params, target)
        logits_TV = hidden_STD[2] @ self.model.unembedding(params).T
        if (cap := self.model.config.final_softcap) is not None:
            logits_TV = cap * jnp.tanh(logits_TV / cap)
        yield f"{name}_probe_logits", "value", logits_TV, self[f"{name}_probe_logits"]
        logp_SA = answer_logps(hidden_STD, self.model.unembedding(params), target, self.model.config.final_softcap)
        tokens = np.zeros_like(self[f"{name}_target_token_logp"])
        for row in range(2 * B):
            used = target.answer_slot_SA[row] >= 0
            tokens[row, target.answer_at_SA[row][used]] = np.asarray(logp_SA[row])[used]
        yield f"{name}_target_token_logp", "value", tokens, self[f"{name}_target_token_logp"]

    def pooled(self) -> Iterator[Quantity]:
        for golden_name, pooling in POOLINGS.items():
            reads = Reads(source=Want.HIDDEN, pooling=pooling)
            pairs = {name: self.score(name, reads).source for name in ("policy", "ref")}
            states = {name: both(pair, lambda x: x.hidden_BD) for name, pair in pairs.items()}
            for name in states:
                yield f"pooled_{name}/{golden_name}", "value", states[name], self[f"pooled_{name}/{golden_name}"]
            rows = np.sum((states["policy"] - states["ref"]) ** 2, axis=-1)
            yield f"l2_rows/{golden_name}", "value", rows, self[f"l2_rows/{golden_name}"]

    def methods(self) -> Iterator[Quantity]:
        """Rows, loss and gradient norm of every baseline and ablation. A method is a function of scores, so one compiled
        gradient of the scores serves all of them."""
        reads, mismatch_reads = Reads(source=Want.LOGP, target=Want.LOGP), Reads(target=Want.LOGP)
        batch, mismatch = one(batch_of(self.arrays, reads)), one(batch_of(self.arrays, mismatch_reads, target="mismatch"))
        B = batch.weight_B.shape[0]

        def scores(params: Any) -> Scores:
            mismatched = score(self.model, params, mismatch.policy, mismatch_reads, B).target
            return dataclasses.replace(score(self.model, params, batch.policy, reads, B), mismatch=mismatched)

        reference, policy = (jax.jit(scores)(self.params[name]) for name in ("ref", "policy"))
        pull = jax.jit(lambda params, toward: optax.tree.norm(jax.vjp(scores, params)[1](toward)[0]))
        points = self.facts["kto_z"]["f64"]
        stored = {
            f"kto_{sign}_{point}": StoredPoint(z0, sign == "table7")
            for sign in ("original", "table7")
            for point, z0 in points.items()
            if not point.endswith("before_clamp")
        }
        for name, method in (stored | METHODS).items():

            def rows(policy: Scores, method: PreferenceLoss = method) -> Any:
                rows = method(counted(policy), reference, **numbers_of(method))
                return jnp.mean(rows.loss_B), rows.loss_B

            (loss, rows_B), toward = jax.value_and_grad(rows, has_aux=True)(policy)
            facts = self.facts["baselines"]["f64"][name]
            golden_rows = self.stored.get(f"f64/baseline_rows/{name}")
            # A loss near 0 is judged by the size of its rows.
            ours, golden = ([loss], [facts["loss"]]) if golden_rows is None else ([*rows_B, loss], [*golden_rows, facts["loss"]])
            yield f"baseline {name}", "value", ours, golden
            yield f"baseline grad_norm {name}", "gradient", pull(self.params["policy"], toward), facts["grad_norm"]

    def divergences(self) -> Iterator[Quantity]:
        """KL retention in both directions: a row's mean over its tokens, and the gradient of the mean over rows."""
        for name, want in (("kl_fwd", Want.KL_OF_POLICY), ("kl_rev", Want.KL_OF_REFERENCE)):

            def rows(params: Any, want: Want = want) -> Any:
                reads = Reads(source=want, target=Want.LOGP)
                batch = one(batch_of(self.arrays, reads))
                B = batch.weight_B.shape[0]
                answers = divergences(self.model, params, self.params["ref"], batch.divergence, reads, B)["source"]
                rows_B = jnp.concatenate([answer.mean_kl_B for answer in answers])
                return jnp.mean(rows_B), rows_B

            (loss, rows_B), grads = jax.jit(jax.value_and_grad(rows, has_aux=True))(self.params["policy"])
            facts = self.facts["baselines"]["f64"][name]
            yield f"baseline {name}", "value", [*rows_B, loss], [*self[f"baseline_rows/{name}"], facts["loss"]]
            yield f"baseline grad_norm {name}", "gradient", optax.tree.norm(grads), facts["grad_norm"]

    def combo(self, index: int) -> Iterator[Quantity]:
        """Loss, gradients and five AdamW updates of one of the stored settings."""
        setting = self.facts["combos"][index]
        loss = Mpo(
            beta=setting["beta"],
            retain_pooling=POOLINGS[setting["pooling"]],
            retain_reduction=REDUCTIONS[setting["reduction"]],
        )
        tag = f"[{setting['beta']} {setting['pooling']} {setting['reduction']}]"
        batch = batch_of(self.arrays, loss.policy_reads, loss.reference_reads)
        task = Task(self.model, loss, ("xx",))
        optimizer, numbers = make_optimizer(OptimConfig(warmup=0.0, decay="constant", clip_norm=1e9), 5), step_numbers(loss, 1e-3)
        frozen = Frozen({}, self.params["ref"])
        # The policy is copied because the step donates it.
        state = init_state(jax.tree.map(jnp.copy, self.params["policy"]), optimizer, self.mesh)
        _, metrics, grads = jax.jit(lambda *a: loss_and_grads(task, *a))(state.trainable, frozen, batch, numbers["loss"])
        yield from self.gradients(index, tag, grads)
        step = jax.jit(TrainStep(task, optimizer, jnp.float32), donate_argnums=0)
        trajectory = []
        for _ in range(len(self["adamw"][index])):
            state, metrics = step(state, frozen, batch, numbers)
            trajectory.append([value(metrics[name]) for name in ("loss", "loss/gap", "loss/retain", "grad_norm")])
        yield f"total {tag}", "value", trajectory[0][:3], self["total"][index]
        if setting["pooling"] == "last_seq" and setting["reduction"] == "sq_norm":
            yield f"l1 {tag}", "value", trajectory[0][1], self["l1"][[1.0, 1.5].index(setting["beta"])]
        yield f"grad_norm {tag}", "gradient", trajectory[0][3], self["grad_norm"][index]
        for column, name in enumerate(("total", "l1", "l2", "grad_norm")):
            yield f"adamw {name} {tag}", "adamw", np.asarray(trajectory)[:, column], self["adamw"][index][:, column]

    def gradients(self, index: int, tag: str, grads: Any) -> Iterator[Quantity]:
        """Per parameter in Hugging Face's layout and names: the probe sees a transpose."""
        tensors = dict(export_tree(grads, self.model, self.family.weights(self.model.config)))
        names = self.facts["param_names"]
        assert sorted(tensors) == sorted(names), set(tensors) ^ set(names)
        flat = [tensors[name].astype(np.float64).ravel() for name in names]
        probes = [float(g @ np.cos(0.1 * np.arange(g.size))) for g in flat]
        yield f"param_grad_norm {tag}", "gradient", [np.linalg.norm(g) for g in flat], self["param_grad_norm"][index]
        yield f"param_grad_sum {tag}", "gradient", [g.sum() for g in flat], self["param_grad_sum"][index]
        yield f"param_grad_probe {tag}", "gradient", probes, self["param_grad_probe"][index]

    def quantities(self, combos: range, methods: bool) -> Iterator[Quantity]:
        with jax.set_mesh(self.mesh):
            yield from self.values()
            yield from self.pooled()
            if methods:
                yield from self.methods()
                yield from self.divergences()
            for index in combos:
                yield from self.combo(index)


def counted(policy: Scores) -> Scores:
    """The target side's chosen answers with the batch's mean number of tokens beside them."""
    assert policy.target is not None
    chosen = dataclasses.replace(policy.target.chosen, batch_mean_count=jnp.mean(policy.target.chosen.count_B))
    return dataclasses.replace(policy, target=dataclasses.replace(policy.target, chosen=chosen))


def value(mean: Mean) -> float:
    return float(mean.total / mean.weight)


def error(ours: Any, golden: Any) -> float:
    """The largest difference, relative to the largest golden entry."""
    ours, golden = np.asarray(ours, np.float64), np.asarray(golden, np.float64)
    assert ours.shape == golden.shape, (ours.shape, golden.shape)
    return float(np.abs(ours - golden).max() / np.abs(golden).max())


def compare(folder: Path, combos: range = range(16), methods: bool = True) -> dict[str, tuple[float, float]]:
    """Quantity -> (worst error over its settings, tolerance)."""
    worst: dict[str, tuple[float, float]] = {}
    for name, kind, ours, golden in Golden(folder).quantities(combos, methods):
        quantity = name.partition(" [")[0]
        worst[quantity] = (max(worst.get(quantity, (0.0, 0.0))[0], error(ours, golden)), TOLERANCE[kind])
    return worst


def main(folders: list[str]) -> int:
    if not folders:
        print(__doc__)
        return 2
    failed = 0
    for folder in map(Path, folders):
        print(f"{folder}")
        for name, (worst, tolerance) in compare(folder).items():
            failed += not worst <= tolerance
            print(f"  {name:<32} {worst:9.2e}   {'ok' if worst <= tolerance else f'ABOVE {tolerance:.0e}'}", flush=True)
        others = [key for key in np.load(folder / "golden.npz").files if key.startswith(tuple(f"f64/{n}" for n in NOT_COMPARED))]
        print(f"  not compared: {len(others)} arrays of {', '.join(NOT_COMPARED)}")
    print("every quantity is within its tolerance" if not failed else f"{failed} quantities are above their tolerance")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
