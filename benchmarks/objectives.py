"""What does an update cost under each method? Time and memory on one batch, each method in a process of its own.

    JAX_PLATFORMS=cpu PYTHONPATH=. python benchmarks/objectives.py [--reference live] [--pairs target] [--methods dpo mpo]

Weights and rows are those of `benchmarks/step.py`, whose options for the shape are taken too. A method without a dominant side
trains on a pair of each side, as the configs' variants do, so that all methods see the same sequences; with `--pairs target` on
the target sides alone. Memory is the peak of the whole process; `against DPO` are ratios of CPU seconds, which a busy machine
disturbs less than the clock, and of memory.
"""

import argparse
import functools
import json
import statistics
import tempfile
from pathlib import Path

from step import OURS, Views, add_shape, as_options, measure, run, shape_of, write_weights
from tqdm import tqdm

from mpo_jax import losses
from mpo_jax.data.chat import Example
from mpo_jax.data.pair_views import mismatched
from mpo_jax.losses.base import PreferenceLoss
from mpo_jax.training.variants import ABLATIONS, BASELINES

METHODS: dict[str, PreferenceLoss] = {
    **{name: method() for name, method in BASELINES.items()},
    "mpo": losses.Mpo(),
    "mpo_constant": losses.Mpo(gap_target="1.58"),
    **{name: losses.Mpo(**changes["loss"]) for name, changes in ABLATIONS.items()},
}


def views_of(loss: PreferenceLoss, longest: int, pairs: str) -> Views:
    def views(examples: list[Example]) -> list[Example]:
        if pairs == "both" and not loss.policy_reads.source:
            sides = [side for example in examples for side in (example.target, example.source)]
            examples = [Example(str(i), "xx", None, side) for i, side in enumerate(sides) if side is not None]
        side = loss.policy_reads.mismatch
        return mismatched(examples, side, longest) if side else examples

    return views


def possible(loss: PreferenceLoss, reference: str) -> bool:
    """A cached reference needs a method that reads scores of the reference; full distributions are not stored."""
    return reference == "live" or loss.reference_reads.storable


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_shape(parser)
    parser.add_argument("--reference", nargs="*", default=OURS, choices=OURS)
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--pairs", default="both", choices=("target", "both"))
    parser.add_argument("--remat", default="attention")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    shape = shape_of(args)
    if args.worker:
        loss = METHODS[args.methods[0]]
        views = views_of(loss, shape["maxlen"], args.pairs)
        found = measure(args.worker, shape, args.reference[0], args.steps, args.remat, loss, views)
        print(json.dumps(found))
        return
    options = [*as_options(shape), "--steps", str(args.steps), "--remat", args.remat, "--pairs", args.pairs]
    chosen = [(way, name) for way in args.reference for name in args.methods if possible(METHODS[name], way)]
    with tempfile.TemporaryDirectory() as folder:
        write_weights(Path(folder), shape)
        results: dict[tuple[str, str], list[dict]] = {key: [] for key in chosen}
        for _ in range(args.rounds):
            for way, name in tqdm(chosen):
                results[way, name].append(run([__file__, *options, "--worker", folder, "--reference", way, "--methods", name]))
    header = ["reference", "method", "s an update", "CPU s", "peak MiB", "CPU s against DPO", "memory against DPO"]
    print(f"| {' | '.join(header)} |\n|{'---|' * len(header)}")
    median = functools.cache(lambda key, name: statistics.median(found[name] for found in results[key]))
    for way, name in chosen:
        key, dpo = (way, name), (way, "dpo")
        numbers = [median(key, "step_s_median"), median(key, "cpu_s_median"), median(key, "peak_rss_mib")]
        ratios = [median(key, n) / median(dpo, n) if dpo in results else float("nan") for n in ("cpu_s_median", "peak_rss_mib")]
        print("| {} | {} | {:.2f} | {:.1f} | {:.0f} | {:.2f} | {:.2f} |".format(way, name, *numbers, *ratios))


if __name__ == "__main__":
    main()
