"""The sizes that memory and compute follow from: a model's blocks in plain numbers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

INTO_ATTENTION, OUT_OF_ATTENTION, INTO_FFN, OUT_OF_FFN = range(4)  # the order in which a block computes


@dataclass(frozen=True)
class Matrix:
    """A frozen weight that a product reads, or a stack of experts' weights."""

    name: str  # the path, an expert stack's parameter behind it
    layer: int  # -1 outside the blocks
    roles: tuple[str, ...]
    stage: int
    d_in: int
    d_out: int
    stored: int = 1  # experts in the stack
    active: float = 1  # of them, those that a token passes through
    quantized: bool = False  # where the base is

    @property
    def parameters(self) -> int:
        """Numbers in the weight."""
        return self.stored * self.d_in * self.d_out

    @property
    def products(self) -> float:
        """Multiplications for a token."""
        return self.active * self.d_in * self.d_out


@dataclass(frozen=True)
class Norm:
    """A normalisation: numbers a token, and whether it computes in float32 whatever the base's dtype."""

    width: int
    upcast: bool


@dataclass(frozen=True)
class Layer:
    """One block."""

    matrices: tuple[Matrix, ...]
    norms: tuple[Norm, ...]
    dropouts: int  # of the residual stream
    normed: bool  # whether a norm stands behind its FFN

    @cached_property
    def attends(self) -> bool:
        """Whether it has a softmax attention."""
        return any("q" in matrix.roles for matrix in self.matrices)

    @cached_property
    def fused_values(self) -> int:
        """Width of the module that makes the values together with something else; 0 where they stand alone."""
        return max((one.d_out for one in self.matrices if "v" in one.roles and len(one.roles) > 1), default=0)

    @cached_property
    def inner(self) -> int:
        """Width of the FFN, over all the experts that a token passes through."""
        return round(sum(one.active * one.d_in for one in self.matrices if "down" in one.roles))

    @cached_property
    def routed(self) -> float:
        """Experts of a mixture that a token passes through; 0 where there is none."""
        return max((one.active for one in self.matrices if "down" in one.roles and one.stored > 1), default=0)

    @cached_property
    def gated(self) -> bool:
        """Whether the FFN multiplies two projections."""
        return any("gate" in one.roles for one in self.matrices)


@dataclass(frozen=True)
class Shapes:
    """A model in numbers."""

    hidden: int
    heads: int
    kv_heads: int
    key_width: int  # of a head
    value_width: int  # of a head
    activation: str  # as the model's config names it
    attention_dropout: float
    rotary: bool
    layers: tuple[Layer, ...]
    outside: tuple[Matrix, ...]  # products outside the blocks, the head aside
    head: Matrix  # hidden to vocabulary
    parameters: int  # tied weights count once
    buffer_bytes: int
    checkpoint_width: int  # bytes of a number in the weights' files

    @cached_property
    def matrices(self) -> tuple[Matrix, ...]:
        """Every product's weight."""
        return (*(one for layer in self.layers for one in layer.matrices), *self.outside, self.head)

    @cached_property
    def by_name(self) -> dict[str, Matrix]:
        """Every product's weight by its path."""
        return {matrix.name: matrix for matrix in self.matrices}

    @property
    def queries(self) -> int:
        """Width of the queries of all heads."""
        return self.heads * self.key_width

    @property
    def attended(self) -> int:
        """Width of what attention gives, over all heads."""
        return self.heads * self.value_width
