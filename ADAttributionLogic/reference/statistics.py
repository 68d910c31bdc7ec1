"""What controls have in each region: number, mean, spread, quantiles, and what covariates do to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ADAttributionLogic.errors import ReferenceCohortError
from ADAttributionLogic.reference.covariates import Design
from ADAttributionLogic.relevance.region_table import RegionTable

Values = npt.NDArray[np.float64]

#: What statistics are kept of: columns of a region table, and Σ R of the region / Σ |R| of all regions, which how sure
#: the network is leaves alone, and which stays within ±1 where a map's total is about 0.
MAGNITUDE_SHARE = "magnitude_share"
QUANTITIES = ("sum", "density", "share", "absolute_sum", MAGNITUDE_SHARE)

#: Smallest and largest are not among the quantiles: each would be the value of one person.
PROBABILITIES = (0.01, 0.025, *(round(0.05 * k, 2) for k in range(1, 20)), 0.975, 0.99)

#: Digits that are written: a rounding of 1e-10, far below any spread.
_DIGITS = 10


@dataclass(frozen=True, eq=False)
class QuantityStatistics:
    """Of one quantity, per region.

    Attributes
    ----------
    mean, sd : ndarray, shape (R,), float64
        Standard deviation with n − 1; 0 where all controls have the same.
    quantiles : ndarray, shape (Q, R), float64
        Linearly interpolated between the ordered values (numpy's default), at the statistics' probabilities.
    coefficients : ndarray, shape (P, R), float64
        Of the covariates (P = 0 without); in the order of :attr:`CovariateModel.columns`.
    residual_sd : ndarray, shape (R,), float64
        What the covariates leave; empty without.
    """

    mean: Values
    sd: Values
    quantiles: Values
    coefficients: Values
    residual_sd: Values


@dataclass(frozen=True, eq=False)
class RegionStatistics:
    """What controls have in the regions of one atlas by one method. Item access gives the quantities.

    Attributes
    ----------
    method, atlas : str
    n : int
        Controls, one scan each.
    labels : ndarray, shape (R,), int64
    names, hemispheres : tuple of str
    volumes_mm3 : ndarray, shape (R,)
        On the network's grid; the same for all controls.
    probabilities : ndarray, shape (Q,)
        Of the quantiles, ascending.
    quantities : mapping of str to QuantityStatistics
        By :data:`QUANTITIES`; references of an earlier version have no ``magnitude_share``.
    """

    method: str
    atlas: str
    n: int
    labels: npt.NDArray[np.int64]
    names: tuple[str, ...]
    hemispheres: tuple[str, ...]
    volumes_mm3: Values
    probabilities: Values
    quantities: Mapping[str, QuantityStatistics]

    def __getitem__(self, quantity: str) -> QuantityStatistics:
        return self.quantities[quantity]

    def __len__(self) -> int:
        return len(self.labels)

    def describe(self) -> dict[str, Any]:
        """Plain values; see :func:`read_statistics`."""
        regions = zip(self.labels.tolist(), self.names, self.hemispheres, self.volumes_mm3.tolist(), strict=True)
        return {
            "method": self.method,
            "atlas": self.atlas,
            "n": self.n,
            "probabilities": self.probabilities.tolist(),
            "regions": [
                {"label": label, "name": name, "hemisphere": side, "volume_mm3": volume}
                for label, name, side, volume in regions
            ],
            "quantities": {name: _plain(found) for name, found in self.quantities.items()},
        }


def quantity_of(table: RegionTable, name: str) -> Values:
    """One quantity of a region table, (R,), without the row outside the atlas."""
    if name != MAGNITUDE_SHARE:
        return np.asarray(table.columns[name][:-1], dtype=np.float64)
    total = float(quantity_of(table, "absolute_sum").sum())
    return quantity_of(table, "sum") / (total if total > 0 else np.nan)


def values_of(table: RegionTable) -> Values:
    """The quantities of a region table, (R, 5), without the row outside the atlas."""
    return np.stack([quantity_of(table, name) for name in QUANTITIES], axis=1)


def statistics_of(values: Values, like: RegionTable, design: Design | None = None) -> RegionStatistics:
    """Statistics of all controls.

    Parameters
    ----------
    values : ndarray, shape (n, R, 5)
        :func:`values_of` each control, n ≥ 2.
    like : RegionTable
        Any one of them: its regions.
    design : Design, optional
        Of the covariates, n rows.

    Raises
    ------
    ReferenceCohortError
        Fewer than two controls.
    """
    if len(values) < 2:
        raise ReferenceCohortError(
            f"A reference of {len(values)} control has no spread, and nothing can be compared with it. At least two "
            "persons are needed, and some dozens to be of use."
        )
    quantities = {}
    for number, name in enumerate(QUANTITIES):
        found = np.ascontiguousarray(values[:, :, number])
        sd = found.std(axis=0, ddof=1)
        sd[found.max(axis=0) == found.min(axis=0)] = 0.0  # not what rounding of the mean makes of it
        coefficients, residual = np.empty((0, found.shape[1])), np.empty(0)
        if design is not None:
            coefficients, residual = design.fit(found)
        quantiles = np.quantile(found, PROBABILITIES, axis=0)
        quantities[name] = QuantityStatistics(found.mean(axis=0), sd, quantiles, coefficients, residual)
    columns = like.columns
    return RegionStatistics(
        like.method,
        like.atlas,
        len(values),
        np.asarray(columns["label"][:-1], dtype=np.int64),
        tuple(map(str, columns["name"][:-1])),
        tuple(map(str, columns["hemisphere"][:-1])),
        np.asarray(columns["volume_mm3"][:-1], dtype=np.float64),
        np.array(PROBABILITIES),
        quantities,
    )


def read_statistics(entry: Mapping[str, Any]) -> RegionStatistics:
    """The inverse of :meth:`RegionStatistics.describe`.

    Raises
    ------
    ReferenceCohortError
        Something is missing, does not fit, or is not finite.
    """
    try:
        regions, probabilities = entry["regions"], np.array(entry["probabilities"], dtype=np.float64)
        earlier = set() if MAGNITUDE_SHARE in entry["quantities"] else {MAGNITUDE_SHARE}
        quantities = {name: _quantity(entry["quantities"][name]) for name in QUANTITIES if name not in earlier}
        found = RegionStatistics(
            str(entry["method"]),
            str(entry["atlas"]),
            int(entry["n"]),
            np.array([r["label"] for r in regions], dtype=np.int64),
            tuple(str(r["name"]) for r in regions),
            tuple(str(r["hemisphere"]) for r in regions),
            np.array([r["volume_mm3"] for r in regions], dtype=np.float64),
            probabilities,
            quantities,
        )
    except (KeyError, TypeError, ValueError, OverflowError) as cause:
        raise ReferenceCohortError(f"The region statistics are damaged: {cause!r}.") from cause
    count = len(regions)
    for name, one in quantities.items():
        shapes = (one.mean.shape, one.sd.shape, one.quantiles.shape, one.coefficients.shape[1:])
        if shapes != ((count,), (count,), (probabilities.size, count), (count,)) or one.residual_sd.size not in (
            0,
            count,
        ):
            raise ReferenceCohortError(f"The region statistics are damaged: {name} does not fit {count} regions.")
        numbers = (one.mean, one.sd, one.quantiles, one.coefficients, one.residual_sd)
        if not all(np.isfinite(n).all() for n in numbers) or (one.sd < 0).any() or (one.residual_sd < 0).any():
            raise ReferenceCohortError(
                f"The region statistics are damaged: {name} has values that are not finite, or a spread below 0."
            )
    return found


def _plain(found: QuantityStatistics) -> dict[str, Any]:
    return {
        "mean": _rounded(found.mean),
        "sd": _rounded(found.sd),
        "quantiles": [_rounded(row) for row in found.quantiles],
        "coefficients": [_rounded(row) for row in found.coefficients],
        "residual_sd": _rounded(found.residual_sd),
    }


def _rounded(values: Values) -> list[float]:
    return [float(f"{value:.{_DIGITS}g}") for value in values.tolist()]


def _quantity(entry: Mapping[str, Any]) -> QuantityStatistics:
    def array(name: str) -> Values:
        return np.array(entry[name], dtype=np.float64)

    count = len(entry["mean"])
    coefficients = array("coefficients").reshape(-1, count)
    return QuantityStatistics(array("mean"), array("sd"), array("quantiles"), coefficients, array("residual_sd"))
