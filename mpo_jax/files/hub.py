"""Which folder holds a model? A local one, one in a bucket, or one downloaded from the Hugging Face Hub.

A name on the hub may include a revision, user/name@revision: a branch, a tag or a commit.
"""

import re
from pathlib import Path

from mpo_jax.errors import InputError
from mpo_jax.files.paths import path_of

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
)
CONFIG_FILES = ("config.json", "generation_config.json")
WEIGHT_FILES = ("*.safetensors", "model.safetensors.index.json")
ALL_FILES = (*CONFIG_FILES, *TOKENIZER_FILES, *WEIGHT_FILES)

_HUB_NAME = re.compile(r"(?P<name>\w[\w.-]*(?:/[\w.-]+)?)(?:@(?P<revision>\w[\w./-]*))?")


def resolve(name_or_dir: str | Path, *, weights: bool = True) -> Path:
    """The folder of a model, in a file system or a bucket. A hub name like "user/name" or "user/name@revision" is downloaded
    first; without `weights` only its configuration is required, and that and its tokenizer are downloaded.

    The hub token is the one that huggingface_hub finds (HF_TOKEN, or `hf auth login`).
    Errors: a path that does not exist or that has a revision, a name that cannot be downloaded, a folder without config.json or
    safetensors.
    """
    name = str(name_or_dir)
    folder = path_of(name)
    if not folder.is_dir():
        check_revision(name)
        on_hub = _HUB_NAME.fullmatch(name)
        if isinstance(name_or_dir, Path) or not on_hub:
            raise InputError(
                f"{name} is not a folder: give the folder of a model, or a hub name like user/name or user/name@revision."
            )
        folder = _download(on_hub["name"], on_hub["revision"], ALL_FILES if weights else (*CONFIG_FILES, *TOKENIZER_FILES))
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder} has no config.json: give the folder of a model in Hugging Face's layout.")
    if weights:
        require_safetensors(folder)
    return folder


def check_revision(name: str) -> None:
    """Errors: a revision after a path in a file system or a bucket, where nothing has revisions."""
    path, _, _ = name.rpartition("@")
    if path and path_of(path).exists() and not path_of(name).exists():
        raise InputError(f"{name} is a local path with a revision, but only names on the hub have revisions: write {path}.")


def require_safetensors(folder: Path) -> None:
    """Errors: no weights, or only pickled ones, which can run code when they are read."""
    if any(folder.glob("*.safetensors")):
        return
    pickled = sorted(path.name for pattern in ("*.bin", "*.pth", "*.pt") for path in folder.glob(pattern))
    if pickled:
        raise InputError(
            f"{folder} has only pickled weights ({pickled[0]}), which mpo_jax does not read because they can run code: save the "
            "model with transformers' save_pretrained, which writes safetensors."
        )
    raise InputError(f"{folder} has no *.safetensors: give a folder that holds the model's weights.")


def _download(name: str, revision: str | None, files: tuple[str, ...]) -> Path:
    import huggingface_hub

    # "*" also matches "/": without the second list, whole copies of the weights would come along, in subfolders and in the
    # layout of Mistral's own code.
    allowed, ignored = list(files), ["*/*", "consolidated*"]
    try:
        return Path(huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=allowed, ignore_patterns=ignored))
    except Exception as error:  # the hub client raises errors of several libraries, with no common base
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        asked, check = (f"{name}@{revision}", "the name, the revision") if revision else (name, "the name")
        raise InputError(
            f"{asked} is not a local folder and could not be downloaded from the Hugging Face Hub ({reason}): check {check} and "
            "the network; a gated model also needs the HF_TOKEN of an account with access to it."
        ) from error
