"""Tests run on 8 fake CPU devices, or on JAX_PLATFORMS, with warnings as errors and rank promotion refused."""

import atexit
import contextlib
import gc
import importlib.util
import os
import shutil
import tempfile

import xla_flags

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), xla_flags.devices(8)])
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# What one test has compiled the others find, also those of other workers, in a folder that ends with the session: tests leave
# nothing in a person's home, and find nothing there.
if "PYTEST_XDIST_WORKER" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="programs-")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "true"
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

from pathlib import Path

import jax
import pytest
from world import command, make_world

# Tracing makes many objects that live, and looking through them for garbage took a seventh of the time.
gc.set_threshold(200_000, 50, 50)
jax.config.update("jax_numpy_rank_promotion", "raise")

ROOT = Path(__file__).resolve().parent.parent


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Properties are marked, for `make test-slow` to try more examples of them."""
    for item in items:
        if "property" in item.path.parts:
            item.add_marker("property")


@pytest.fixture(scope="module")
def tpu_compiler():
    """The TPU compiler, loaded so that it ends no process. libtpu 0.0.51 ends one whose XLA_FLAGS it does not know; it reads them
    at its first program. And it hands jaxlib 0.10.2's profiler a table of another size, at which the next trace would end it."""
    from jax._src import xla_bridge
    from jax.experimental.compilation_cache import compilation_cache

    from mpo_jax.planning import tpu_compiler

    compilation_cache.reset_cache()
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("XLA_FLAGS")
        patch.setattr(xla_bridge._profiler, "register_plugin_profiler", lambda c_api: None)
        device = jax.sharding.SingleDeviceSharding(tpu_compiler.devices("v5e:1x1")[0])
        jax.jit(jax.numpy.sin).lower(jax.ShapeDtypeStruct((8, 128), "float32", sharding=device)).compile()
    yield
    jax.config.update("jax_enable_compilation_cache", True)
    compilation_cache.reset_cache()


@pytest.fixture(autouse=True)
def programs_stay_here():
    yield
    assert jax.config.jax_compilation_cache_dir == os.environ["JAX_COMPILATION_CACHE_DIR"], "write compilation_cache=''"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and golden numbers that may lie beside the checkout."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("needs the folder of real data and golden numbers beside the checkout")
    return folder


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> Path:
    """A folder with a toy model, its tokenizer, rows and texts."""
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="session")
def whole(world, tmp_path_factory) -> Path:
    """The output of a run that nothing disturbed."""
    return command(world, tmp_path_factory.mktemp("whole"))


@pytest.fixture
def interrupted(monkeypatch):
    """`with interrupted(n):` around a run that ends, as if it were killed, in its loop, in update n + 1."""

    @contextlib.contextmanager
    def after(updates):
        from mpo_jax.training.update_log import UpdateLog  # not before the environment says which devices there are

        begins = UpdateLog.begins

        def ends(self, update, *args):
            if update == updates + 1:
                raise KeyboardInterrupt
            return begins(self, update, *args)

        with monkeypatch.context() as patch:
            patch.setattr(UpdateLog, "begins", ends)
            with pytest.raises(KeyboardInterrupt):
                yield patch

    return after


@pytest.fixture(scope="session")
def bucket():
    """A bucket on this machine."""
    for package in ("gcsfs", "gcp_storage_emulator"):
        if importlib.util.find_spec(package) is None:  # not imported before the environment says where buckets are
            pytest.skip(f"buckets need {package}: pip install -r requirements-dev.txt")
    import bucket as emulated

    from mpo_jax.files.paths import path_of

    with emulated.served():
        yield path_of(f"gs://{emulated.NAME}")


@pytest.fixture
def folder(bucket, request):
    """A folder of its own for each test, in the bucket."""
    return bucket / request.node.name.translate(str.maketrans("[], /", "-----"))


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory):
    """A model's configuration, to be layout out on slices."""
    import slices

    return slices.write_model(tmp_path_factory.mktemp("model"))
