"""How does XLA compile for tests? They compile a lot and compute little, so it need not optimise.

LLVM's passes take a third of the time, and XLA's newer emitters of fused loops twice that of the older ones.
"""

FAST = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"


def devices(count: int) -> str:
    """`XLA_FLAGS` of a process whose CPU poses as so many devices."""
    return f"--xla_force_host_platform_device_count={count} {FAST}"
