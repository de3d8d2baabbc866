"""The numbers of a ledger: rows for layers, and text and JSON of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, median
from typing import Any

from ldmref.support.columns import align_columns

DASH = "-"


@dataclass(frozen=True)
class LedgerRow:
    r"""One quantised layer.

    With W and V the weights of the two models, and y and z the outputs of the layer with them, on
    the same inputs:

    Args:
        layer: The name of the layer.
        numbers: The number of its weights.
        weights: :math:`\lVert V - W \rVert / \lVert W \rVert`.
        outputs: :math:`\lVert z - y \rVert / \lVert y \rVert` over all calls of the layer in the
            run. None: it is not the weight of one operation.
        outputs_control: The same for a random V of the same norm of V - W, for each seed.
        outputs_floor: The same for W in the format of the floor.
        image: Root mean square of the change of the image if only this layer has the weights V, in
            steps of 8 bits. None: it was not measured.
        image_control: The same for random V, for each seed.

    >>> LedgerRow("conv_in", 27, 0.01, 0.012, (0.011,), 1e-7, 0.4, (0.5, 0.3)).control
    0.4
    """

    layer: str
    numbers: int
    weights: float
    outputs: float | None
    outputs_control: tuple[float, ...]
    outputs_floor: float | None
    image: float | None = None
    image_control: tuple[float, ...] = ()

    @property
    def control(self) -> float | None:
        """The mean change of the image by a random perturbation; None if it was not measured."""
        return fmean(self.image_control) if self.image_control else None


@dataclass(frozen=True)
class QuantizationLedger:
    """Two models compared, layer by layer.

    Args:
        model: The name of the first model.
        other: The name of the second one, or the type that the first was quantised to.
        bits: The mean number of bits of a weight of the denoiser; None if it is not known.
        settings: What was run: prompts, steps, seed, backend, formats.
        rows: The layers whose weights differ, in the order of the network.
        whole: The number of parameters that are equal.
        weights: The relative error of all weights that differ together.
        image: Root mean square of the change of the images with all layers exchanged at once, in
            steps of 8 bits.
        image_control: The same for random perturbations of the same norms, for each seed.
        image_floor: The same for the format of the floor.

    >>> row = LedgerRow("conv_in", 27, 0.01, 0.012, (0.011,), 1e-7, 0.4, (0.5,))
    >>> one = QuantizationLedger(
    ...     "tiny", "Q8_0", 8.5, {"prompts": ("a cat",), "steps": 2, "dtype": "float32"},
    ...     (row,), 9, 0.01, 0.4, (0.5,), 1e-4,
    ... )
    >>> one.shares, one.independent
    ({'conv_in': 1.0}, 0.4)
    """

    model: str
    other: str
    bits: float | None
    settings: dict[str, Any]
    rows: tuple[LedgerRow, ...]
    whole: int
    weights: float
    image: float
    image_control: tuple[float, ...]
    image_floor: float

    @property
    def shares(self) -> dict[str, float]:
        r"""The share of each layer, :math:`e_i^2 / \sum_j e_j^2` with the images' changes e.

        They add up to 1; {} if no layer was exchanged alone, or none changes the image.
        """
        squares = {row.layer: row.image**2 for row in self.rows if row.image is not None}
        total = math.fsum(squares.values())
        return {name: square / total for name, square in squares.items()} if total > 0 else {}

    @property
    def independent(self) -> float | None:
        r"""The change :math:`\sqrt{\sum_j e_j^2}` that independent errors would add up to.

        None if no layer was exchanged alone.
        """
        alone = [row.image for row in self.rows if row.image is not None]
        return math.hypot(*alone) if alone else None

    def to_dict(self) -> dict[str, Any]:
        """Return all numbers for JSON."""
        found = asdict(self)
        shares = self.shares
        for row in found["rows"]:
            row["share"] = shares.get(row["layer"])
        return found | {"independent": self.independent}


def to_lines(ledger: QuantizationLedger) -> list[str]:
    """Return a ledger as a table, the layers with the largest share of the image first.

    Args:
        ledger: From `make_ledger`.

    Returns:
        Lines without line ends.

    >>> row = LedgerRow("conv_in", 27, 0.01, 0.012, (0.011,), 1e-7, 0.4, (0.5,))
    >>> one = QuantizationLedger(
    ...     "tiny", "Q8_0", 8.5, {"prompts": ("a cat",), "steps": 2, "dtype": "float32"},
    ...     (row,), 9, 0.01, 0.4, (0.5,), 1e-4,
    ... )
    >>> for line in to_lines(one)[1:3]:
    ...     print(line)
    layer    weights  outputs  control  floor  image  control    share
    conv_in     0.01    0.012    0.011  1e-07    0.4      0.5  100.0 %
    """
    shares = ledger.shares

    def order(row: LedgerRow) -> tuple[bool, float]:
        """Order layers that were exchanged alone by their share, then the others by weights."""
        return row.layer not in shares, -shares.get(row.layer, row.weights)

    rows = sorted(ledger.rows, key=order)
    head = ("layer", "weights", "outputs", "control", "floor", "image", "control", "share")
    cells = [
        (
            row.layer,
            _number(row.weights),
            _number(row.outputs),
            _mean(row.outputs_control),
            _number(row.outputs_floor),
            _number(row.image),
            _mean(row.image_control),
            f"{100 * shares[row.layer]:.1f} %" if row.layer in shares else DASH,
        )
        for row in rows
    ]
    lines = [describe(ledger), *align_columns([head, *cells], right=True)]
    floor = f"floor {_number(ledger.image_floor)}"
    every = f"all layers at once: image {_number(ledger.image)}"
    lines.append(f"{every}, control {_spread(ledger.image_control)}, {floor}")
    if ledger.independent is not None:
        lines.append(f"independent errors would add up to {_number(ledger.independent)}")
    return lines


def to_summary(ledgers: Sequence[QuantizationLedger]) -> list[str]:
    """Return several ledgers of one model as a table, one line each.

    Args:
        ledgers: From `make_ledgers`.

    Returns:
        Lines without line ends.

    >>> row = LedgerRow("conv_in", 27, 0.01, 0.012, (0.011,), 1e-7, 0.4, (0.5,))
    >>> one = QuantizationLedger(
    ...     "tiny", "Q8_0", 8.5, {"prompts": ("a cat",), "steps": 2, "dtype": "float32"},
    ...     (row,), 9, 0.01, 0.4, (0.5,), 1e-4,
    ... )
    >>> for line in to_summary([one])[1:3]:
    ...     print(line)
    type  bits  weights  outputs  control  image  control  image/control
    Q8_0  8.50     0.01    0.012    0.011    0.4      0.5           0.80
    """
    head = ("type", "bits", "weights", "outputs", "control", "image", "control", "image/control")
    cells = [
        (
            ledger.other,
            DASH if ledger.bits is None else f"{ledger.bits:.2f}",
            _number(ledger.weights),
            _median([row.outputs for row in ledger.rows]),
            _median([fmean(row.outputs_control) for row in ledger.rows if row.outputs_control]),
            _number(ledger.image),
            _spread(ledger.image_control),
            _ratio(ledger),
        )
        for ledger in ledgers
    ]
    first = ledgers[0]
    floors = [row.outputs_floor for ledger in ledgers for row in ledger.rows]
    floor = f"floor: outputs {_median(floors)}, image {_number(first.image_floor)}"
    return [describe(first, types=False), *align_columns([head, *cells], right=True), floor]


def describe(ledger: QuantizationLedger, types: bool = True) -> str:
    """Return what was compared, in one line."""
    settings = ledger.settings
    count = len(settings["prompts"])
    runs = f"{count} prompt{'s' * (count != 1)}, {settings['steps']} steps, {settings['dtype']}"
    what = f"{ledger.model} against {ledger.other}" if types else ledger.model
    counted = f"{len(ledger.rows)} layers differ, {ledger.whole} parameters are equal"
    return f"{what}: {counted if types else 'one line for each type'}; {runs}"


def _number(x: float | None) -> str:
    return DASH if x is None else f"{x:.3g}"


def _mean(values: Sequence[float]) -> str:
    return _number(fmean(values)) if values else DASH


def _median(values: Sequence[float | None]) -> str:
    found = [x for x in values if x is not None]
    return _number(median(found)) if found else DASH


def _spread(values: Sequence[float]) -> str:
    """Return the smallest and largest value, or the only one."""
    if len(values) < 2:
        return _mean(values)
    return f"{min(values):.3g} to {max(values):.3g}"


def _ratio(ledger: QuantizationLedger) -> str:
    control = fmean(ledger.image_control) if ledger.image_control else 0.0
    return f"{ledger.image / control:.2f}" if control > 0 else DASH
