"""How far is each language's reward gap from the dominant one? Table 1 of arXiv:2505.16869, without generating a token.

    python -m mpo_jax.reward_gap --model DIR --data FILE --output OUT [--compare DIR2]

Writes OUT/rows.jsonl (a line a row), OUT/reward_gap.json (the table) and OUT/reward_gap.png. With `--compare` both models are
measured on the same rows and stand side by side, as before (--model) and after (--compare).
"""

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp

from mpo_jax import hub
from mpo_jax.convert import load_params
from mpo_jax.data.rows import Row, read_rows
from mpo_jax.errors import InputError, one_sentence
from mpo_jax.evaluate import make_score_step, measure_gaps
from mpo_jax.gaps import GapTable, RowGap, format_tables, gap_table
from mpo_jax.metrics import replace_text, write_json
from mpo_jax.models.families import build
from mpo_jax.plots import plot_gaps
from mpo_jax.prepare import Batching, Tokens
from mpo_jax.sharding import MeshConfig, make_mesh, shards
from mpo_jax.types import DTYPES, Reads, Want


def measure(
    name: str, rows: Sequence[Row], *, mesh: jax.sharding.Mesh, batch_size: int, template: str, max_length: int, dtype: str
) -> list[RowGap]:
    """The gaps of every row under one model, with that model's own tokenizer. `dtype` is the computation's."""
    model_dir = hub.resolve(name)
    family, model, _ = build(model_dir)
    tokens = Tokens.of(model_dir, family, template, max_length)
    reads = Reads(source=Want.LOGP if rows[0].source is not None else Want.NOTHING, target=Want.LOGP)
    pipeline = tokens.pipeline(rows, Batching(batch_size, reads, shards=shards(mesh, "batch")))
    params = load_params(model_dir, model, family, mesh, jnp.dtype(dtype))
    score_step = make_score_step(model, jnp.dtype(dtype), pipeline.policy)
    return measure_gaps(score_step, params, pipeline, rows, mesh)


def write(folder: Path, measured: dict[str, list[RowGap]]) -> dict[str, GapTable]:
    """`measured`: label -> the gaps of one model, for example {'before': ..., 'after': ...}."""
    tables = {label: gap_table(gaps) for label, gaps in measured.items()}
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for label, gaps in measured.items():
        for gap in gaps:
            row = {k: v for k, v in dataclasses.asdict(gap).items() if k != "source_key"}  # it repeats the row's text
            lines.append(json.dumps({"model": label, **row}, ensure_ascii=False) + "\n")
    replace_text(folder / "rows.jsonl", "".join(lines))
    write_json(folder / "reward_gap.json", {label: [dataclasses.asdict(line) for line in t] for label, t in tables.items()})
    plot_gaps(tables, folder / "reward_gap.png")
    return tables


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m mpo_jax.reward_gap", description="Measures reward gaps per language.")
    parser.add_argument("--model", required=True, help="a folder or a Hugging Face hub name")
    parser.add_argument("--compare", help="a second model, measured on the same rows")
    parser.add_argument("--data", required=True, help="a .json or .jsonl file, or a Hugging Face data set as user/name[:split]")
    parser.add_argument("--output", required=True, type=Path, help="a folder for rows.jsonl, reward_gap.json and reward_gap.png")
    parser.add_argument("--template", choices=("reference", "hf"), default="reference", help="default: %(default)s")
    parser.add_argument("--max-length", type=int, default=1024, help="tokens of prompt and answer (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=8, help="rows at a time (default: %(default)s)")
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16", help="of the computation (default: %(default)s)")
    parser.add_argument("--fsdp", type=int, default=-1, help="devices that share the parameters (default: all that are left)")
    parser.add_argument("--tensor", type=int, default=1, help="devices that share each layer (default: %(default)s)")
    parser.add_argument("--allow-empty-prompt", action="store_true")
    args = parser.parse_args(argv)
    with one_sentence():
        if args.output.exists() and not args.output.is_dir():
            raise InputError(f"--output {args.output} is a file: give a folder.")
        rows = read_rows(args.data, allow_empty_prompt=args.allow_empty_prompt)
        mesh = make_mesh(MeshConfig(fsdp=args.fsdp, tensor=args.tensor))
        names = {"before": args.model, "after": args.compare} if args.compare else {"model": args.model}
        settings = {"batch_size": args.batch_size, "template": args.template, "max_length": args.max_length, "dtype": args.dtype}
        with jax.set_mesh(mesh):
            measured = {label: measure(name, rows, mesh=mesh, **settings) for label, name in names.items()}
        tables = write(args.output, measured)
    print(f"reward gap, nats per token, on {len(rows)} rows [95 % interval]\n{format_tables(tables)}")


if __name__ == "__main__":
    main()
