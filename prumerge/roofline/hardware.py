"""Cards and precisions: how fast operations and bytes can go at best.

All peaks are dense ones: figures that a data sheet gives "with sparsity" are halved here.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Precision:
    """How many bits weights, activations and the KV cache take.

    Args:
        name: What rows show.
        weight_bits: Bits of one weight.
        activation_bits: Bits of one activation.
        cache_bits: Bits of one key or value in the KV cache.
    """

    name: str
    weight_bits: int
    activation_bits: int
    cache_bits: int

    def __post_init__(self):
        for bits in (self.weight_bits, self.activation_bits, self.cache_bits):
            if bits not in (4, 8, 16, 32):
                raise ValueError(f"precision {self.name!r} has {bits} bits; use 4, 8, 16 or 32")

    @property
    def integer(self) -> bool:
        """Whether products run at the INT8 peak: every operand has at most 8 bits."""
        return max(self.weight_bits, self.activation_bits, self.cache_bits) <= 8

    @property
    def weight(self) -> float:
        """Bytes of one weight."""
        return self.weight_bits / 8

    @property
    def activation(self) -> float:
        """Bytes of one activation."""
        return self.activation_bits / 8

    @property
    def cache(self) -> float:
        """Bytes of one key or value."""
        return self.cache_bits / 8


PRECISIONS = {
    precision.name: precision
    for precision in (
        Precision("fp16", 16, 16, 16),
        Precision("int8", 8, 8, 8),
        # The paper's reading of INT4: everything has 4 bits, products run at the INT8 peak.
        Precision("int4", 4, 4, 4),
        # What 4-bit checkpoints do in practice: small weights, arithmetic in FP16.
        Precision("w4a16", 4, 16, 16),
    )
}
"""Precisions by name."""


@dataclass(frozen=True)
class Hardware:
    """What a card can do at best.

    Args:
        name: What rows show.
        bandwidth_bytes_per_s: Memory bandwidth.
        fp16_per_s: FP16 operations per second, dense, a multiply-add being two.
        int8_per_s: INT8 operations per second, dense.
        memory_bytes: Memory of the card.

    Example:
        >>> Hardware("mine", 1.0e12, 200e12, 400e12, 24e9).ridge(PRECISIONS["fp16"])
        200.0
    """

    name: str
    bandwidth_bytes_per_s: float | int
    fp16_per_s: float | int
    int8_per_s: float | int
    memory_bytes: float | int

    def __post_init__(self):
        for field in ("bandwidth_bytes_per_s", "fp16_per_s", "int8_per_s", "memory_bytes"):
            if not getattr(self, field) > 0:
                raise ValueError(
                    f"hardware {self.name!r}: {field} must be above 0, got {getattr(self, field)}"
                )

    def peak_per_s(self, precision: Precision) -> float:
        """Operations per second at most; 4-bit products at the INT8 peak.

        Of the cards here only the A100 multiplies 4-bit numbers faster.
        """
        return self.int8_per_s if precision.integer else self.fp16_per_s

    def ridge(self, precision: Precision) -> float:
        """Operations per byte from which on an operation is compute-bound."""
        return self.peak_per_s(precision) / self.bandwidth_bytes_per_s


HARDWARE = {
    card.name: card
    for card in (
        # The figures of LLM-Viewer, with which the paper's table was made: data sheet "NVIDIA
        # V100" (January 2020), PCIe card: 112 T tensor operations, 900 GB/s, 16 or 32 GB. The
        # card has no INT8 tensor cores: the tool's 62 T is about four times its FP32 peak (DP4A).
        Hardware("V100", 900e9, 112e12, 62e12, 32e9),
        # Data sheet "NVIDIA A100", SXM cards: 312 T (BF16 and FP16), 624 T (INT8); 1555 GB/s
        # with 40 GB, 2039 GB/s with 80 GB.
        Hardware("A100-40GB", 1555e9, 312e12, 624e12, 40e9),
        Hardware("A100", 2039e9, 312e12, 624e12, 80e9),
        # Data sheet "NVIDIA H100", SXM card: 1979 T (FP16) and 3958 T (INT8) with sparsity,
        # half of it without; 3.35 TB/s, 80 GB.
        Hardware("H100", 3.35e12, 989.5e12, 1979e12, 80e9),
        # Data sheet "NVIDIA H200", SXM card: the H100's chip, with 141 GB at 4.8 TB/s.
        Hardware("H200", 4.8e12, 989.5e12, 1979e12, 141e9),
    )
}
"""Cards by name."""


def find_hardware(hardware: Hardware | str) -> Hardware:
    """Return a card by name, or the card given.

    Args:
        hardware: A name of :data:`HARDWARE`, in any case, or a card with figures of your own.

    Raises:
        ValueError: If the name is unknown.
    """
    if isinstance(hardware, Hardware):
        return hardware
    return _find(hardware, HARDWARE, "hardware", "pass Hardware(...) with your card's figures")


def find_precision(precision: Precision | str) -> Precision:
    """Return a precision by name, or the precision given."""
    if isinstance(precision, Precision):
        return precision
    return _find(precision, PRECISIONS, "precision", "pass Precision(...) with bits of your own")


def _find(name, known: dict, kind: str, remedy: str):
    found = {key.lower(): value for key, value in known.items()}.get(str(name).lower())
    if found is None:
        raise ValueError(f"unknown {kind} {name!r}: there are {', '.join(known)}; or {remedy}")
    return found
