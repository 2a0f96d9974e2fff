"""`python -m cyclescan.evaluate`: compare translated with reference volumes."""

from __future__ import annotations

import argparse
import csv
import logging
import sys
from collections.abc import Callable
from pathlib import Path

from cyclescan import __version__
from cyclescan.common import command
from cyclescan.common.errors import InputError
from cyclescan.common.files import begins_with, make_folder, refuse_foreign, replacing, states, walk, write_json
from cyclescan.evaluation import histograms, metrics
from cyclescan.scans import volume as volumes
from cyclescan.scans.volume import Volume

log = logging.getLogger(__name__)

JSON, CSV = "metrics.json", "metrics.csv"
GIVEN = "given with --data-range"
FOUND = "largest minus smallest voxel of all reference volumes that have a partner on their grid"


def evaluate(
    predicted: str | Path,
    reference: str | Path,
    source: str | Path | None = None,
    out: str | Path = "evaluation",
    data_range: float | None = None,
    done: Callable[[str, InputError | None], None] | None = None,
) -> dict:
    """Compare volumes pair by pair and write OUT/metrics.json and OUT/metrics.csv.

    Files of folders are paired by their names below the folder, without `.nii` or `.nii.gz`; two single files always
    make a pair. Both volumes of a pair must be on the same grid. At most three volumes are in memory at a time.

    Args:
        predicted: translated volumes, a NIfTI file or a folder that is searched for them.
        reference: the true volumes of the target domain.
        source: the volumes that were translated: adds KL(source || predicted), as the seed measures it, and the
            measures of the untranslated source as a baseline.
        out: a folder.
        data_range: for PSNR and SSIM; None for that of all reference volumes together, so that the values of
            different volumes can be compared.
        done: called for each predicted volume as it ends, with the reason when it failed.

    Returns:
        What metrics.json says. Pairs that cannot be compared are in `failed`, each with its reason.

    Raises:
        InputError: nothing can be compared, or the output cannot be written.
    """
    if data_range is not None and not 0 < data_range < float("inf"):
        raise InputError(f"--data-range is {data_range:g}; it must be a positive number.")
    given = {"predicted": predicted, "reference": reference} | ({"source": source} if source else {})
    pairs = _find_pairs({role: Path(path) for role, path in given.items()})
    out = make_folder(out)
    refuse_foreign(out / JSON, lambda path: states(path, "cyclescan_version", "definitions"), "result of `evaluate`")
    refuse_foreign(out / CSV, lambda path: begins_with(path, f"volume,{metrics.NAMES[0]},"), "result of `evaluate`")
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

    limits = {role: _Limits() for role in (given if source else ("reference",))}
    comparable = []
    for name in sorted(set(pairs["predicted"]) - set(failed)):
        try:
            _check_grids({role: pairs[role][name] for role in given})
            ranges = {role: _range_of(pairs[role][name]) for role in limits}
        except InputError as error:
            ended(name, error)
            continue
        comparable.append(name)
        for role, found in ranges.items():
            limits[role].include(*found)

    rows = []
    reach = data_range or (limits["reference"].width if comparable else 0.0)
    for name in comparable:
        try:
            scans = {role: volumes.read(pairs[role][name]) for role in given}
        except InputError as error:
            ended(name, error)
            continue
        rows.append({"volume": name, **_compare(scans, reach, limits)})
        ended(name)
    if not rows:
        name, reason = next(iter(failed.items()))
        raise InputError(f"None of the {len(failed)} predicted volumes can be compared; the first is {name}: {reason}")

    result = _result(rows, limits, reach, GIVEN if data_range else FOUND)
    result["failed"] = [{"volume": name, "reason": reason} for name, reason in sorted(failed.items())]
    result["without_prediction"] = sorted(set(pairs["reference"]) - set(pairs["predicted"]))
    write_json(out / JSON, result)
    _write_csv(out / CSV, rows, result)
    return result


class _Limits:
    """The smallest and largest voxel of a cohort."""

    def __init__(self) -> None:
        self.low, self.high = float("inf"), float("-inf")

    def include(self, low: float, high: float) -> None:
        self.low, self.high = min(self.low, low), max(self.high, high)

    @property
    def pair(self) -> tuple[float, float]:
        return self.low, self.high

    @property
    def width(self) -> float:
        return self.high - self.low


def _find_pairs(given: dict[str, Path]) -> dict[str, dict[str, Path]]:
    """The files of each role by the name that pairs them."""
    found = {role: _files(path) for role, path in given.items()}
    if all(path.is_file() for path in given.values()):
        return {role: {volumes.stem(given["predicted"]): path} for role, path in given.items()}
    if not set.intersection(*map(set, found.values())):
        names = "; ".join(f"{path} has {_some(found[role])}" for role, path in given.items())
        raise InputError(
            f"No names of {' and '.join(given)} volumes are the same, so nothing can be compared: {names}."
        )
    return found


def _files(path: Path) -> dict[str, Path]:
    """NIfTI files by their name below `path` without suffix."""
    if not path.exists():
        raise InputError(f"{path} does not exist.")
    if path.is_file():
        if not volumes.is_nifti(path):
            raise InputError(f"{path} is not a NIfTI file; its name must end in .nii or .nii.gz.")
        return {volumes.stem(path): path}
    found: dict[str, Path] = {}
    for file in sorted(walk(path)):
        if volumes.is_nifti(file) and not volumes.is_doubt_map(file):
            name = file.relative_to(path).with_name(volumes.stem(file)).as_posix()
            if name in found:
                raise InputError(f"{found[name]} and {file} have the same name; remove one of them.")
            found[name] = file
    if not found:
        raise InputError(f"There is no NIfTI file (.nii or .nii.gz) in {path} or its sub-folders.")
    return found


def _some(names) -> str:
    names = sorted(names)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _check_grids(paths: dict[str, Path]) -> None:
    """Refuse volumes whose voxels are not at the same places; headers only."""
    grids = {}
    for role, path in paths.items():
        if (held := volumes.count(path)) > 1:
            raise InputError(f"{path} is 4-D and holds {held} volumes; single 3-D volumes are compared.")
        grids[role] = volumes.read_header(path)
    shape, affine = grids["reference"]
    for role, (own_shape, own_affine) in grids.items():
        if own_shape != shape:
            raise InputError(
                f"The {role} volume has {_times(own_shape)} voxels and its reference {_times(shape)}; "
                "resample one onto the other's grid."
            )
        if not metrics.same_grid(affine, own_affine, shape):
            raise InputError(
                f"The {role} volume and its reference have other affines, {own_affine[:3].round(3).tolist()} and "
                f"{affine[:3].round(3).tolist()}; resample one onto the other's grid."
            )


def _range_of(path: Path) -> tuple[float, float]:
    array = volumes.read(path).array
    return float(array.min()), float(array.max())


def _compare(scans: dict[str, Volume], reach: float, limits: dict[str, _Limits]) -> dict:
    """The measures of one predicted volume and of its source."""
    arrays = {role: scan.array for role, scan in scans.items()}
    target = limits["reference"].pair
    row: dict = metrics.all_metrics(arrays["predicted"], arrays["reference"], reach, target)
    if "source" in arrays:
        counts = [histograms.count(arrays[role], limits[role].pair) for role in ("source", "predicted")]
        row["kl_source_predicted"] = histograms.kl_divergence(*counts)
        row["source"] = metrics.all_metrics(arrays["source"], arrays["reference"], reach, target)
    return row


def _result(rows: list[dict], limits: dict[str, _Limits], reach: float, range_definition: str) -> dict:
    with_source = "source" in rows[0]
    names = [*metrics.NAMES, *(["kl_source_predicted"] if with_source else [])]
    mean, deviation = metrics.summarize(rows, names)
    result: dict = {"mean": mean, "sd": deviation}
    definitions = dict(metrics.DEFINITIONS)
    histogram = histograms.settings(limits["reference"].pair)
    if with_source:
        mean, deviation = metrics.summarize([row["source"] for row in rows])
        result["source"] = {"mean": mean, "sd": deviation}
        histogram |= {f"range_of_{role}": list(limits[role].pair) for role in ("source", "predicted")}
        definitions["kl_source_predicted"] = (
            "KL(source || predicted) in nats, the value of the CycleScan report; each histogram spans the range of all "
            "volumes of its kind, as that report compares images that are scaled to one range"
        )
        definitions["source"] = "the source compared with the reference as if it were the prediction: doing nothing"
    return result | {
        "notice": "predicted volumes may be synthetic images, for research and training only, not for clinical use",
        "volumes": rows,
        "data_range": {"value": reach, "definition": range_definition},
        "histogram": histogram,
        "definitions": {**definitions, "sd": "sample standard deviation over volumes (n - 1); null for one volume"},
        "cyclescan_version": __version__,
    }


def _write_csv(path: Path, rows: list[dict], result: dict) -> None:
    """One line for each volume, then the mean and the standard deviation."""

    def flat(name: str, values: dict) -> dict:
        own = {key: value for key, value in values.items() if not isinstance(value, dict)}
        of_source = {f"source_{key}": value for key, value in values.get("source", {}).items()}
        return {**own, **of_source, "volume": name}

    of_source = result.get("source", {})
    lines = [flat(row["volume"], row) for row in rows]
    for name in ("mean", "sd"):
        lines.append(flat(name, {**result[name], "source": of_source.get(name, {})}))
    with replacing(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)


def _times(shape) -> str:
    return "x".join(map(str, shape))


def table(result: dict) -> str:
    """The result as a small table of text."""
    units = {"psnr": "PSNR dB", "mi": "MI nats", "kl_histogram": "KL nats"}
    width = max(len("volume"), *(len(row["volume"]) for row in result["volumes"]))
    lines = [f"{'volume':{width}}" + "".join(f"{units.get(name, name.upper()):>11}" for name in metrics.NAMES)]

    def line(name: str, values: dict) -> str:
        return f"{name:{width}}" + "".join(f"{values[key]:>11.4g}" for key in metrics.NAMES)

    lines += [line(row["volume"], row) for row in result["volumes"]]
    lines += ["", line("mean", result["mean"]), line("SD", result["sd"])]
    if "source" in result:
        lines += [line("source", result["source"]["mean"]), "source: the untranslated volumes, mean"]
        lines += [f"KL(source || predicted): {result['mean']['kl_source_predicted']:.4g} nats, mean"]
    lines.append(f"data range {result['data_range']['value']:g}: {result['data_range']['definition']}")
    return "\n".join(lines) + "\n"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--predicted", required=True, help="translated volumes: a NIfTI file, or a folder of such")
    parser.add_argument("--reference", required=True, help="true volumes of the same names, on the same grids")
    parser.add_argument(
        "--source",
        default=None,
        help="the volumes that were translated, of the same names: adds KL(source || predicted) and the measures of "
        "the untranslated source",
    )
    parser.add_argument("--out", default="evaluation", help="folder for metrics.json and metrics.csv")
    parser.add_argument(
        "--data-range",
        type=float,
        default=None,
        help="largest possible difference of two intensities, for PSNR and SSIM; default: largest minus smallest voxel "
        "of all reference volumes",
    )


def run(arguments: argparse.Namespace) -> int | None:
    with command.progress(unit="volume") as bar:

        def done(name: str, error: InputError | None) -> None:
            bar.update()
            if error:
                with bar.external_write_mode(file=sys.stderr):
                    sys.stderr.write(f"failed: {name}: {' '.join(str(error).split())}\n")

        result = evaluate(
            arguments.predicted, arguments.reference, arguments.source, arguments.out, arguments.data_range, done
        )
    if left := result["without_prediction"]:
        log.warning("%d reference volumes have no prediction and are left out: %s.", len(left), _some(left))
    sys.stdout.write(table(result))
    return command.SOME_FAILED if result["failed"] else command.DONE


def main(arguments: list[str] | None = None) -> int:
    return command.run(__doc__.split(": ")[1], add_arguments, run, "python -m cyclescan.evaluate", arguments)


if __name__ == "__main__":
    sys.exit(main())
