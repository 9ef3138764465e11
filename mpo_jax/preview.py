"""What would a run train on? Prints its rows token by token, and lengths, truncations and noise per language.

    python -m mpo_jax.preview --config=configs/llama31.py [--config.field=value ...]        the rows of that run
    python -m mpo_jax.preview --data FILE --tokenizer FOLDER [--template llama]             any rows, any tokenizer

The rows may contain unsafe text: `--rows 0` prints none of it.
"""

import argparse
from collections.abc import Sequence
from typing import Any

from mpo_jax.data.chat import TRUNCATIONS
from mpo_jax.data.dataset import DataConfig, Tokens, divide
from mpo_jax.data.token_view import report
from mpo_jax.errors import InputError, one_sentence
from mpo_jax.files import hub
from mpo_jax.files.paths import path_of
from mpo_jax.models.families.registry import FAMILIES, build
from mpo_jax.training.config import parse

# Options that go with --data, and the settings that replace them with --config.
OF_DATA = {
    "data": "data.path",
    "tokenizer": "model",
    "template": "data.template",
    "max_length": "data.max_length",
    "truncation": "data.truncation",
    "allow_empty_prompt": "data.allow_empty_prompt",
}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m mpo_jax.preview",
        description="Shows what a model would be trained on: the rows of a run's config, or any rows with any tokenizer.",
        epilog="To preview a run: --config=FILE.py[:variant] [--config.field=value ...]",
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument("--data", help="a .json or .jsonl file, or a Hugging Face data set, user/name[@revision][:split]")
    parser.add_argument("--tokenizer", help="a folder with the tokenizer files of a Hugging Face model")
    parser.add_argument(
        "--template",
        choices=("hf", *(name for name, family in FAMILIES.items() if family.authors_chat)),
        help="hf: the tokenizer's own chat template (default); a family: the chat format of MPO's authors for it",
    )
    parser.add_argument("--max-length", type=int, help="most tokens of prompt and answer together (default: 1024)")
    parser.add_argument("--truncation", choices=TRUNCATIONS, help="how longer sequences are cut (default: keep_header)")
    parser.add_argument("--allow-empty-prompt", action="store_true", help="accept rows with an empty prompt")
    parser.add_argument("--rows", type=int, default=2, help="rows to print; they may be unsafe (default: %(default)s)")
    parser.add_argument("--png", default=None, help="write a plot of the sequence lengths to this file")
    args, settings = parser.parse_known_args(argv)
    with one_sentence():
        given = {name: value for name, value in vars(args).items() if name in OF_DATA}
        data, seed, tokens = _of_config(settings, given) if settings else _of_data(given)
        parts = divide(data, seed)
        text = report(
            parts.train, tokens.examples(parts.train), tokens.tokenizer, tokens.form, show=max(args.rows, 0), png=args.png
        )
    print(f"{len(parts.train)} rows to train on, {len(parts.held_out)} held out\n\n{text}")


def _of_config(settings: list[str], given: dict[str, Any]) -> tuple[DataConfig, int, Tokens]:
    """The data, the seed and the tokenizer of a run."""
    if not any(setting.startswith("--config=") for setting in settings):
        raise InputError(f"'{settings[0]}' is not an option: write --config=FILE.py, or see --help.")
    if given:
        name = next(iter(given))
        option = name.replace("_", "-")
        raise InputError(f"--{option} cannot be combined with --config: write --config.{OF_DATA[name]}=VALUE instead.")
    config = parse(settings)
    folder = hub.resolve(config.model)
    authors = build(folder)[0].authors_chat
    return config.data, config.seed, Tokens.of_config(folder, authors, config.data)


def _of_data(given: dict[str, Any]) -> tuple[DataConfig, int, Tokens]:
    """The same for just a file and a tokenizer, where nothing is held out."""
    settings = dict(given)
    if not {"data", "tokenizer"} <= settings.keys():
        raise InputError("There is nothing to preview: write --config=FILE.py, or both --data FILE and --tokenizer FOLDER.")
    folder, path, template = settings.pop("tokenizer"), settings.pop("data"), settings.pop("template", "hf")
    authors = None if template == "hf" else FAMILIES[template].authors_chat
    data = DataConfig(path, template="hf" if template == "hf" else "authors", cache="", **settings)
    return data, 0, Tokens.of_config(path_of(folder), authors, data)


if __name__ == "__main__":
    main()
