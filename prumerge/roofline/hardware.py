"""Cards and precisions: how fast operations and bytes can go at best.

All peaks are dense ones: figures that a data sheet gives "with sparsity" are halved here.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Precision:
    """How many bits weights, activations and the KV cache take: 4, 8, 16 or 32."""

    name: str  # what rows show
    weight_bits: int
    activation_bits: int
    cache_bits: int  # of one key or value

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


_PRECISIONS = (
    Precision("fp16", 16, 16, 16),
    Precision("int8", 8, 8, 8),
    # The paper's reading of INT4: everything has 4 bits, products run at the INT8 peak.
    Precision("int4", 4, 4, 4),
    # What 4-bit checkpoints do in practice: small weights, arithmetic in FP16.
    Precision("w4a16", 4, 16, 16),
)
PRECISIONS = {precision.name: precision for precision in _PRECISIONS}


@dataclass(frozen=True)
class Hardware:
    """What a card can do at best; a multiply-add is two operations.

    Example:
        >>> Hardware("mine", 1.0e12, 200e12, 400e12, 24e9).ridge(PRECISIONS["fp16"])
        200.0
    """

    name: str  # what rows show
    bandwidth_bytes_per_s: float | int
    fp16_per_s: float | int
    int8_per_s: float | int
    memory_bytes: float | int

    def __post_init__(self):
        for field, value in vars(self).items():
            if field != "name" and not value > 0:
                raise ValueError(f"hardware {self.name!r}: {field} must be above 0, got {value}")

    def peak_per_s(self, precision: Precision) -> float:
        """Operations per second at most."""
        # 4-bit products too run at the INT8 peak: of these cards only the A100 has a faster one.
        return self.int8_per_s if precision.integer else self.fp16_per_s

    def ridge(self, precision: Precision) -> float:
        """Operations per byte from which on an operation is compute-bound."""
        return self.peak_per_s(precision) / self.bandwidth_bytes_per_s


_CARDS = (
    # The figures of LLM-Viewer, with which the paper's table was made: data sheet "NVIDIA V100"
    # (January 2020), PCIe card: 112 T tensor operations, 900 GB/s, 16 or 32 GB. The card has no
    # INT8 tensor cores: the tool's 62 T is about four times its FP32 peak (DP4A).
    Hardware("V100", 900e9, 112e12, 62e12, 32e9),
    # Data sheet "NVIDIA A100", SXM cards: 312 T (BF16 and FP16), 624 T (INT8); 1555 GB/s with
    # 40 GB, 2039 GB/s with 80 GB.
    Hardware("A100-40GB", 1555e9, 312e12, 624e12, 40e9),
    Hardware("A100", 2039e9, 312e12, 624e12, 80e9),
    # Data sheet "NVIDIA H100", SXM card: 1979 T (FP16) and 3958 T (INT8) with sparsity, half of it
    # without; 3.35 TB/s, 80 GB.
    Hardware("H100", 3.35e12, 989.5e12, 1979e12, 80e9),
    # Data sheet "NVIDIA H200", SXM card: the H100's chip, with 141 GB at 4.8 TB/s.
    Hardware("H200", 4.8e12, 989.5e12, 1979e12, 141e9),
)
HARDWARE = {card.name: card for card in _CARDS}


def find_hardware(hardware: Hardware | str) -> Hardware:
    """Return a card by its name in any case, or the card given."""
    return _find(hardware, Hardware, HARDWARE, "your card's figures")


def find_precision(precision: Precision | str) -> Precision:
    """Return a precision by its name in any case, or the precision given."""
    return _find(precision, Precision, PRECISIONS, "bits of your own")


def _find(name, kind: type, known: dict, own: str):
    if isinstance(name, kind):
        return name
    found = {key.lower(): value for key, value in known.items()}.get(str(name).lower())
    if found is None:
        remedy = f"there are {', '.join(known)}; or pass {kind.__name__}(...) with {own}"
        raise ValueError(f"unknown {kind.__name__.lower()} {name!r}: {remedy}")
    return found
