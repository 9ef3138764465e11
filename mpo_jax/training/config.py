"""What is a run? One tree of the components' dataclasses, built by a config file and overridden from the command line."""

import dataclasses
import difflib
import importlib.util
import math
from pathlib import Path
from typing import Any, TypeVar

from absl import flags
from ml_collections import config_flags

from mpo_jax import losses
from mpo_jax.checkpoints.peft_folder import with_start
from mpo_jax.checkpoints.run_state import CheckpointConfig
from mpo_jax.data.dataset import DataConfig
from mpo_jax.devices.processes import HostsConfig
from mpo_jax.devices.sharding import MeshConfig
from mpo_jax.errors import InputError, check_choice
from mpo_jax.losses.base import PreferenceLoss
from mpo_jax.models.adapters import LoraConfig
from mpo_jax.models.kept import LOGITS, REMAT
from mpo_jax.telemetry.throughput import parse_range
from mpo_jax.telemetry.writers import MetricsConfig
from mpo_jax.training.optim import OptimConfig
from mpo_jax.training.samples import SamplesConfig
from mpo_jax.types import DTYPES, Want

AUTO = "auto"


@dataclasses.dataclass
class ExportConfig:
    """The aligned Hugging Face checkpoint, written to `<output>/export` at the end. bfloat16 is what users of the model expect;
    float32 keeps every bit, since updates are often smaller than bfloat16 can resolve."""

    enabled: bool = True
    dtype: str = "bfloat16"

    def __post_init__(self) -> None:
        check_choice("export.dtype", self.dtype, DTYPES)


@dataclasses.dataclass
class TrainConfig:
    """The settings of a run. Folders and files may lie in a bucket (`gs://`).

    `model`: a folder, or a Hugging Face hub name `user/name[@revision]`.
    `batch_size`: rows per update, split into `microbatches` equal parts (gradient accumulation).
    `eval_every`: updates between evaluations on held-out rows (0 = only before and after training).
    `remat`: what the backward pass keeps of each layer, the rest being recomputed: 'full' keeps least, then 'offload',
    'attention', 'dots' (attention's result and the products with weights), 'none'. `logits`: whether it recomputes the logits of
    scored tokens too, or keeps them ('recompute', 'keep'; those that a divergence compares are always recomputed). Either may be
    'auto': as much is kept as fits in `kept_gb` GB on each device, by default a quarter of the memory where these are CPUs.
    `frozen`: names of parameters that are not trained, separated by commas, as in 'embedding,unembedding'; they have no float32
    masters and no moments; 'layers:30' are the first 30 layers. `lora`: with a rank above 0, or an adapter to start from,
    adapters are trained and all of the model is frozen.
    `reference_model`: another model of the same shape as the frozen reference, a folder or hub name (default: `model`).
    `reference`: 'live' runs the frozen reference at every step; 'cached' scores each distinct pair once, keeps the scores in the
    folder `reference_store` (by default `<output>/reference`), and then holds no reference parameters in memory.
    `compilation_cache`: a folder where compiled programs are kept for later runs; '' = none.
    `samples`: what the model answers while it trains; None = nothing. On the command line any of its settings makes one.
    `profile`: START:STOP, the updates that the profiler traces into `<output>/profile`; the first of them starts when START
    updates are done."""

    model: str
    data: DataConfig
    output: str
    loss: PreferenceLoss = dataclasses.field(default_factory=losses.Mpo)
    optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)
    epochs: int = 2
    batch_size: int = 8
    microbatches: int = 1
    eval_every: int = 0
    samples: SamplesConfig | None = None
    seed: int = 0
    compute_dtype: str = "bfloat16"
    reference_dtype: str = "bfloat16"
    reference_model: str | None = None
    reference: str = "live"
    reference_store: str | None = None
    remat: str = "full"
    logits: str = "recompute"
    kept_gb: float | None = None
    frozen: str = ""
    lora: LoraConfig = dataclasses.field(default_factory=LoraConfig)
    compilation_cache: str = "~/.cache/mpo_jax/compiled"
    profile: str | None = None
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    hosts: HostsConfig = dataclasses.field(default_factory=HostsConfig)
    checkpoint: CheckpointConfig = dataclasses.field(default_factory=CheckpointConfig)
    metrics: MetricsConfig = dataclasses.field(default_factory=MetricsConfig)
    export: ExportConfig = dataclasses.field(default_factory=ExportConfig)

    def __post_init__(self) -> None:
        check_choice("compute_dtype", self.compute_dtype, DTYPES)
        check_choice("reference_dtype", self.reference_dtype, DTYPES)
        check_choice("reference", self.reference, ("live", "cached"))
        check_choice("remat", self.remat, (*REMAT, AUTO))
        check_choice("logits", self.logits, (*LOGITS, AUTO))
        if self.logits != "recompute" and Want.LOGP not in self.loss.policy_reads.of_rows.anything:
            raise InputError(
                f"logits='{self.logits}' has no effect, since {type(self.loss).__name__} reads no log-probability of the policy: "
                "leave it out."
            )
        if self.kept_gb is not None and (AUTO not in (self.remat, self.logits) or not 0 <= self.kept_gb < math.inf):
            raise InputError(
                f"kept_gb={self.kept_gb} must be a number of GB, and has an effect with remat='auto' or logits='auto' alone: add "
                "one of them, or leave it out."
            )
        parse_range(self.profile)
        if self.lora.start is not None:
            self.lora = with_start(self.lora)
        if self.reference == "cached" and self.loss.reference_reads.divergence.anything:
            raise InputError(
                "KL retention compares full next-token distributions, which reference=cached does not store: write "
                "--config.reference=live."
            )
        if self.reference == "cached" and self.loss.reference_reads.prompts:
            raise InputError(
                "The loss reads the reference's states of prompts, which reference=cached does not store: write "
                "--config.reference=live."
            )
        if self.loss.policy_reads.contrast and self.microbatches > 1:
            raise InputError(
                f"The loss compares the rows of a batch with each other, so microbatches={self.microbatches} would change it: "
                "write --config.microbatches=1."
            )
        if self.reference_store is not None and self.reference != "cached":
            raise InputError(
                f"reference_store='{self.reference_store}' has no effect with reference='{self.reference}': add "
                "--config.reference=cached, or leave reference_store out."
            )
        if self.reference_model is not None and not self.loss.reference_reads.anything:
            raise InputError(
                f"reference_model='{self.reference_model}' has no effect, since {type(self.loss).__name__} reads no reference: "
                "leave it out."
            )
        if self.lora.rank and self.frozen:
            raise InputError(
                f"frozen='{self.frozen}' has no effect with lora.rank={self.lora.rank}, which freezes the whole model: leave one "
                "of them out."
            )
        live = self.reference == "live" and self.reference_model is None and self.loss.reference_reads.anything
        if self.lora.rank and live and self.reference_dtype != self.compute_dtype:
            raise InputError(
                f"lora.rank={self.lora.rank} has one copy of the model for policy and reference, so compute_dtype="
                f"'{self.compute_dtype}' and reference_dtype='{self.reference_dtype}' must be the same."
            )
        if self.epochs < 1 or self.batch_size < 1 or self.microbatches < 1 or self.eval_every < 0:
            raise InputError(
                f"epochs={self.epochs}, batch_size={self.batch_size} and microbatches={self.microbatches} must be at least 1, "
                f"and eval_every={self.eval_every} must not be negative."
            )
        if self.batch_size % self.microbatches:
            raise InputError(
                f"batch_size={self.batch_size} cannot be split into microbatches={self.microbatches} equal parts: choose a "
                f"number of microbatches that divides {self.batch_size}."
            )


def parse(argv: list[str]) -> TrainConfig:
    """`--config=CONFIG[:variant] [--config.field=value ...]` -> the checked config. `argv` has no program name. CONFIG is the
    path of a file, or the name of a config that comes with the package. Errors: a config of something else than a run."""
    config = parse_any(argv)
    if not isinstance(config, TrainConfig):
        raise InputError(
            f"The config is of the kind {type(config).__name__}, not of a run: run it with the command in its docstring."
        )
    return config


def parse_any(argv: list[str]) -> Any:
    """As `parse`, for a config of any kind that is a dataclass."""
    files = [arg.removeprefix("--config=") for arg in argv if arg.startswith("--config=")]
    if len(files) != 1:
        given = "More than one config was" if files else "No config was"
        raise InputError(f"{given} given: write one, such as --config=quickstart or --config=PATH/TO/FILE.py.")
    path, _, variant = files[0].partition(":")
    base = load(path, variant or None)
    overrides = ["mpo_jax", *(arg for arg in argv if not arg.startswith("--config="))]
    if isinstance(base, TrainConfig) and any(arg.startswith("--config.samples.") for arg in overrides):
        if any(arg.startswith("--config.samples=") for arg in overrides):
            raise InputError("--config.samples is given as a whole and in part: leave out one or the other.")
        base = dataclasses.replace(base, samples=base.samples or SamplesConfig())
    for arg in overrides:
        if arg.startswith("--config."):
            _check_field(base, arg.removeprefix("--config.").partition("=")[0])
    values = flags.FlagValues()
    try:
        holder = config_flags.DEFINE_config_dataclass("config", base, flag_values=values, sys_argv=overrides)
        rest = values(overrides)
        config = values[holder.name].value
    except (flags.Error, ValueError, TypeError) as error:
        reason = str(error).strip().rstrip(".")
        raise InputError(
            f"The command line cannot be read ({reason}): write --config.name=value, with a value of the setting's type."
        ) from error
    if len(rest) > 1:
        raise InputError(f"'{rest[1]}' is not an option: settings are written --config.name=value.")
    return _rebuilt(config)


def load(path: str, variant: str | None) -> TrainConfig:
    """Runs `get_config(variant)` of a config file, or of the config that comes with the package under the name `path`."""
    shipped = _shipped()
    file = Path(path) if Path(path).is_file() else shipped.get(path)
    if file is None:
        raise InputError(f"The config {path} does not exist: write the path of a file, or one of the names {', '.join(shipped)}.")
    spec = importlib.util.spec_from_file_location("config_file", file)
    if spec is None or spec.loader is None:
        raise InputError(f"The config {path} is not a Python file: write the path of one whose name ends in .py.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(variant)


def _shipped() -> dict[str, Path]:
    """The configs that come with the package, by name. They are inside the installed package, and beside it in the repository."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "configs"
    folder = installed if installed.is_dir() else package.parent / "configs"
    return {file.stem: file for file in sorted(folder.glob("*.py"))}


def _check_field(config: Any, path: str) -> None:
    for name in path.split("."):
        known = list(_parts(config))
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean '{near[0]}'?" if near else f"the settings there are {', '.join(known) or 'none'}."
            raise InputError(f"--config.{path} is not a setting: '{name}' is not known; {hint}")
        config = _parts(config)[name]


def _parts(config: Any) -> dict[str, Any]:
    """The fields of a dataclass, the entries of a dict, nothing of anything else."""
    if isinstance(config, dict):
        return config
    return {f.name: getattr(config, f.name) for f in dataclasses.fields(config)} if dataclasses.is_dataclass(config) else {}


T = TypeVar("T")


def _rebuilt(config: T) -> T:
    """Overrides set fields one by one; rebuilding every part runs its checks."""
    parts = {name: _rebuilt(part) for name, part in _parts(config).items()}
    return type(config)(**parts) if parts else config


def describe(config: Any) -> Any:
    """A config as JSON: every dataclass with the name of its type, so that a stored config names its method."""
    parts = {name: describe(part) for name, part in _parts(config).items()}
    if dataclasses.is_dataclass(config):
        return {"type": type(config).__name__} | parts
    if isinstance(config, dict):
        return parts
    return list(config) if isinstance(config, tuple) else config


def defaults(config: Any) -> dict[str, Any]:
    """What `describe` would give if every setting with a default had that default, for a config with these parts."""
    found = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        given = field.default_factory() if callable(field.default_factory) else field.default
        if given is not dataclasses.MISSING and (type(given) is type(value) or not dataclasses.is_dataclass(value)):
            found[field.name] = describe(given)
        elif dataclasses.is_dataclass(value):
            found[field.name] = defaults(value)
        elif isinstance(value, dict):
            found[field.name] = {name: defaults(part) for name, part in value.items() if dataclasses.is_dataclass(part)}
    return found


def format_config(description: dict[str, Any], indent: str = "") -> str:
    lines = []
    for name, value in description.items():
        lines.append(f"{indent}{name}:" if isinstance(value, dict) else f"{indent}{name}: {value}")
        if isinstance(value, dict):
            lines.append(format_config(value, indent + "  "))
    return "\n".join(lines)
