"""Compiler options that give a program for one device and the like program for several the same bits.

XLA handles the two differently before it makes machine code. For several devices it merges equal expressions once more
before it partitions the program, and Shardy, its partitioner, merges equal constants and copies of scalars, which no
option stops. Merging by itself changes no value. But two later passes ask how often a value is used, and so decide
otherwise in one of the two programs: the algebraic simplifier writes a / b as a (1 / b), and fusion makes one rounding
of a product and a sum.

On CPUs (jaxlib 0.7.2 to 0.12) these passes can be left out: each operation, as it was written, is a kernel of its own.
"""

from jax.sharding import Mesh

UNMERGED = "cse"
AS_WRITTEN = f"{UNMERGED},algsimp,fusion"


def options(mesh: Mesh, strict: bool) -> dict[str, str] | None:
    """Gives the options that `jax.jit` takes as compiler_options for a program over these devices, None: no options.

    Args:
        strict: equal bits are asked for (`diffjax.strict`). On a CPU operations are then compiled as they are written.
            On other devices merging alone is left out: fusion is what makes them fast, and nothing was tried there.
            Where equal bits are not asked for, merging is left out on CPUs, which costs nothing and makes samples of
            most recipes equal; programs for other devices get no options.
    """
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    passes = AS_WRITTEN if strict and on_cpu else UNMERGED if strict or on_cpu else None
    return None if passes is None else {"xla_disable_hlo_passes": passes}
