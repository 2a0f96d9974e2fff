"""Registration of volumes of one orientation: affine across contrasts, deformable within one contrast, and atlases;
rigid between two scans of one person.

All of it is SimpleITK. Images have their first voxel's centre at the origin and axes (width, height, depth) in mm.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
import warnings
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import SimpleITK as sitk  # noqa: N813 - its own habit
from scipy import ndimage

from cyclescan.preprocessing import body

log = logging.getLogger(__name__)

# sums over several threads would change the result from run to run; processes make it fast
sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)

COARSE_MM = 3.0  # registration works on a grid no finer than this in any axis
ROUNDS = 2  # deformable registrations to an atlas that becomes sharper in between
ATLAS_VOLUMES = 64  # an atlas is the median of at most so many
OUTSIDE = -9.0  # marks voxels beyond the field of view while resampling
# The normalised local contrast, which demons compare: smoothing against noise, extent of a neighbourhood, and the
# contrast (half the range is 1) below which a neighbourhood counts as flat. Without it, uneven coils and noise are
# taken for shape: on digital knees it turned a deformation of DESS from a loss of 0.6 dB into a gain of 0.8.
NOISE_MM, NEIGHBOURHOOD_MM, FLAT = 1.0, 10.0, 0.4
FIELD_SIGMA = 2.5  # voxels; smooths the displacements
ITERATIONS = {2: 30, 1: 20}  # of the demons on each level: voxels are this much larger

# Contrasts are compared deeper than this below the surface of the body; 4 to 8 mm did equally well on digital knees.
SKIN_MM = 4.0

# Of one person, whose bones keep their shape between two scans: first on half of the coarse grid, then on all of it.
# The simplex (Nelder & Mead) needs no gradient: steepest descent left one digital knee of four 70 mm away.
RIGID_LEVELS = ((2, 1.0, 2.0), (1, 0.0, 0.5))  # shrunk by, smoothed by (voxels), first step (mm)
RIGID_VOXELS = 40_000  # looked at in an evaluation; more took longer and brought nothing
TURNED_MM = 50.0  # by so much a turn of 1 rad moves what lies this far from the centre: turns and shifts of one size

Parallel = Callable[[Callable, Sequence[tuple]], Iterable]
Masks = tuple[sitk.Image, sitk.Image]  # of the fixed and of the moving image


@dataclasses.dataclass(frozen=True)
class Map:
    """From one image's coordinates (an atlas's) to another's: x -> affine(x + field(x)), in mm.

    Attributes:
        affine: the 12 parameters of an affine transform and the 3 of its centre; a reflection is part of it.
        field: displacements in mm on the grid of the first image; None for none.
        information: mutual information of the affine registration in nats.
    """

    affine: tuple[float, ...]
    field: sitk.Image | None = None
    information: float = 0.0

    def forward(self) -> list[sitk.Transform]:
        """Return transforms to be composed; as SimpleITK composes, the last is applied first."""
        field = [] if self.field is None else [_field_transform(self.field)]
        return [self.affine_transform(), *field]

    def backward(self) -> list[sitk.Transform]:
        """Return the inverse of `forward`."""
        if self.field is None:
            return [self.affine_transform().GetInverse()]
        inverse = sitk.InvertDisplacementField(self.field, maximumNumberOfIterations=20)
        return [_field_transform(inverse), self.affine_transform().GetInverse()]

    def affine_transform(self) -> sitk.AffineTransform:
        """Return the affine part alone."""
        transform = sitk.AffineTransform(3)
        transform.SetFixedParameters(self.affine[12:])
        transform.SetParameters(self.affine[:12])
        return transform


@dataclasses.dataclass(frozen=True)
class Atlas:
    """The median of the volumes of a domain in their common shape, and the map from it to each of them."""

    image: sitk.Image
    maps: list[Map]


def image_of(array: np.ndarray, spacing_mm: Sequence[float]) -> sitk.Image:
    """Return a volume (depth, height, width) as an image."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(array, np.float32))
    image.SetSpacing([float(s) for s in spacing_mm[::-1]])
    return image


def coarse(image: sitk.Image) -> sitk.Image:
    """Return the image on a grid no finer than `COARSE_MM`, where it is not coarse already."""
    factor = np.maximum(1, np.floor(COARSE_MM / np.asarray(image.GetSpacing()))).astype(int)
    return sitk.BinShrink(image, [int(f) for f in factor]) if (factor > 1).any() else image


def resample(
    moving: sitk.Image, fixed: sitk.Image, transforms: Sequence[sitk.Transform], interpolator: int = sitk.sitkLinear
) -> np.ndarray:
    """Return `moving` on the grid of `fixed`, by default linearly interpolated; NaN beyond its field of view."""
    transform = sitk.CompositeTransform(list(transforms))
    warped = sitk.GetArrayFromImage(sitk.Resample(moving, fixed, transform, interpolator, OUTSIDE))
    return np.where(warped == OUTSIDE, np.float32(np.nan), warped)


def register_affine(fixed: sitk.Image, moving: sitk.Image, seed: int = 0) -> Map:
    """Return the affine map from `fixed` to `moving` of most mutual information (Mattes et al. 2003).

    Left and right knees are mirror images: registration begins with `moving` and with its mirror image along depth, and
    the better result is kept. Where `moving` cannot be registered (it is all one value, say) its centre is brought to
    the centre of `fixed`, the information is 0, and a warning is logged.

    Args:
        fixed, moving: images of any two contrasts.
        seed: of the voxels that are sampled.
    """
    centre = np.asarray(_centre(fixed))
    shift = np.asarray(_centre(moving)) - centre
    starts = [Map((*matrix, *shift, *centre)) for matrix in ((1, 0, 0, 0, 1, 0, 0, 0, side) for side in (1, -1))]
    best = max((_most_informative(fixed, moving, start, seed) for start in starts), key=lambda found: found.information)
    if best.information <= 0:
        log.warning("A volume could not be registered; it is used as it lies.")
    return best


def register_contrasts(fixed: sitk.Image, moving: sitk.Image, seed: int = 0) -> Map:
    """Return the affine map from `fixed` to `moving`, images of two contrasts, from what lies under the skin.

    Information is greatest where the strongest edges meet, and those need not be of one surface: the edge of the knee
    is that of skin and fat in CISS and that of air and skin in DESS. So `register_affine` makes one body fit into the
    other's skin, a thickness of it too large, and pulls all that lies within out of place; on digital knees by 1.1 mm
    at the surface, where this has less than 0.1. What is under the skin corrects it, unless the information of every
    voxel there falls: the search looks at a smoothed half of them and can go astray, as it did for CISS and CT, where
    soft tissue has little contrast.

    Args:
        fixed, moving, seed: see `register_affine`.
    """
    found = register_affine(fixed, moving, seed)
    masks = _under_skin(fixed), _under_skin(moving)
    corrected = _most_informative(fixed, moving, found, seed, 0.3, masks)
    return max((found, corrected), key=lambda map_: _information(fixed, moving, map_, masks))


def rigid(turn: np.ndarray, shift_mm: Sequence[float] | np.ndarray, centre: Sequence[float]) -> Map:
    """Return the map of a rotation matrix (3, 3) about a centre and a shift, in the axes of images."""
    return Map((*np.asarray(turn, float).ravel(), *map(float, shift_mm), *map(float, centre)))


def centred(fixed: sitk.Image, moving: sitk.Image) -> Map:
    """Return the map that brings the centre of `moving` to that of `fixed`."""
    return rigid(np.eye(3), np.subtract(_centre(moving), _centre(fixed)), _centre(fixed))


def register_rigid(
    fixed: sitk.Image, moving: sitk.Image, start: Map, seed: int = 0, levels: Sequence[tuple] = RIGID_LEVELS
) -> Map:
    """Find the rigid map from `fixed` to `moving`, two scans of one person, of most mutual information.

    On digital knees (voxels of 2 and 3 mm) that were moved by up to 5 mm and turned by up to 5 degrees in each axis it
    leaves 0.1 to 0.6 mm of 6.

    Args:
        fixed, moving: images on coarse grids.
        start: a rigid map near it.
        seed: of the voxels that are sampled.
        levels: see `RIGID_LEVELS`; the first is quick and comes within a millimetre.

    Returns:
        The map; its information is that of the last level, and 0 where nothing could be registered.
    """
    transform = sitk.Euler3DTransform()
    transform.SetCenter(start.affine[12:])
    transform.SetMatrix(start.affine[:9], 1e-4)
    transform.SetTranslation(start.affine[9:12])
    information = 0.0
    for shrink, sigma, step_mm in levels:
        method = _of_some_voxels(fixed, shrink, seed)
        method.SetInitialTransform(transform, inPlace=True)
        method.SetSmoothingSigmasPerLevel([sigma])
        method.SetOptimizerAsAmoeba(
            2 * step_mm, numberOfIterations=400, parametersConvergenceTolerance=0.02, functionConvergenceTolerance=1e-5
        )
        method.SetOptimizerScales([TURNED_MM] * 3 + [1.0] * 3)
        try:
            method.Execute(fixed, moving)
        except RuntimeError:
            return dataclasses.replace(start, information=0.0)
        information = max(0.0, -method.GetMetricValue())
    return dataclasses.replace(rigid(transform.GetMatrix(), transform.GetTranslation(), transform.GetCenter()),
                               information=information)  # fmt: skip


def _of_some_voxels(fixed: sitk.Image, shrink: int, seed: int) -> sitk.ImageRegistrationMethod:
    method = _mutual_information(None)
    voxels = np.prod([max(1, n // shrink) for n in fixed.GetSize()])
    if voxels > RIGID_VOXELS:
        method.SetMetricSamplingStrategy(method.RANDOM)
        method.SetMetricSamplingPercentage(float(RIGID_VOXELS / voxels), seed % 2**31 or 1)  # 0 would mean the clock
    method.SetShrinkFactorsPerLevel([shrink])
    return method


def disagreement_mm(there: Map, back: Map, image: sitk.Image) -> float:
    """Measure how far from where they were one map, and then that of the way back, leave points of an image.

    The mean over the corners of the middle half of the image, where the body is.
    """
    both = sitk.CompositeTransform([back.affine_transform(), there.affine_transform()])
    return displacement_mm(both, image)


def displacement_mm(transform: sitk.Transform, image: sitk.Image) -> float:
    """Measure the mean distance (mm) by which a transform moves the corners of the middle half of an image."""
    ends = [((n - 1) / 4, 3 * (n - 1) / 4) for n in image.GetSize()]
    points = [image.TransformContinuousIndexToPhysicalPoint(corner) for corner in itertools.product(*ends)]
    return float(np.mean([np.linalg.norm(np.subtract(transform.TransformPoint(p), p)) for p in points]))


def _under_skin(image: sitk.Image) -> sitk.Image:
    """A mask of what lies deeper than `SKIN_MM` in the body; the border of the field of view is not its surface."""
    inside = body.mask(sitk.GetArrayFromImage(image))
    depth = ndimage.distance_transform_edt(inside, image.GetSpacing()[::-1])
    return sitk.Cast(_like(inside if inside.all() else depth > SKIN_MM, image), sitk.sitkUInt8)


def _information(fixed: sitk.Image, moving: sitk.Image, map_: Map, masks: Masks) -> float:
    """The mutual information in nats, of every voxel within the masks; 0 where there is none."""
    method = _mutual_information(masks)
    method.SetInitialTransform(map_.affine_transform())
    try:
        return -method.MetricEvaluate(fixed, moving)
    except RuntimeError:
        return 0.0


def _mutual_information(masks: Masks | None) -> sitk.ImageRegistrationMethod:
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(32)
    method.SetInterpolator(sitk.sitkLinear)
    if masks:
        method.SetMetricFixedMask(masks[0])
        method.SetMetricMovingMask(masks[1])
    return method


def _most_informative(
    fixed: sitk.Image,
    moving: sitk.Image,
    start: Map,
    seed: int,
    first_step_mm: float = 1.0,
    masks: Masks | None = None,
) -> Map:
    """The affine map near `start`, or `start` itself where nothing can be registered."""
    transform = start.affine_transform()
    method = _mutual_information(masks)
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentage(0.5, seed % 2**31 or 1)  # 0 would mean the clock
    method.SetInitialTransform(transform, inPlace=True)
    # one level: a second on the full grid takes four times as long and gained nothing
    method.SetShrinkFactorsPerLevel([2])
    method.SetSmoothingSigmasPerLevel([1])
    method.SetOptimizerAsRegularStepGradientDescent(first_step_mm, 1e-3, 60, relaxationFactor=0.6)
    method.SetOptimizerScalesFromPhysicalShift()
    try:
        method.Execute(fixed, moving)
    except RuntimeError:
        return start
    found = Map((*transform.GetParameters(), *transform.GetFixedParameters()), information=-method.GetMetricValue())
    return found if found.information > 0 else start


def build_atlas(images: Sequence[sitk.Image], parallel: Parallel, seed: int = 0) -> Atlas:
    """Register volumes of one contrast to each other by way of their median.

    The first volume is the template of the affine maps, and the median of the volumes so aligned that of better ones;
    the median of those becomes the atlas, to which each volume is then deformed. The mean deformation is taken out, so
    that the atlas has the mean shape of the volumes and not the template's, and the median of the deformed volumes is
    the next atlas.

    Args:
        images: of one contrast, at least one.
        parallel: maps a function over tuples of arguments, in order.
        seed: see `register_affine`.
    """
    maps = list(parallel(register_affine, [(images[0], image, seed) for image in images]))
    atlas = _median_of(images, maps, images[0])
    # the template is one noisy volume, their median has no noise
    again = [(atlas, image, map_, seed, 0.5) for image, map_ in zip(images, maps, strict=True)]
    maps = list(parallel(_most_informative, again))
    atlas = _median_of(images, maps, atlas)
    for _ in range(ROUNDS):
        fields = list(parallel(_deform, [(atlas, *pair) for pair in zip(images, maps, strict=True)]))
        mean = np.mean([sitk.GetArrayViewFromImage(field) for field in fields], 0)
        back = _field_like(-mean, atlas)
        settled = list(parallel(_settle, [(atlas, *each, back) for each in zip(images, maps, fields, strict=True)]))
        maps = [map_ for map_, _ in settled]
        atlas = _median([warped for _, warped in settled], atlas)
    return Atlas(atlas, maps)


def _deform(atlas: sitk.Image, image: sitk.Image, start: Map) -> sitk.Image:
    """Displacements (mm, on the atlas's grid) that carry on from the affine part of `start`: fast symmetric demons.

    Vercauteren et al. 2009; the forces come from normalised local contrast.
    """
    array = sitk.GetArrayFromImage(atlas)
    aligned = resample(image, atlas, [start.forward()[0]])
    aligned = np.where(np.isnan(aligned), array, aligned)  # no force where there is nothing
    fixed, moving = (_like(_local_contrast(a, atlas.GetSpacing()), atlas) for a in (array, aligned))
    return _demons(fixed, moving)


def _demons(fixed: sitk.Image, moving: sitk.Image) -> sitk.Image:
    """Displacements in mm from `fixed` to `moving`, coarse to fine."""
    field: sitk.Image | None = None
    for factor, iterations in ITERATIONS.items():
        shrink = [factor if n >= 8 * factor else 1 for n in fixed.GetSize()]
        level = sitk.Shrink(fixed, shrink)
        demons = sitk.FastSymmetricForcesDemonsRegistrationFilter()
        demons.SetNumberOfIterations(iterations)
        demons.SetStandardDeviations([FIELD_SIGMA] * 3)
        if field is None:
            field = demons.Execute(level, sitk.Shrink(moving, shrink))
        else:
            start_field = sitk.Resample(field, level, sitk.Transform(), sitk.sitkLinear, 0.0, field.GetPixelID())
            field = demons.Execute(level, sitk.Shrink(moving, shrink), start_field)
    return field  # type: ignore[return-value]  # there is at least one level


def _settle(
    atlas: sitk.Image, image: sitk.Image, start: Map, field: sitk.Image, back: sitk.Image
) -> tuple[Map, np.ndarray]:
    """Take the mean deformation out of a field; returns the map and the image warped by it."""
    both = sitk.CompositeTransform([_field_transform(field), _field_transform(back)])
    settled = sitk.TransformToDisplacementField(
        both, sitk.sitkVectorFloat64, atlas.GetSize(), atlas.GetOrigin(), atlas.GetSpacing(), atlas.GetDirection()
    )
    map_ = dataclasses.replace(start, field=settled)
    return map_, resample(image, atlas, map_.forward())


def _local_contrast(array: np.ndarray, spacing_xyz_mm: Sequence[float]) -> np.ndarray:
    def blur(values, sigma_mm):
        return ndimage.gaussian_filter(values, sigma_mm / np.asarray(spacing_xyz_mm[::-1]), mode="nearest")

    smooth = blur(array, NOISE_MM)
    difference = smooth - blur(smooth, NEIGHBOURHOOD_MM)
    return difference / np.sqrt(blur(difference**2, NEIGHBOURHOOD_MM) + FLAT**2)


def _median_of(images: Sequence[sitk.Image], maps: Sequence[Map], grid: sitk.Image) -> sitk.Image:
    return _median([resample(image, grid, map_.forward()) for image, map_ in zip(images, maps, strict=True)], grid)


def _median(warped: Sequence[np.ndarray], grid: sitk.Image) -> sitk.Image:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN slice encountered")  # voxels that no volume covers
        median = np.nanmedian(warped[:ATLAS_VOLUMES], 0)
    return _like(np.nan_to_num(median, nan=-1.0), grid)


def _like(array: np.ndarray, grid: sitk.Image) -> sitk.Image:
    image = sitk.GetImageFromArray(np.ascontiguousarray(array, np.float32))
    image.CopyInformation(grid)
    return image


def _field_like(vectors: np.ndarray, grid: sitk.Image) -> sitk.Image:
    field = sitk.GetImageFromArray(np.ascontiguousarray(vectors, np.float64), isVector=True)
    field.CopyInformation(grid)
    return field


def _field_transform(field: sitk.Image) -> sitk.DisplacementFieldTransform:
    return sitk.DisplacementFieldTransform(sitk.Image(field))  # it empties the image it is given


def _centre(image: sitk.Image) -> tuple[float, ...]:
    return image.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in image.GetSize()])
