"""Where and how a run computes, apart from what is trained."""

from math import prod
from typing import Literal

from pydantic import Field

from scaling.frozen import MANY, Config


class MeshConfig(Config):
    """Devices along each axis of the mesh; `data: 0` uses all devices that the other axes leave.

    The last axis communicates most and varies fastest over the devices, so it lies on neighbours.
    """

    data: int = Field(default=0, ge=0, le=MANY)
    """copies of the model"""
    pipeline: int = Field(default=1, ge=1, le=MANY)
    """stages of a copy, each with layers of its own, that hand microbatches on to each other"""
    fsdp: int = Field(default=1, ge=1, le=MANY)
    """copies that share the storage of one"""
    expert: int = Field(default=1, ge=1, le=MANY)
    """copies that share the storage of one, each of which computes its own experts for all of them"""
    context: int = Field(default=1, ge=1, le=MANY)
    """devices that share each window along its length, and the storage of one copy"""
    tensor: int = Field(default=1, ge=1, le=MANY)
    """devices that share each matrix"""

    @property
    def inner(self) -> int:
        """Devices of all axes but `data`."""
        return prod(getattr(self, axis) for axis in type(self).model_fields if axis != "data")

    @property
    def inner_text(self) -> str:
        """Those axes as text for an error."""
        return " × ".join(f"{axis}={getattr(self, axis)}" for axis in type(self).model_fields if axis != "data")


class Processes(Config):
    """How long the processes of a run on several hosts wait for each other, in seconds."""

    arrive_s: int = Field(default=300, ge=1)
    """at the beginning, for all processes to arrive"""
    lost_s: int = Field(default=60, ge=1)
    """for a heartbeat of each; then all end, and the same command resumes from the last checkpoint"""


class Placement(Config):
    """Where and how a run computes. It changes speed and memory, never what is trained."""

    mesh: MeshConfig = MeshConfig()
    dcn: MeshConfig | None = None
    """how many parts, joined by the slow network between TPU slices or groups of hosts, each axis of `mesh` is split
    into; `data: 0` uses all slices or hosts that the others leave. Unset: each of several TPU slices has its own part
    of `data`; elsewhere no distinction is made"""
    accumulate: int = Field(default=0, ge=0)
    """microbatches that a batch is split into; 0: one on an accelerator, on a CPU as many as keep each in the cache,
    and up to four for each stage of a pipeline"""
    pipeline_schedule: Literal["gpipe", "1f1b"] | None = None
    """gpipe, and unset: the backward pass begins when all microbatches have passed forward; 1f1b: that of each
    microbatch begins as soon as it has, so that memory does not grow with their number, and recomputes the layers"""
    pipeline_microbatches: int | None = Field(default=None, ge=1)
    """microbatches that are in a pipeline at a time, whose activations it keeps for the backward pass; their
    gradients are summed before the next ones start. Unset: all"""
    pipeline_repeats: int = Field(default=1, ge=1, le=MANY)
    """times that a microbatch goes around the stages of a pipeline, each of which has this many non-adjacent groups
    of layers; more than 1: microbatches come in groups of as many as there are stages"""
    compute_dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """auto: bfloat16 on accelerators, float32 on a CPU; parameters and optimizer state are always float32"""
    attention: Literal["auto", "reference", "blocked", "xla", "cudnn", "splash"] = "auto"
    """implementation of attention; auto: the fastest that supports what the model needs"""
    experts: Literal["auto", "dense", "blocks", "gmm", "tokamax"] = "auto"
    """how a mixture of experts is computed, see `families.dispatch`; auto: gmm on TPUs, on GPUs tokamax where it is
    installed, else blocks"""
    transport: Literal["auto", "gather", "all_to_all", "ragged"] = "auto"
    """how tokens get to the devices of their experts, see `families.dispatch`; auto: gather"""
    context: Literal["auto", "ulysses", "gather", "ring"] = "auto"
    """how queries reach the keys of the whole window where devices share it, see `families.context`; auto: ulysses
    where the heads divide, else gather"""
    layers: Literal["auto", "scan", "unroll"] = "auto"
    """auto: scan on accelerators and with remat, else unrolled. With unrolled layers, XLA's CPU compiler keeps the
    activations that remat should recompute"""
    remat: Literal["none", "dots", "full"] = "none"
    """what the backward pass recomputes: nothing, all but matrix products, whole layers"""
    offload_activations: bool = False
    """keep the activations that `remat` saves (products; the inputs of layers) in host memory until the backward
    pass"""
    offload_optimizer: bool = False
    """keep the optimizer's state in host memory except during the update, when there are no activations: this saves
    the smaller of the two"""
    loss_chunk: int | None = Field(default=None, ge=1)
    """tokens whose logits exist at one time; unset: chosen so that a chunk takes about 64 MiB"""
    zero: Literal[1, 2, 3] | None = None
    """which parts of the layers the devices along `fsdp`, `expert` and `context` share (ZeRO, 1910.02054): 1 the
    optimizer's state, with the float32 parameters; 2 gradients as well; 3, the default, also the matrices that the
    step computes with, which are then gathered wherever a layer is computed rather than once per step. Embedding and
    head are always shared"""
    check_memory: bool = True
    """refuse a step that needs more memory than its devices have, by the ledger, before anything is computed; false:
    try it"""
    processes: Processes = Processes()

    def scans(self, platform: str) -> bool:
        """Whether layers are applied by a scan over their parameters."""
        return self.layers == "scan" or (self.layers == "auto" and (platform != "cpu" or self.remat != "none"))
