"""Memory of one device in training, itemised: what a placement needs before anything is launched."""

from dataclasses import dataclass
from math import ceil

from scaling.accounting.devices import device
from scaling.accounting.params import Tensor, tensors
from scaling.config import ModelConfig, RunConfig
from scaling.errors import UserError

FLOAT32 = 4
CHUNK_BYTES = 64 * 2**20  # float32 logits of one piece of the loss where `placement.loss_chunk` is unset
FACTORED_FROM = 128  # Adafactor keeps the whole second moment where a matrix has a shorter side (as optax does)
IN_BLOCKS = ("attention", "mlp")
FUSED = ("cudnn", "splash")  # attention that keeps no scores
GROUPED = ("cudnn", "xla")  # attention that keeps keys and values as they are
BLOCK = 64  # queries of a block of `blocked`
MLP_KEEPS = {"relu": 2, "relu2": 3, "silu": 4, "gelu": 6, "swiglu": 6, "geglu": 8}
"""arrays of width d_ff that JAX keeps for the backward pass of an MLP"""


@dataclass(frozen=True)
class Memory:
    """Bytes on one device at the peak of a step."""

    items: dict[str, int]
    """parameters, gradients, optimizer, compute_copy (matrices at compute precision), activations, logits"""
    devices: int

    @property
    def total(self) -> int:
        return sum(self.items.values())


@dataclass(frozen=True)
class _Cut:
    """Devices along each axis of the mesh."""

    data: int
    fsdp: int
    tensor: int


def memory(run: RunConfig, devices: int | None = None, kind: str | None = None) -> Memory:
    """Estimate the memory of each device for a run as it is placed.

    devices: devices of the run; unset: as many as `placement.mesh` names.
    kind: their kind; on `cpu`, `compute_dtype: auto` is float32, elsewhere bfloat16.
    returns: bytes. Parameters, gradients and optimizer state are exact for the layout that `parallel` gives them.
    Activations are the arrays that JAX keeps for the backward pass under the remat policy. The sum takes them, one
    layer computed again, a piece of logits and all gradients as there at one time, so it is rather too large.
    Against XLA's own plan for a TPU v5e: state to the byte; the sum 4 to 7 % high without remat, up to 46 % where
    the reference attention's scores lead, which XLA fuses.
    Raises UserError where the mesh does not fit the devices.
    """
    cut = _cut(run, devices)
    model, accumulate = run.model, max(1, run.placement.accumulate)
    parts = [(tensor, tensor.size // _ways(tensor, cut)) for tensor in tensors(model)]
    held = FLOAT32 * sum(size for _, size in parts)
    width = _compute_bytes(run, kind)
    windows = ceil(run.batch_size / (accumulate * cut.data * cut.fsdp))
    items = {
        "parameters": held,
        "gradients": held * (2 if accumulate > 1 else 1),  # the sum and what is added to it
        "optimizer": FLOAT32 * sum(_moments(tensor, size, run.optimizer.name) for tensor, size in parts),
        "compute_copy": width * sum(s for t, s in parts if len(t.shape) > 1) if width < FLOAT32 else 0,
        "activations": windows * model.context * _activations(run, width, _attention(run, kind), cut.tensor),
        "logits": _logits(run, windows * model.context, cut.tensor),
    }
    return Memory(items, cut.data * cut.fsdp * cut.tensor)


def _cut(run: RunConfig, devices: int | None) -> _Cut:
    mesh = run.placement.mesh
    inner = mesh.fsdp * mesh.tensor
    total = devices or max(1, mesh.data) * inner
    data = mesh.data or total // inner
    if data * inner != total:
        asked = f"data={mesh.data} × fsdp={mesh.fsdp} × tensor={mesh.tensor}"
        needs = f"a multiple of {inner}" if mesh.data == 0 else f"{mesh.data * inner}"
        raise UserError(f"placement.mesh: {asked} needs {needs} devices, there are {total}")
    return _Cut(data, mesh.fsdp, mesh.tensor)


def _ways(tensor: Tensor, cut: _Cut) -> int:
    """Devices that one copy of a tensor is split over: a matrix by fsdp and tensor where an axis divides."""
    if len(tensor.shape) < 2:
        return 1
    sides = list(tensor.shape)
    ways = 1
    for ruled, count in (("embed", cut.fsdp), ("other", cut.tensor)):
        mine = [i for i, axis in enumerate(tensor.axes) if (axis == "embed") == (ruled == "embed")]
        if ruled == "other" and tensor.axes[mine[0]] == "position":
            continue
        rest = [i for i in range(len(sides)) if i not in mine]
        fits = [i for i in (*mine, *rest) if sides[i] % count == 0]
        if fits:
            sides[fits[0]] //= count
            ways *= count
    return ways


def _moments(tensor: Tensor, size: int, optimizer: str) -> int:
    """Numbers of optimizer state that one device keeps for a tensor of which it holds `size` parameters."""
    if optimizer == "lion":
        return size
    if optimizer == "muon":
        return size if tensor.part in IN_BLOCKS and len(tensor.shape) == 2 else 2 * size
    if optimizer == "adafactor":
        factored = len(tensor.shape) == 2 and min(tensor.shape) >= FACTORED_FROM
        return size + (tensor.copies * sum(tensor.shape) if factored else size)  # momentum; rows and columns whole
    return 2 * size


def _compute_bytes(run: RunConfig, kind: str | None) -> int:
    dtype = run.placement.compute_dtype
    if dtype == "auto":
        dtype = "float32" if kind == "cpu" else "bfloat16"
    return 4 if dtype == "float32" else 2


def _activations(run: RunConfig, width: int, attention: str, tensor: int) -> int:
    """Bytes for each token of a microbatch: what all layers keep, and what one layer computes again."""
    model, remat = run.model, run.placement.remat
    stream = width * model.d_model
    layers = [_layer(model, width, attention, window, tensor) for window in model.windows]
    if remat == "none":
        held = sum(layers)
    elif remat == "full":
        held = model.layers * stream + max(layers)
    else:
        outputs = 3 if model.norm_position != "pre" else 1 if model.parallel_block else 2  # input; o, down if read
        held = model.layers * (outputs * stream + width * _products(model) // tensor) + max(layers)
    return held + 2 * stream  # and the stream after the last layer and its norm


def _products(model: ModelConfig) -> int:
    """Outputs of q, k, v and of the MLP's way in, for one token of one layer."""
    return (model.n_heads + 2 * model.n_kv_heads) * model.d_head + (2 if model.gated else 1) * model.d_ff


def _layer(model: ModelConfig, width: int, attention: str, window: int, tensor: int) -> int:
    """Bytes for each token that the backward pass of one layer reads when nothing is computed again."""
    H, K, d = model.n_heads, model.n_kv_heads, model.d_head
    branches = 1 if model.parallel_block else 2
    norms = branches + (2 if model.norm_position == "sandwich" else 0)
    keys_held: float = K if attention in GROUPED else H  # the others repeat keys and values for every query head
    outs, scores = 1, (width + 2 * FLOAT32 + 1) * float(model.context)
    if attention in FUSED:
        scores = FLOAT32  # log Z of every query
    elif attention == "blocked":
        seen = _keys_of_blocks(model.context, window)
        if model.attention_softcap is None and model.dropout == 0:  # its own backward pass
            outs, scores = 2, width * seen + FLOAT32
        else:
            keys_held *= max(1.0, seen / BLOCK)  # every block of queries has its own slice of the keys
            scores = (width + 2 * FLOAT32 + 1) * seen
    heads = width * (H + outs * H + 2 * keys_held) * d + scores * H
    heads += 2 * FLOAT32 * (H + K) * d if model.qk_norm else 0
    stream = model.d_model * (2 * FLOAT32 * norms + width * branches)  # norms work in float32
    return round(stream + (heads + width * MLP_KEEPS[model.activation] * model.d_ff) / tensor)


def _keys_of_blocks(context: int, window: int) -> float:
    """Mean over queries of the keys that `blocked` multiplies them with: whole blocks, from the window's first."""
    keys = 0
    for start in range(0, context, BLOCK):
        stop = min(start + BLOCK, context)
        keys += (stop - start) * (stop - max(0, start - window + 1) // BLOCK * BLOCK)
    return keys / context


def _attention(run: RunConfig, kind: str | None) -> str:
    """The implementation that `auto` stands for on a kind of device."""
    model, found = run.model, device(kind) if kind else None
    if run.placement.attention != "auto":
        return run.placement.attention
    platform = found.platform if found else "gpu"
    bent = model.attention_softcap is not None or model.position == "alibi" or model.dropout > 0
    if platform == "gpu":
        return "reference" if bent else "cudnn"
    return "blocked" if bent or platform == "cpu" else "splash"


def _logits(run: RunConfig, tokens: int, tensor: int) -> int:
    """float32 logits of one piece of the loss and their gradient."""
    row = FLOAT32 * run.model.vocab
    piece = min(tokens, run.placement.loss_chunk or max(1, CHUNK_BYTES // row))
    return 2 * piece * row // tensor
