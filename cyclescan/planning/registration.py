"""Where a bone lies in the room, from its X-rays: CMA-ES on the agreement of gradients, from many starts.

Every start is searched with a coarse bone, and the better half of them are refined with the bone as it is. Where the
refined starts agree, that is the result; where they do not, it is refused. Neither says that a result is right: see
`docs/how-to/plan-mr-to-xray.md` for how often it is not.

Sources: Otake et al. 2013, Phys. Med. Biol. 58:8535 (gradients, many starts, CMA-ES); Hansen 2016, arXiv:1604.00772
(CMA-ES), by the library cma; van de Kraats et al. 2005, IEEE TMI 24:1177 (how starts and errors are measured).
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from cyclescan.common.errors import InputError
from cyclescan.planning import moved
from cyclescan.planning.projection import Bone, Cloud, coarser
from cyclescan.planning.xray import Xray

SMOOTH_PIXELS = 1.0  # before gradients are taken
STRONG = 0.9  # gradients of an X-ray above this quantile count no more than it: a drill is no better edge than bone
SHADOW = 0.02  # of the brightest pixel of a bone's smoothed image: where it ends, and with it what is compared
REACH = 10.0  # mm and degrees
STARTS = 8
LIMIT_MM = 1.5  # of the spread of the refined starts
RIVAL = 0.9  # of the best agreement: from there on a start that ended elsewhere speaks against the best
LEAST_AGREEMENT = 0.3  # of the gradients on the finest images


@dataclasses.dataclass(frozen=True)
class Level:
    """One resolution of the search.

    Attributes:
        pixels: of the X-rays along their longer side, about.
        voxels: of the bone that become one, along each axis.
        generations, population: of CMA-ES, at most.
    """

    pixels: int
    voxels: int
    generations: int
    population: int


COARSE, FINE = Level(64, 2, 40, 12), Level(128, 1, 22, 10)
COARSE_STEP, FINE_STEP = 0.35, 1.2  # standard deviation that CMA-ES begins with: of the reach; mm and degrees


@dataclasses.dataclass(frozen=True)
class Result:
    """What a registration found.

    Attributes:
        pose: (4, 4), LPS of the scan to LPS of the room.
        agreement: of the gradients at that pose, at most 1.
        spread_mm: median distance from the result of the refined starts that fit nearly as well, over the points
            measured; of one view only that part of it which the X-ray shows.
        depth_mm: of one view the part along its axis; of more views None.
        why: one sentence that says why the result is refused; None where it is accepted.
        starts: for each refined start its agreement, its distance from the result in mm (of one view the parts across
            and along its axis), and its pose.
    """

    pose: np.ndarray
    agreement: float
    spread_mm: float
    depth_mm: float | None
    why: str | None
    starts: list[dict]

    @property
    def accepted(self) -> bool:
        return self.why is None


class Agreement:
    """How well the gradients of a bone's image agree with those of the X-rays: 1 is perfect, 0 is none.

    Per view it is the correlation of both components of the gradients without their means, over the shadow of the
    bone alone; soft tissue, other bones and tools outside it do not count.
    """

    def __init__(self, bone: Bone, xrays: Sequence[Xray], level: Level) -> None:
        self.views, self.fixed = [], []
        for xray in xrays:
            factor = max(1, round(max(xray.view.size) / level.pixels))
            self.views.append(xray.view.binned(factor))
            along, down = _differences(_smooth(binned(xray.image, factor)))
            length = np.hypot(along, down)
            weight = 1 / np.maximum(length / np.quantile(length, STRONG), 1)
            self.fixed.append((along * weight, down * weight))
        # the width of a pixel at the isocentre, which is the origin
        widths = [min(view.pixel_mm) * np.linalg.norm(view.source) / view.sid_mm for view in self.views]
        self.cloud = Cloud(coarser(bone, level.voxels), float(min(widths)))

    def __call__(self, pose: np.ndarray) -> float:
        return sum(map(functools.partial(self._of, pose), self.views, self.fixed)) / len(self.views)

    def _of(self, pose: np.ndarray, view, fixed) -> float:
        smooth = _smooth(self.cloud.image(view, pose))
        inside = smooth > SHADOW * smooth.max()
        product = norm_fixed = norm_moving = 0.0
        for ours, theirs in zip(_differences(smooth), fixed, strict=True):
            a, b = (ours * inside).ravel(), (theirs * inside).ravel()
            product, norm_moving, norm_fixed = product + a @ b, norm_moving + a @ a, norm_fixed + b @ b
        return float(product / np.sqrt(norm_moving * norm_fixed + 1e-12))


def binned(image: np.ndarray, factor: int) -> np.ndarray:
    """Return means over blocks of pixels; rows and columns left over at the ends are dropped."""
    rows, columns = (n // factor for n in image.shape)
    blocks = image[: rows * factor, : columns * factor].reshape(rows, factor, columns, factor)
    return blocks.mean((1, 3))


def _smooth(image: np.ndarray) -> np.ndarray:
    return ndimage.gaussian_filter(image.astype(np.float32, copy=False), SMOOTH_PIXELS, truncate=3)


def _differences(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Along the columns and down the rows; 0 on the rim."""
    along, down = np.zeros_like(image), np.zeros_like(image)
    np.subtract(image[1:-1, 2:], image[1:-1, :-2], out=along[1:-1, 1:-1])
    np.subtract(image[2:, 1:-1], image[:-2, 1:-1], out=down[1:-1, 1:-1])
    return along, down


def shifted(vector: np.ndarray, start: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Return a pose after a turn about a point of the room and a shift.

    Args:
        vector: (6,) the turn as a rotation vector in degrees, and the shift in mm. At 57 mm from the centre a degree
            is a millimetre, so all six are of one size for the knee.
        start: (4, 4).
        centre: (3,) LPS mm of the room.
    """
    change = np.eye(4)
    change[:3, :3] = Rotation.from_rotvec(vector[:3], degrees=True).as_matrix()
    change[:3, 3] = centre - change[:3, :3] @ centre + vector[3:]
    return change @ start


# what is registered (four) and how it is searched (five, all with defaults)
def register(
    bone: Bone,
    xrays: Sequence[Xray],
    start: np.ndarray,
    measured: np.ndarray,
    *,
    reach: float = REACH,
    starts: int = STARTS,
    seed: int = 0,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Result:
    """Find the pose of a bone.

    Args:
        bone: from `projection.bone_of`.
        xrays: one or more of one moment.
        start: (4, 4) where the search begins.
        measured: (n, 3) points of the scan, LPS mm, at which poses are compared: ends of lines, surface of the bone.
        reach: mm and degrees by which `start` may be off.
        starts: how many; half of them are refined.
        seed: of the starts and of CMA-ES.
        workers: processes.
        progress: called with (searches done, searches in all).

    Raises:
        InputError: the library cma is not installed; a number is not allowed.
    """
    try:
        import cma  # noqa: F401
    except ImportError:
        raise InputError("cma is not installed; install cyclescan[plan].") from None
    if starts < 2:
        raise InputError(f"The number of starts is {starts}; from 2 on they can agree or not.")
    rng = np.random.default_rng(seed)
    centre = moved(start, measured).mean(0)
    spread = rng.uniform(-reach / 2, reach / 2, (starts - 1, 6))  # what CMA-ES begins with does the rest
    places = [start, *(shifted(vector, start, centre) for vector in spread)]
    seeds = rng.integers(1, 2**31, 2 * starts).tolist()
    refined = max(2, starts // 2)
    done = 0

    def watched(results):
        nonlocal done
        for result in results:
            done += 1
            if progress:
                progress(done, starts + refined)
            yield result

    with _searching(bone, xrays, min(workers, starts)) as search:
        tasks = [(place, centre, COARSE, COARSE_STEP * reach, s) for place, s in zip(places, seeds, strict=False)]
        coarse = sorted(watched(search(tasks)), key=lambda found: -found[0])[:refined]
        tasks = [(pose, centre, FINE, FINE_STEP, s) for (_, pose), s in zip(coarse, seeds[starts:], strict=False)]
        fine = sorted(watched(search(tasks)), key=lambda found: -found[0])
    return _judged(fine, xrays, measured)


def _judged(fine: list[tuple[float, np.ndarray]], xrays: Sequence[Xray], measured: np.ndarray) -> Result:
    agreement, pose = fine[0]
    axis = xrays[0].view.forward if len(xrays) == 1 else None
    distances = [distance_mm(pose, other, measured, axis) for _, other in fine]
    found = [
        {"agreement": value, "distance_mm": d[0], "depth_mm": d[1], "pose_lps": other.tolist()}
        for (value, other), d in zip(fine, distances, strict=True)
    ]
    spread_mm, depth_mm, why = verdict(found)
    return Result(pose, agreement, spread_mm, None if axis is None else depth_mm, why, found)


def verdict(starts: Sequence[Mapping]) -> tuple[float, float, str | None]:
    """Return whether refined starts may be believed.

    A start counts as a rival of the best where its agreement is at least `RIVAL` of the best's; one that ended in a
    much worse place says nothing about the best place.

    Args:
        starts: "agreement", "distance_mm" and "depth_mm" of each, the best one first.

    Returns:
        The median distance of the rivals and its part along the axis of a single view, mm; and why the result is
        refused, in one sentence, or None.
    """
    best = starts[0]["agreement"]
    rivals = [start for start in starts[1:] if start["agreement"] >= RIVAL * best] or starts[1:2]
    spread_mm, depth_mm = (float(np.median([start[key] for start in rivals])) for key in ("distance_mm", "depth_mm"))
    why = None
    if best < LEAST_AGREEMENT:
        why = (
            f"The bone does not look like the X-ray: their gradients agree by {best:.2f}, "
            f"and at least {LEAST_AGREEMENT:g} is needed."
        )
    elif spread_mm > LIMIT_MM:
        why = (
            f"The starts disagree: searches that fit as well as the best end {spread_mm:.1f} mm from it, "
            f"and at most {LIMIT_MM:g} mm are allowed."
        )
    return spread_mm, depth_mm, why


def distance_mm(pose: np.ndarray, other: np.ndarray, points: np.ndarray, axis: np.ndarray | None = None):
    """Return the mean distance of points under two poses; with the axis of a view across it, and, second, along it
    (else 0).
    """
    difference = moved(other, points) - moved(pose, points)
    if axis is None:
        return float(np.linalg.norm(difference, axis=1).mean()), 0.0
    along = difference @ axis
    across = difference - along[:, None] * axis
    return float(np.linalg.norm(across, axis=1).mean()), float(np.abs(along).mean())


def search(agreements: dict[Level, Agreement], place, centre, level: Level, step: float, seed: int):
    """Search by CMA-ES from one place; return the agreement it ends with and the pose."""
    import cma

    rng = np.random.default_rng(seed)
    options = {
        "popsize": level.population,
        "maxiter": level.generations,
        "tolfun": 1e-4,
        "tolx": 0.02,
        "verbose": -9,
        "seed": np.nan,  # cma would seed the generator of the whole process
        "randn": lambda *shape: rng.standard_normal(shape),
    }
    agreement = agreements[level]
    strategy = cma.CMAEvolutionStrategy(np.zeros(6), step, options)
    while not strategy.stop():
        vectors = strategy.ask()
        strategy.tell(vectors, [-agreement(shifted(vector, place, centre)) for vector in vectors])
    vector = strategy.result.xfavorite  # the mean of the last generation: steadier than the luckiest draw
    pose = shifted(vector, place, centre)
    return agreement(pose), pose


_AGREEMENTS: dict[Level, Agreement] = {}  # of this process, so that they are sent to it once


def _prepare(bone: Bone, xrays: Sequence[Xray]) -> None:
    _AGREEMENTS.update({level: Agreement(bone, xrays, level) for level in (COARSE, FINE)})


def _search_here(task):
    return search(_AGREEMENTS, *task)


@contextlib.contextmanager
def _searching(bone: Bone, xrays: Sequence[Xray], workers: int) -> Iterator[Callable]:
    """A function that runs searches in so many processes and yields their results in order."""
    if workers < 2:
        agreements = {level: Agreement(bone, xrays, level) for level in (COARSE, FINE)}
        yield lambda tasks: (search(agreements, *task) for task in tasks)
        return
    # not forked: TensorFlow may have threads in this process
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _prepare, (bone, xrays)) as pool:
        yield lambda tasks: pool.map(_search_here, tasks)
