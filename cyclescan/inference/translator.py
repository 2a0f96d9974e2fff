"""A trained model and how to use it on a scan; the same from a training run and from an exported SavedModel."""

from __future__ import annotations

import dataclasses
import functools
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from cyclescan.artifacts import card as cards
from cyclescan.artifacts import checkpoints, exports, runs, shipped
from cyclescan.artifacts.direction import DIRECTIONS
from cyclescan.common.errors import InputError
from cyclescan.common.files import read_json, sha256
from cyclescan.config import Config
from cyclescan.inference import doubt, lost, onnx_network, sliding_window
from cyclescan.preprocessing import guard, intensity, prepare_as, restore
from cyclescan.preprocessing.noise import Noise
from cyclescan.scans.volume import Volume

Progress = Callable[[int, int], None]
Network = Callable[[np.ndarray, tuple[int, int, int], float, Progress | None], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where a model came from, for the file beside every translated image.

    Attributes:
        model: the path it was loaded from.
        kind: "run", "saved_model", "onnx", or "served" where a server has it.
        version: the exported version's number, or the checkpoint's name.
        weights: "last", "best" or the step that was asked for.
        step: the training step of the weights.
        sha256: of the names and SHA-256s of all files of the checkpoint or SavedModel.
        preset: the recipe it was trained by.
        cyclescan_version: of the program that trained or exported it.
    """

    model: str
    kind: str
    version: str
    weights: str
    step: int
    sha256: str
    preset: str
    cyclescan_version: str

    @classmethod
    def of_card(cls, card: dict, model: str, kind: str) -> Origin:
        """Return the origin of an exported model, given the card of one of its version folders."""
        return cls(
            model=model,
            kind=kind,
            version=str(card["version"]),
            weights=card["weights"],
            step=card["step"],
            sha256=cards.identity(card["checksums"]),
            preset=card["preset"],
            cyclescan_version=card["cyclescan_version"],
        )


class Translator:
    """Translates volumes of one domain into the other.

    The result is that of the whole volume in one piece, whatever the window (see `inference.whole_volume`).

    Networks compute in float32 also where they were trained in mixed precision, so that the numbers are the same on
    every machine, up to rounding.

    Attributes:
        config: the model's settings.
        data: domains, spacing_mm, axes and shape of the data it was trained on, as in dataset.json.
        direction: "a2b" or "b2a".
        source_name, target_name: names of the two domains, such as "ciss" and "dess".
        window: voxels on the working grid that are worked on at once; decides over memory and speed.
        overlap: the fraction that windows share; costs time and changes nothing.
        mirror: average with the translation of the volume mirrored along its depth, mirrored back.
        origin: see `Origin`.
        back: the translator of the other direction of the same model; None unless `load` was asked for it.
    """

    def __init__(
        self,
        network: Network,
        config: Config,
        data: dict,
        direction: str,
        origin: Origin,
        window: Sequence[int] | None = None,
        overlap: float | None = None,
        mirror: bool = False,
    ) -> None:
        self._network = network
        self.config = config
        self.data = data
        self.direction = direction
        self.origin = origin
        self.window, self.overlap = sliding_window.check_settings(window, overlap, config.stride)
        self.mirror = mirror
        self.back: Translator | None = None

    @classmethod
    def load(
        cls,
        model: str | Path,
        direction: str,
        weights: str | int = "last",
        window: Sequence[int] | None = None,
        overlap: float | None = None,
        mirror: bool = False,
        back: bool = False,
    ) -> Translator:
        """Load one direction of a model.

        Args:
            model: a training run, a folder written by `cyclescan.export`, one version folder below it, an ONNX file
                of it, which needs onnxruntime in place of TensorFlow, or the name of a model that comes with
                cyclescan, see `shipped`.
            direction: "a2b" or "b2a".
            weights: of a run: "last", "best" or a step. An exported model has one set of weights.
            window: (depth, height, width) voxels on the working grid; None for `sliding_window.DEFAULT_WINDOW`.
            overlap: the fraction that windows share, in [0, 1); None for none.
            mirror: see `Translator`.
            back: load the other direction too, which `doubt` needs.

        Raises:
            InputError: there is no such model, checkpoint or direction; a file of it is missing or altered; the
                window is not a multiple of the stride or the overlap is out of range.
        """
        if back:
            load = functools.partial(cls.load, model, weights=weights, window=window, overlap=overlap, mirror=mirror)
            translator = load(direction)
            try:
                translator.back = load(direction[::-1])
            except InputError as error:
                raise InputError(f"Doubt (--doubt) needs the way back, {direction[::-1]}, too: {error}") from error
            return translator
        path = Path(model)
        if direction not in DIRECTIONS:
            allowed = " or ".join(DIRECTIONS)
            raise InputError(f"The direction is {direction!r}; allowed is {allowed}.")
        if not path.exists():
            path = shipped.find(str(model))
        if path.suffix == onnx_network.SUFFIX and path.is_file():
            return cls._from_onnx(path, direction, weights, window, overlap, mirror)
        if (path / "config.json").exists():
            return cls._from_run(path, direction, weights, window, overlap, mirror)
        found = exports.find(path, direction)
        if found is None:
            hidden = str(model) in shipped.names()
            hides = ", and hides the model of this name that comes with cyclescan" if hidden else ""
            raise InputError(
                f"{path} is neither a training run (with a config.json) nor an exported model (with a card.json or a "
                f"{exports.GRAPH}){hides}."
            )
        if weights != "last":
            raise InputError(f"--weights {weights} is for training runs; the exported model {path} has one set.")
        folder, card = found
        return cls._from_saved_model(path, folder, card, direction, window, overlap, mirror)

    @classmethod
    def _from_run(cls, path, direction, weights, window, overlap, mirror) -> Translator:
        run = runs.read_run(path)
        sliding_window.check_settings(window, overlap, run.config.stride)  # before weights are read, which takes long
        checkpoint = runs.find(run, weights)
        generator = checkpoints.load_generator(run, direction, weights)
        facts = read_json(checkpoint / "checkpoint.json")
        origin = Origin(
            model=str(path),
            kind="run",
            version=checkpoint.name,
            weights=str(weights),
            step=facts["step"],
            sha256=cards.identity(checkpoints.checksums(checkpoint)),
            preset=run.preset,
            cyclescan_version=run.cyclescan_version,
        )
        return cls(network_of(generator), run.config, run.data, direction, origin, window, overlap, mirror)

    @classmethod
    def _from_saved_model(cls, given_path, path, card, direction, window, overlap, mirror) -> Translator:
        config = Config.from_dict(card["config"])
        sliding_window.check_settings(window, overlap, config.stride)
        import tensorflow as tf

        try:
            loaded = tf.saved_model.load(str(path))
        except (OSError, ValueError, tf.errors.OpError) as error:
            raise InputError(f"The model {path} cannot be loaded ({str(error).splitlines()[0]}).") from error
        origin = Origin.of_card(card, str(given_path), "saved_model")

        def network(array, window, overlap, progress):
            if array.size > card["max_voxels"]:
                raise InputError(
                    f"A volume of {array.size} voxels is larger than the exported model {given_path} takes, which are "
                    f"{card['max_voxels']}; export it again with a larger --max-voxels."
                )
            # `loaded` owns the variables, so it has to live as long as its signature does
            given = {"volume": array, "window": window, "overlap": np.float32(overlap)}
            result = loaded.signatures["scaled"](**{name: tf.constant(value) for name, value in given.items()})
            if progress:
                progress(1, 1)  # what runs inside the graph cannot be watched
            return result["translated"].numpy()

        return cls(network, config, card["data"], direction, origin, window or card["window"], overlap, mirror)

    @classmethod
    def _from_onnx(cls, path, direction, weights, window, overlap, mirror) -> Translator:
        network, facts = onnx_network.load(path)
        if facts["direction"] != direction:
            raise InputError(f"{path} translates {facts['direction']}, not {direction}.")
        if weights != "last" or window is not None or overlap:
            raise InputError(
                f"--weights, --window and --overlap are not for the ONNX file {path}: it has one set of weights and "
                "works on the whole volume in one piece."
            )
        origin = Origin(
            model=str(path),
            kind="onnx",
            version=facts["version"],
            weights=facts["weights"],
            step=int(facts["step"]),
            sha256=sha256(path),
            preset=facts["preset"],
            cyclescan_version=facts["cyclescan_version"],
        )
        return cls(network, Config.from_dict(facts["config"]), facts["data"], direction, origin, mirror=mirror)

    @property
    def version(self) -> str:
        """Return the exported version's number, or the name of the run's checkpoint."""
        return self.origin.version

    @property
    def stride(self) -> int:
        """Return the number of voxels that windows are multiples of."""
        return self.config.stride

    @property
    def source_name(self) -> str:
        return self._domain(0)["name"]

    @property
    def target_name(self) -> str:
        return self._domain(2)["name"]

    @property
    def target_intensity(self) -> dict:
        """Return what the scale becomes in the result: the intensity step of the target domain."""
        return self._domain(2)["intensity"]

    @property
    def knows_noise(self) -> bool:
        """Whether the model knows the noise of the target's scans."""
        return Noise.of(self._domain(2)) is not None

    @property
    def noise(self) -> Noise:
        """The noise of the target's training scans.

        Raises:
            InputError: the model does not know it.
        """
        noise = Noise.of(self._domain(2))
        if noise is None:
            raise InputError(
                f"The model {self.origin.model} does not know the noise of {self.target_name}: it was built before "
                f"cyclescan measured it, or on fewer than {guard.FEWEST} training scans; leave out --noise."
            )
        return noise

    def _domain(self, letter: int) -> dict:
        return self.data["domains"][self.direction[letter]]

    def translate_array(
        self, array: np.ndarray, progress: Progress | None = None, window: Sequence[int] | None = None
    ) -> np.ndarray:
        """Translate a prepared volume.

        Args:
            array: float32 (depth, height, width) on [-1, 1], of any size, canonical axes at the working spacing.
            progress: called with (windows done, windows in all).
            window: another than that of the translator.

        Returns:
            The same shape and range in the target domain.

        Raises:
            InputError: the array is no volume, the window is not allowed or does not fit into memory.
        """
        import tensorflow as tf

        array = np.ascontiguousarray(array, np.float32)
        if array.ndim != 3 or 0 in array.shape:
            raise InputError(f"An array of shape {array.shape} is no volume; (depth, height, width) is needed.")
        window, overlap = sliding_window.check_settings(window or self.window, self.overlap, self.stride)
        try:
            result = self._network(array, window, overlap, progress)
            if self.mirror:
                mirrored = self._network(np.ascontiguousarray(array[::-1]), window, overlap, progress)
                result = (result + mirrored[::-1]) / 2
        except tf.errors.ResourceExhaustedError as error:
            shape = " ".join(map(str, window))
            raise InputError(f"A window of {shape} voxels does not fit into memory; choose a smaller one.") from error
        return result

    def doubt(self, array: np.ndarray, translated: np.ndarray) -> np.ndarray:
        """Return how far a translation should be doubted, see `inference.doubt`.

        Args:
            array: a prepared volume, as for `translate_array`.
            translated: its translation.

        Returns:
            The same shape, float32, on [0, 2], in the unit in which translations have [-1, 1].
        """
        return doubt.doubt(self.doubt_parts(array, translated))

    def doubt_parts(self, array: np.ndarray, translated: np.ndarray) -> dict[str, np.ndarray]:
        """What `doubt` is the sum of, see `doubt.parts`."""
        if self.back is None:
            raise ValueError("the other direction is not loaded; load the translator with back=True")
        there, back = self.translate_array, self.back.translate_array
        return doubt.parts(array, translated, there, back, self.stride, mirrored=self.mirror)

    def lost(self, array: np.ndarray, parts: Mapping[str, np.ndarray]) -> dict | None:
        """Whether a scan shows something that its translation loses, see `lost.find`.

        Args:
            array: a prepared volume, as for `translate_array`.
            parts: of `doubt_parts`.

        Returns:
            None where the model is older than this measure, and nothing is known.
        """
        limits = self._domain(0).get(lost.LIMITS)
        spacing_mm = self.data["spacing_mm"]
        voxel_mm3 = None if spacing_mm is None else float(np.prod(spacing_mm))
        return lost.find(parts["cycle"], array, limits, voxel_mm3) if limits else None

    def prepare(self, volume: Volume) -> tuple[np.ndarray, list[dict]]:
        """Bring a scan of the source domain onto the working grid and [-1, 1]; returns it and the steps taken.

        Raises:
            InputError: the scan has too little contrast for the model's scaling; the model needs to know which side
                it shows.
        """
        prepared, steps = prepare_as(volume, self.data, self.direction[0])
        return prepared.array, steps

    def outside(self, volume: Volume, steps: list[dict]) -> list[dict] | None:
        """Return what is unlike the training scans in a scan and its steps from `prepare`, see `guard.outside`.

        Returns:
            None where the model is older than the guard, and nothing is known.
        """
        cohort = self._domain(0).get("guard")
        return guard.outside(guard.measure(volume, steps), cohort) if cohort else None

    def restore(self, array: np.ndarray, steps: list[dict]) -> Volume:
        """Bring a translated array onto the grid of the scan it came from, in the target's intensities."""
        return restore(array, steps, self.target_intensity)

    def with_noise(self, volume: Volume, seed: int | Sequence[int]) -> Volume:
        """A volume from `restore` or `translate_volume` with as much of the target's noise as it lacks, see `noise`.

        Args:
            volume: a translation, which is a mean.
            seed: of the noise, not negative; give each scan one of its own.

        Raises:
            InputError: the model does not know the noise.
        """
        return self.noise.add(volume, np.random.default_rng(seed))[0]

    def array_with_noise(self, array: np.ndarray, seed: int | Sequence[int]) -> np.ndarray:
        """The same for the result of `translate_array`, on [-1, 1], at the working spacing."""
        scan = Volume(intensity.invert(array, self.target_intensity), np.diag([*self.data["spacing_mm"], 1.0]))
        return intensity.apply(self.with_noise(scan, seed).array, self.target_intensity)

    def restore_doubt(self, array: np.ndarray, steps: list[dict]) -> Volume:
        """Bring the result of `doubt` onto the grid of the scan, in the target's intensities; what was cropped is 0."""
        return restore(array - 1, steps, intensity.of_differences(self.target_intensity))

    def translate_volume(self, volume: Volume, progress: Progress | None = None) -> Volume:
        """Translate a scan of the source domain in any orientation and spacing.

        Returns:
            A volume with the scan's shape and affine and the target domain's intensities.

        Raises:
            InputError: see `prepare` and `translate_array`.
        """
        array, steps = self.prepare(volume)
        return self.restore(self.translate_array(array, progress), steps)


class _Graph:
    """Whole volumes through the generators of one architecture, of which the graph is made once; that takes seconds.

    Args:
        generator: whose variables get the weights that the graph is used with, from now on.
    """

    def __init__(self, generator) -> None:
        import tensorflow as tf

        from cyclescan.inference.whole_volume import WholeVolume

        self._generator = generator
        self._weights: list[np.ndarray] | None = None
        self._progress: Progress | None = None
        self._alone = threading.Lock()
        whole = WholeVolume(generator)
        specs = [tf.TensorSpec((None,) * 3, tf.float32), tf.TensorSpec((3,), tf.int32), tf.TensorSpec((), tf.float32)]

        @tf.function(input_signature=specs, autograph=False)
        def translate(volume, window, overlap):
            return whole(
                volume, window, overlap, lambda done, total: tf.numpy_function(self._report, [done, total], [])
            )

        self._translate = translate

    def run(self, weights, array, window, overlap, progress) -> np.ndarray:
        import tensorflow as tf

        with self._alone:
            if self._weights is not weights:
                self._generator.set_weights(weights)
                self._weights = weights
            self._progress = progress
            return self._translate(tf.constant(array), tf.constant(window), tf.constant(overlap, tf.float32)).numpy()

    def _report(self, done, total) -> None:
        if self._progress:
            self._progress(int(done), int(total))


# by architecture; both directions of a run have the same. The oldest goes, because each keeps a generator
_graphs: dict[str, _Graph] = {}
MOST_GRAPHS = 4


def network_of(generator) -> Network:
    """Return what translates scaled volumes; the generator is not to be used elsewhere any more."""
    described = json.loads(generator.to_json())["config"]
    described["name"] = ""  # the direction's
    architecture = json.dumps(described, sort_keys=True)
    if architecture not in _graphs:
        while len(_graphs) >= MOST_GRAPHS:
            del _graphs[next(iter(_graphs))]
        _graphs[architecture] = _Graph(generator)
    return functools.partial(_graphs[architecture].run, generator.get_weights())
