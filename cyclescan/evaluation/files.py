"""Predicted files compared with reference files, pair by pair."""

from __future__ import annotations

import csv
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np

from cyclescan import __version__
from cyclescan.common.command import progress
from cyclescan.common.errors import InputError, of_item
from cyclescan.common.files import begins_with, make_folder, refuse_foreign, replacing, states, write_json
from cyclescan.evaluation import file_pairs, histograms, metrics, synthrad
from cyclescan.evaluation import sites as site_tables
from cyclescan.preprocessing import body, fill, geometry
from cyclescan.scans import volume as volumes
from cyclescan.scans.volume import Volume

log = logging.getLogger(__name__)

JSON, CSV = "metrics.json", "metrics.csv"
NAMES = (*metrics.NAMES, *metrics.ROBUST_NAMES)
SYNTHRAD = "synthrad2025"
PARTS = ("source", "masked", "source_masked", SYNTHRAD, f"source_{SYNTHRAD}")  # of what else there are measures
BODY = "body"
IMAGES = {"before": "source", "after": "predicted"}  # of the histograms, and whose volumes they are
FAR = 2.0  # a data range so many times that of 99.9 % of the voxels is said: 6 dB of PSNR
GIVEN = "given with --data-range"
FOUND = "largest minus smallest voxel of all reference volumes that have a partner on their grid"


# long, because it is the order of work: pair, look at headers and ranges, compare, write
def evaluate(
    predicted: str | Path,
    reference: str | Path,
    source: str | Path | None = None,
    out: str | Path = "evaluation",
    data_range: float | None = None,
    mask: str | Path | None = None,
    sites: str | Path | None = None,
    done: Callable[[str, InputError | None], None] | None = None,
    challenge: str | None = None,
) -> dict:
    """Compare volumes pair by pair and write OUT/metrics.json and OUT/metrics.csv.

    Files of folders are paired by their names below the folder, without `.nii` or `.nii.gz`; two single files always
    make a pair. Both volumes of a pair must be on the same grid. At most three volumes are in memory at a time.

    Args:
        predicted: translated volumes, a NIfTI file or a folder that is searched for them.
        reference: the true volumes of the target domain.
        source: the volumes that were translated: adds KL(source || predicted), as the seed measures it, the measures of
            the untranslated source as a baseline, and `histograms`, see `histograms.Comparison.found`.
        out: a folder.
        data_range: for PSNR and SSIM; None for that of all reference volumes together, so that the values of
            different volumes can be compared.
        mask: masks of the same names (what is not 0 counts), or `BODY` for the body of each reference, see
            `body.mask`: the measures within them are given beside those of the whole volumes.
        sites: a table with the columns subject and site, see `sites.read`, for the histograms.
        done: called for each predicted volume as it ends, with the reason when it failed.
        challenge: `SYNTHRAD` adds the measures of `synthrad`, which are of CT in HU within masks; files are then paired
            by the patient that a name of the challenge's states, so that an unpacked download is a folder of
            references, of masks and of sources.

    Returns:
        What metrics.json says. Pairs that cannot be compared are in `failed`, each with its reason.

    Raises:
        InputError: nothing can be compared, or the output cannot be written.
    """
    if data_range is not None and not 0 < data_range < float("inf"):
        raise InputError(f"--data-range is {data_range:g}; it must be a positive number.")
    if challenge not in (None, SYNTHRAD):
        raise InputError(f"--measures is {challenge!r}; allowed is {SYNTHRAD}.")
    if challenge and not mask:
        raise InputError(f"The measures of {challenge} are of what lies in masks; give --mask.")
    given = {"predicted": predicted, "reference": reference} | ({"source": source} if source else {})
    compared = list(given)
    given |= {"mask": mask} if mask and str(mask) != BODY else {}
    kinds = synthrad.KINDS if challenge else None
    pairs = file_pairs.find({role: Path(path) for role, path in given.items()}, kinds, synthrad.PATIENT)
    out = make_folder(out)
    refuse_foreign(out / JSON, lambda path: states(path, "cyclescan_version", "definitions"), "result of `evaluate`")
    refuse_foreign(out / CSV, lambda path: begins_with(path, f"volume,{metrics.NAMES[0]},"), "result of `evaluate`")
    site_of = site_tables.read(sites, sorted(pairs["predicted"]))
    failed: dict[str, str] = {}

    def ended(name: str, error: InputError | None = None) -> None:
        if error:
            # places are for the terminal: they often carry what identifies a patient
            reason = " ".join(str(error).split())
            paths = {str(files[name]): role for role, files in pairs.items() if name in files}
            for path in sorted(paths, key=len, reverse=True):
                reason = reason.replace(path, f"the {paths[path]} volume")
            failed[name] = reason
        if done:
            done(name, error)

    for name in sorted(pairs["predicted"]):
        if lacking := [role for role in given if name not in pairs[role]]:
            ended(name, InputError(f"There is no {' and no '.join(lacking)} volume of the same name."))

    limits = {role: _Limits() for role in (compared if source else ("reference",))}
    comparable = []
    for name in progress(sorted(set(pairs["predicted"]) - set(failed)), desc="reading", unit="volume", leave=False):
        try:
            file_pairs.check_grids({role: pairs[role][name] for role in given})
            arrays = {role: volumes.read(pairs[role][name]).array for role in limits}
        except Exception as error:  # of whatever class: the others are compared
            ended(name, of_item(error, pairs["predicted"][name]))
            continue
        comparable.append(name)
        for role, array in arrays.items():
            limits[role].include(array)

    rows = []
    reach = data_range or (limits["reference"].width if comparable else 0.0)
    if comparable:
        _warn_of_range(limits["reference"], reach)
        own = {after: limits[role].robust for after, role in IMAGES.items()} if source else None
        comparison = histograms.Comparison(limits["reference"].robust, own)
    for name in progress(comparable, desc="comparing", unit="volume"):
        try:
            scans = {role: volumes.read(pairs[role][name]) for role in given}
            within = _within(scans) if mask or source else None
            row = {"volume": name, **_compare(scans, reach, limits, within if mask else None)}
            if challenge and within is not None:
                for role, part in (("predicted", SYNTHRAD), ("source", f"source_{SYNTHRAD}")):
                    if role in scans:
                        row[part] = synthrad.measures(scans[role].array, scans["reference"].array, within)
            rows.append(row)
            if source and within is not None and within.any():
                images = {image: scans[role].array for image, role in (IMAGES | {"real": "reference"}).items()}
                comparison.add(name, site_of[name], images, within)
        except Exception as error:  # as above
            ended(name, of_item(error, pairs["predicted"][name]))
            continue
        ended(name)
    if not rows:
        name, reason = next(iter(failed.items()))
        raise InputError(f"None of the {len(failed)} predicted volumes can be compared; the first is {name}: {reason}")

    result = _result(rows, limits, reach, GIVEN if data_range else FOUND)
    if source and len(comparison):
        result["histograms"] = comparison.found()
    result["failed"] = [{"volume": name, "reason": reason} for name, reason in sorted(failed.items())]
    result["without_prediction"] = sorted(set(pairs["reference"]) - set(pairs["predicted"]))
    write_json(out / JSON, result)
    _write_csv(out / CSV, rows, result)
    return result


class _Limits:
    """The smallest and largest voxel of a cohort, and between which values 99.9 % of each volume's voxels lie."""

    def __init__(self) -> None:
        self.low, self.high = float("inf"), float("-inf")
        self._robust = self.low, self.high

    def include(self, array: np.ndarray) -> None:
        self.low, self.high = min(self.low, float(array.min())), max(self.high, float(array.max()))
        low, high = metrics.robust_limits(array)
        self._robust = min(self._robust[0], low), max(self._robust[1], high)

    @property
    def pair(self) -> tuple[float, float]:
        return self.low, self.high

    @property
    def robust(self) -> tuple[float, float]:
        """Return the range of 99.9 % of the voxels; of all where so many have one value."""
        return self._robust if self._robust[0] < self._robust[1] else self.pair

    @property
    def width(self) -> float:
        return self.high - self.low


def _warn_of_range(limits: _Limits, reach: float) -> None:
    """Say so where a few voxels decide the data range."""
    low, high = limits.robust
    if high > low and reach > FAR * (high - low):
        log.warning(
            "The data range %.4g is %.3g times the range of 99.9 %% of the reference's voxels, %.4g to %.4g: a few "
            "voxels decide PSNR and SSIM; psnr_p999 and ssim_p999 are of the latter range.",
            reach, reach / (high - low), low, high,
        )  # fmt: skip


def _within(scans: dict[str, Volume]) -> np.ndarray:
    """The voxels that count apart from all: those of the mask that was read, or the body of the reference."""
    if "mask" in scans:
        return scans["mask"].array != 0
    canonical, record = geometry.to_canonical(scans["reference"])
    filled = fill.find(canonical.array)
    inside = body.mask(canonical.array, filled.outside if filled else None)
    return geometry.undo(Volume(inside, canonical.affine), record).array


def _compare(scans: dict[str, Volume], reach: float, limits: dict[str, _Limits], within: np.ndarray | None) -> dict:
    """The measures of one predicted volume and of its source, of the whole volume and `within` a mask."""
    arrays = {role: scan.array for role, scan in scans.items()}
    reference, target = arrays["reference"], limits["reference"]

    def measures(array: np.ndarray, where: np.ndarray | None = None) -> dict[str, float]:
        usual = metrics.all_metrics(array, reference, reach, target.pair, where)
        return usual | metrics.robust_metrics(array, reference, target.robust, where)

    row: dict = measures(arrays["predicted"])
    if "source" in arrays:
        before, after = (histograms.count(arrays[role], limits[role].pair) for role in ("source", "predicted"))
        row["kl_source_predicted"] = histograms.kl_divergence(before, after)
        row["source"] = measures(arrays["source"])
    if within is not None:
        row["masked"] = measures(arrays["predicted"], within) | {"share": float(within.mean())}
        if "source" in arrays:
            row["source_masked"] = measures(arrays["source"], within)
    return row


def _result(rows: list[dict], limits: dict[str, _Limits], reach: float, range_definition: str) -> dict:
    with_source = "source" in rows[0]
    mean, deviation = metrics.summarize(rows, [*NAMES, *(["kl_source_predicted"] if with_source else [])])
    result: dict = {"mean": mean, "sd": deviation}
    definitions = metrics.DEFINITIONS | metrics.ROBUST_DEFINITIONS
    histogram = histograms.settings(limits["reference"].pair)
    for part in PARTS:
        if part in rows[0]:
            names = synthrad.NAMES if SYNTHRAD in part else NAMES
            mean, deviation = metrics.summarize([row[part] for row in rows], names)
            result[part] = {"mean": mean, "sd": deviation}
    if "masked" in result:
        definitions["masked"] = (
            "the same measures over the voxels of the mask, whose share of the volume is `share`; ssim is the mean of "
            "its map there; source_masked: of the source"
        )
    if SYNTHRAD in result:
        definitions |= {f"{SYNTHRAD}_{name}": text for name, text in synthrad.DEFINITIONS.items()}
    if with_source:
        histogram |= {f"range_of_{role}": list(limits[role].pair) for role in ("source", "predicted")}
        definitions["kl_source_predicted"] = (
            "KL(source || predicted) in nats, the value of the CycleScan report; each histogram spans the range of all "
            "volumes of its kind, as that report compares images that are scaled to one range"
        )
        definitions["source"] = "the source compared with the reference as if it were the prediction: doing nothing"
    return result | {
        "notice": "predicted volumes may be synthetic images, for research and training only, not for clinical use",
        "volumes": rows,
        "data_range": {"value": reach, "definition": range_definition, "p999": list(limits["reference"].robust)},
        "histogram": histogram,
        "definitions": {**definitions, "sd": "sample standard deviation over volumes (n - 1); null for one volume"},
        "cyclescan_version": __version__,
    }


def _write_csv(path: Path, rows: list[dict], result: dict) -> None:
    """One line for each volume, then the mean and the standard deviation."""

    def flat(name: str, values: dict) -> dict:
        own = {key: value for key, value in values.items() if not isinstance(value, dict)}
        for part in PARTS:
            own |= {f"{part}_{key}": value for key, value in values.get(part, {}).items()}
        return {**own, "volume": name}

    lines = [flat(row["volume"], row) for row in rows]
    for name in ("mean", "sd"):
        lines.append(flat(name, result[name] | {part: result[part][name] for part in PARTS if part in result}))
    with replacing(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)


def table(result: dict) -> str:
    """Return the result as a small table of text."""
    units = {"psnr": "PSNR dB", "mi": "MI nats", "kl_histogram": "KL nats"}
    units |= {"psnr_p999": "PSNR 99.9", "ssim_p999": "SSIM 99.9"}
    width = max(len("volume"), *(len(row["volume"]) for row in result["volumes"]))
    lines = [f"{'volume':{width}}" + "".join(f"{units.get(name, name.upper()):>11}" for name in NAMES)]

    def line(name: str, values: dict) -> str:
        return f"{name:{width}}" + "".join(f"{values[key]:>11.4g}" for key in NAMES)

    lines += [line(row["volume"], row) for row in result["volumes"]]
    lines += ["", line("mean", result["mean"]), line("SD", result["sd"])]
    if "masked" in result:
        lines += [line("masked", result["masked"]["mean"]), "masked: the voxels of the mask alone, mean"]
    if SYNTHRAD in result:
        mean = result[SYNTHRAD]["mean"]
        lines.append(
            f"{SYNTHRAD}: MAE {mean['mae']:.4g} HU, PSNR {mean['psnr']:.4g} dB, MS-SSIM {mean['ms_ssim']:.4g}, mean"
        )
    if "source" in result:
        lines += [line("source", result["source"]["mean"]), "source: the untranslated volumes, mean"]
        lines += [f"KL(source || predicted): {result['mean']['kl_source_predicted']:.4g} nats, mean"]
    lines.append(f"data range {result['data_range']['value']:g}: {result['data_range']['definition']}")
    low, high = result["data_range"]["p999"]
    lines.append(f"range of 99.9 % of the voxels {low:g} to {high:g}: of PSNR 99.9 and SSIM 99.9")
    return "\n".join(lines) + "\n"
