"""The LSTM: an embedding, recurrent layers of cells, and a head."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal, Self

from pydantic import model_validator

from scaling.families.cache import Cache, Cached
from scaling.families.declare import Tensor, vector
from scaling.families.ladder import LadderConfig
from scaling.families.linear import embedding, head
from scaling.families.model import FLOAT32, Compute, ModelConfig
from scaling.frozen import MANY, filled

GATES = ("input", "forget", "cell", "output")
"""gates in the order of the kernels' axis, as in PyTorch"""
CELLS = 4  # cells per output of a projection: 2048 and 512 in Sak et al. 2014


class LSTMConfig(ModelConfig):
    """An LSTM language model (Hochreiter & Schmidhuber 1997 with the forget gate of Gers et al. 2000, no peepholes).

    A layer of H cells reads the layer below (the embedding, I = d_model, or I = P) and its own last output, P wide:

        i, f, o = σ(x·W + h·U + b), g = tanh(…)     c ← f·c + i·g     h = o·tanh(c), times an H×P matrix if projected

    so P is `d_hidden`, or d_model with `projection` (LSTMP, Sak et al. 2014, 1402.1128, without the outputs that are
    not fed back). Each gate has one bias; PyTorch has two, which are simply added, so its models count 4·d_hidden
    more parameters per layer. Dropout applies between layers and never between time steps: on the embedding, between
    the layers and on the last output (Zaremba et al. 2014, 1409.2329; `torch.nn.LSTM` has only the one between the
    layers). In training each window starts from a state of zeros, and its final state is discarded.
    """

    PARTS: ClassVar[tuple[str, ...]] = ("embedding", "cells", "projection", "head")
    ITEMS: ClassVar[tuple[str, ...]] = ("input", "recurrent", "projection", "head")
    SIZES: ClassVar[tuple[str, ...]] = ("layers", "d_model", "d_hidden")
    INNER: ClassVar[str] = "d_hidden"
    REMAT: ClassVar[tuple[str, ...]] = ("none", "full")
    MODULE: ClassVar[str] = "scaling.models.lstm:LSTM"

    kind: Literal["lstm"]
    d_hidden: int = filled(ge=1, le=MANY)
    """cells of a layer; unset: d_model, or 4·d_model with a projection"""
    projection: bool = False
    """a layer's output is projected to d_model, also where it is fed back: many cells with few weights"""
    forget_bias: float = 1.0
    """initial bias of the forget gate (Jozefowicz et al. 2015, section 2.2); the others start at 0"""
    held_out_state: Literal["reset", "carried"] = "reset"
    """how the held-out loss is measured: each window starts from a state of zeros, as in training, or from the state
    after the preceding text, across document ends too, in the 16 segments of `training.evaluate`"""

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("d_hidden") is not None:
            return values
        values, d_model = {key: value for key, value in values.items() if key != "d_hidden"}, values.get("d_model")
        if type(d_model) not in (int, float):
            return values  # the field's own check will report it
        return values | {"d_hidden": d_model * (CELLS if values.get("projection") else 1)}

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.tied and self.width != self.d_model:
            raise ValueError(
                f"tied=true uses the embedding as the head, so the last layer must have d_model={self.d_model} "
                f"outputs, but has d_hidden={self.d_hidden}; set projection=true, d_hidden={self.d_model} or "
                "tied=false"
            )
        return self

    @property
    def width(self) -> int:
        """Number of outputs of a layer."""
        return self.d_model if self.projection else self.d_hidden

    @property
    def label(self) -> str:
        return f"lstm-{super().label}"

    @property
    def carries(self) -> bool:
        return self.held_out_state == "carried"

    def tensors(self) -> Iterator[Tensor]:
        """A layer's kernels are (inputs, gate, cells), so that a device that holds some of the cells holds all their
        gates. Matrices are initialised with standard deviation 1/√fan_in, embedding and head by their width."""
        V, D, P = self.vocab, self.d_model, self.width
        yield embedding(V, D, std=D**-0.5, tied=self.tied)
        for layer in range(self.layers):
            for tensor in self._layer(P if layer else D):
                yield replace(tensor, path=(f"layer_{layer}", *tensor.path))
        if not self.tied:
            yield head(P, V, std=P**-0.5)

    def _layer(self, inputs: int) -> Iterator[Tensor]:
        H, P = self.d_hidden, self.width

        def matrix(name: str, part: str, shape: tuple[int, ...], axes: tuple[str, ...]) -> Tensor:
            return Tensor(
                (name,), part, shape, axes, "hidden",
                inputs=1, std=shape[0] ** -0.5, decay=True, precision="compute", uses=((name, 1.0),),
            )  # fmt: skip

        yield matrix("input", "cells", (inputs, len(GATES), H), ("embed", "gates", "cells"))
        yield matrix("recurrent", "cells", (P, len(GATES), H), ("embed", "gates", "cells"))
        for gate in GATES:
            start = self.forget_bias if gate == "forget" else 0.0
            yield vector(("bias", gate), "cells", H, "cells", mean=start)
        if self.projection:
            yield matrix("projection", "projection", (H, P), ("cells", "embed"))

    def cache(self, length: int) -> list[Cache]:
        """The last output and the cells of every layer, independent of the length of the text."""
        return [{"output": Cached((self.width,)), "cells": Cached((self.d_hidden,), "float32")}] * self.layers

    def activations(self, compute: Compute) -> int:
        gates_and_state = compute.width * len(GATES) + FLOAT32
        cells = gates_and_state * self.d_hidden // compute.tensor
        output = compute.width * self.width
        if self.dropout:
            output += output + self.width  # before and after dropout, and a mask byte for each
        held = (self.layers if compute.remat == "none" else 1) * cells + self.layers * output
        return held + compute.width * (self.d_model + self.width)  # plus the embedding and the head's input

    def shape(self) -> dict[str, Any]:
        return super().shape() | {"hidden_ratio": self.d_hidden / self.d_model}

    @classmethod
    def sized(
        cls, ladder: LadderConfig, base: Mapping[str, Any], pair: tuple[int, int], inner: int
    ) -> dict[str, int]:
        """Without a projection a tied head fixes the number of cells, so steps are coarse."""
        layers, d_model = pair
        bound = base.get("tied", True) and not base.get("projection", False)
        return {"layers": layers, "d_model": d_model, "d_hidden": d_model if bound else inner}
