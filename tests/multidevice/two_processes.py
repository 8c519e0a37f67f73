"""One of two processes with two devices each, joined by the variables that `initialize` reads.

tests/test_multidevice.py starts both. Each checks sums over all devices, its part of a batch, and a gradient against
what numpy gets from the whole batch alone.
"""

import jax
import jax.numpy as jnp
import numpy as np

from scaling.config import MeshConfig
from scaling.config.placement import Processes
from scaling.families import Tensor
from scaling.parallel import batch_sharding, initialize, is_main, make_mesh, param_shardings, use
from scaling.parallel.distributed import local_rows, put_batch
from scaling.parallel.sharding import constrain, replicated

ROWS, D, F = 8, 6, 4


def main() -> None:
    initialize(Processes())
    process = jax.process_index()
    assert (jax.process_count(), jax.device_count(), jax.local_device_count()) == (2, 4, 2)
    assert is_main() == (process == 0)
    mesh = make_mesh(MeshConfig(fsdp=2))

    whole = np.random.default_rng(0).standard_normal((ROWS, D)).astype(np.float32)
    start, stop = local_rows(mesh, ROWS)
    assert (start, stop) == (process * ROWS // 2, (process + 1) * ROWS // 2), "each process loads its half"
    batch = put_batch(whole[start:stop], mesh, ROWS)
    assert batch.shape == whole.shape and batch.sharding == batch_sharding(mesh)
    total = jax.jit(jnp.sum, out_shardings=replicated(mesh))(batch)
    np.testing.assert_allclose(np.asarray(total), whole.sum(dtype=np.float64), rtol=1e-5)

    facts = {"w": Tensor(("w",), "mlp", (D, F), ("embed", "mlp"), "hidden", inputs=1)}
    shardings = param_shardings(facts, {"w": jax.ShapeDtypeStruct((D, F), jnp.float32)}, mesh)
    params = jax.jit(lambda key: {"w": jax.random.normal(key, (D, F))}, out_shardings=shardings)(jax.random.key(1))
    assert {part.data.shape for part in params["w"].addressable_shards} == {(D // 2, F)}

    def loss(params: dict[str, jax.Array], x_BxD: jax.Array) -> jax.Array:
        with use(mesh):
            return jnp.mean(constrain(x_BxD @ params["w"], "batch", "mlp") ** 2)

    gradient = jax.jit(jax.grad(loss), out_shardings={"w": replicated(mesh)})(params, batch)["w"]
    w = np.asarray(jax.random.normal(jax.random.key(1), (D, F)), np.float64)
    np.testing.assert_allclose(np.asarray(gradient), 2 * whole.T @ (whole @ w) / (ROWS * F), rtol=1e-4, atol=1e-6)
    apart = make_mesh(MeshConfig(data=2, fsdp=2), dcn=MeshConfig(data=1, fsdp=2))  # data within each process
    held = (
        {device.process_index for device in apart.devices[:, :, 0].flat},
        {d.process_index for d in apart.devices.flat},
    )
    assert held == ({0}, {0, 1})
    print("as one")


if __name__ == "__main__":
    main()
