"""Compiler options under which a program for one device and one for several, of equal expressions, have equal bits.

XLA treats the two otherwise before they are machine code. For several devices it merges equal expressions once more
before it partitions a program, and Shardy, its partitioner, merges equal constants and copies of scalars, which no
option stops. Merging changes no value, but later passes ask how often a value is used. One of them rewrites: a / b
becomes a (1 / b) in one of two programs. The other fuses: a product and a sum become one rounding, in one of two.

On CPUs (jaxlib 0.7.2 to 0.12) these passes can be left out, so that each operation as it was written is a kernel of its
own. What is left is merging, which is harmless alone.
"""

from jax.sharding import Mesh

UNMERGED = "cse"
AS_WRITTEN = f"{UNMERGED},algsimp,fusion"


def options(mesh: Mesh, strict: bool) -> dict[str, str] | None:
    """Gives the options that `jax.jit` takes as compiler_options for a program over these devices, None: no options.

    Args:
        strict: equal bits are asked for (`diffjax.strict`). On a CPU operations are then compiled as they are written,
            elsewhere without merging alone: fusing is what makes those fast, and nothing was tried there. Otherwise
            programs of CPUs are compiled without merging, which costs nothing and does for most, and of others as ever.
    """
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    passes = AS_WRITTEN if strict and on_cpu else UNMERGED if strict or on_cpu else None
    return None if passes is None else {"xla_disable_hlo_passes": passes}
