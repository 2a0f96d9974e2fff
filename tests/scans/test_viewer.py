"""The viewer: what it is given, and what a browser makes of it."""

import base64
import json
import re

import numpy as np
import pytest

from cyclescan.scans import viewer
from cyclescan.scans.viewer import Kind, Layer, Study
from tests import browser

SHAPE = (6, 10, 20)  # R, S, A
SPACING_MM = (5.0, 2.0, 1.5)
AFFINE = np.array([[5.0, 0, 0, -12], [0, 0, 1.5, -3], [0, 2.0, 0, 4], [0, 0, 0, 1]])
NAMES = {Kind.SOURCE: "CISS", Kind.TRANSLATION: "DESS, synthetic", Kind.TRUTH: "DESS, true"}


def volumes():
    """A ramp to the front, its reverse, and a truth that differs from this at one place."""
    ramp = np.broadcast_to(np.linspace(-0.8, 0.8, SHAPE[2]), SHAPE).astype(np.float32)
    truth = -ramp.copy()
    truth[4, 7, 15] += 0.4
    return ramp, -ramp, truth


def study(title="CISS to DESS"):
    source, translation, truth = volumes()
    doubt, mask = np.zeros(SHAPE, np.float32), np.zeros(SHAPE, np.float32)
    doubt[3], mask[4:, 7:9, 15:18] = 0.7, 1
    images = [Layer(kind, NAMES[kind], array) for kind, array in zip(NAMES, (source, translation, truth), strict=True)]
    more = [Layer(Kind.DOUBT, "uncertainty", doubt), Layer(Kind.OUTLINE, "lesion", mask)]
    return Study(title, AFFINE, [*images, *more])


def alone(shape=(4, 4, 4)):
    array = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
    return Study("one scan", np.diag([2.0, 1, 1, 1]), [Layer(Kind.SOURCE, "CT", array)])


def data_of(found):
    """What the script is given: its JSON with the voxels of each layer as arrays."""
    data = json.loads(re.search(r'data-control="data">(.*?)</script>', found.html, re.DOTALL)[1])
    for each in data["studies"]:
        for layer in each["layers"]:
            blob = base64.b64decode(data["voxels"][layer["voxels"]], validate=True)
            layer["array"] = np.frombuffer(blob, np.uint8).reshape(each["shape"])
    return data


def test_voxels_and_places_are_those_of_the_volumes():
    (about,) = data_of(viewer.embed([study()]))["studies"]
    for layer, given in zip(about["layers"], study().layers, strict=True):
        values = layer["low"] + layer["array"] / 255 * (layer["high"] - layer["low"])
        np.testing.assert_allclose(values, given.array, atol=1 / 255 + 1e-6)
    assert about["affine"] == AFFINE.tolist() and about["spacing_mm"] == list(SPACING_MM)
    assert about["error_limit"] == pytest.approx(0.1) and about["coarser_than_mm"] is None
    assert about["layers"][3]["limit"] == pytest.approx(0.7)


def test_a_volume_of_two_studies_travels_once_and_studies_beyond_the_budget_stay_behind():
    one, other = study(), study("the same again")
    data = data_of(viewer.embed([one, other, alone()]))
    assert len(data["studies"]) == 3 and len(data["voxels"]) == 6
    voxels = 4 * int(np.prod(SHAPE)) // 3 * 5
    assert viewer.embed([one, other, alone()], budget=voxels + 40).shown == 2
    assert viewer.embed([alone((16, 16, 16)), one], budget=6000).shown == 1


def test_what_does_not_fit_is_averaged_and_stays_in_its_place():
    given = alone((7, 16, 16))
    (about,) = data_of(viewer.embed([given], budget=700))["studies"]
    assert about["shape"] == [7, 8, 8] and about["spacing_mm"] == [2, 2, 2] and about["coarser_than_mm"] == [2, 1, 1]
    mean = given.layers[0].array.reshape(7, 8, 2, 8, 2).mean(axis=(2, 4))
    np.testing.assert_allclose(about["layers"][0]["array"] / 127.5 - 1, mean, atol=0.005)
    # the middle of the first block of 1 x 2 x 2 voxels
    np.testing.assert_allclose(np.array(about["affine"]) @ [0, 0, 0, 1], given.affine @ [0, 0.5, 0.5, 1])
    ends = viewer._means(np.arange(5.0).reshape(5, 1, 1), np.array([2, 1, 1]))
    assert ends.ravel().tolist() == [0.5, 2.5, 4.0]  # the last voxel fills its block


def test_layers_of_one_grid_with_an_image():
    source = volumes()[0]
    for layers in (
        [],
        [Layer(Kind.DOUBT, "d", source)],
        [Layer(Kind.SOURCE, "a", source), Layer(Kind.TRUTH, "b", source[1:])],
    ):
        with pytest.raises(ValueError, match="layers of one shape"):
            Study("x", AFFINE, layers)
    with pytest.raises(ValueError, match="needs a study"):
        viewer.embed([])


QUESTION = """(window, document) => {
  const find = (name) => document.querySelector(`[data-control="${name}"]`);
  const canvases = Object.fromEntries([...document.querySelectorAll(".viewer-plane")].map(
    (box) => [box.dataset.plane, box.querySelector("canvas")]));
  const set = (control, value, kind = "input") => {
    if (control.type === "checkbox") control.checked = value; else control.value = value;
    control.dispatchEvent(new window.Event(kind, { bubbles: true }));
  };
  const pixels = (name) => {
    const canvas = canvases[name], copy = new window.OffscreenCanvas(canvas.width, canvas.height);
    const context = copy.getContext("2d", { willReadFrequently: true });
    context.drawImage(canvas, 0, 0);
    return context.getImageData(0, 0, canvas.width, canvas.height);
  };
  const pixel = (name, x, y) => {
    const image = pixels(name), at = 4 * (Math.floor(y * image.height) * image.width + Math.floor(x * image.width));
    return [...image.data.slice(at, at + 3)];
  };
  // where the two lines of the cross are, as shares of width and height
  const cross = (name) => {
    const image = pixels(name), columns = new Array(image.width).fill(0), rows = new Array(image.height).fill(0);
    for (let y = 0; y < image.height; y++) for (let x = 0; x < image.width; x++) {
      const at = 4 * (y * image.width + x);
      const colour = image.data.slice(at, at + 3).join();
      if (colour === "255,213,79") { columns[x]++; rows[y]++; }
    }
    const most = (counts) => (counts.indexOf(Math.max(...counts)) + 0.5) / counts.length;
    return [most(columns), most(rows)];
  };
  const crosses = () => Object.fromEntries(Object.keys(canvases).map(
    (name) => [name, { at: cross(name), mm: canvases[name].dataset.mm.split(" ").map(Number) }]));
  const pointer = (name, kind, x, y, more = {}) => {
    const box = canvases[name].getBoundingClientRect();
    canvases[name].dispatchEvent(new window.PointerEvent(kind, {
      clientX: box.left + x * box.width, clientY: box.top + y * box.height, pointerId: 1, bubbles: true, ...more }));
  };
  const send = (name, event) => canvases[name].dispatchEvent(event);
  const key = (name, key) => send(name, new window.KeyboardEvent("keydown", { key, cancelable: true }));
  const answer = { overflow: document.documentElement.scrollWidth - window.innerWidth };
  answer.aspects = Object.values(canvases).map((canvas) => canvas.clientHeight / canvas.clientWidth);
  answer.start = crosses();
  answer.named = [...document.querySelectorAll("#viewer input, #viewer select, #viewer canvas, #viewer button")].map(
    (each) => (each.getAttribute("aria-label") || [...(each.labels || [])].map((l) => l.textContent).join("")
      || each.textContent).trim());
  answer.smallest = Math.min(...[...document.querySelectorAll("#viewer label, #viewer p")].map(
    (each) => parseFloat(window.getComputedStyle(each).fontSize)));
  // a place away from cross, letters and line
  const spots = () => [pixel("sagittal", 0.1, 0.2), pixel("sagittal", 0.9, 0.2)];
  set(find("outline"), false);
  answer.swiped = [0, 50, 100].map((value) => { set(find("swipe"), value); return spots(); });
  answer.swipe_said = find("swipe").getAttribute("aria-valuetext");
  pointer("sagittal", "pointerdown", 0.33, 0.33); pointer("sagittal", "pointerup", 0.33, 0.33);
  answer.clicked = crosses();
  key("axial", "PageUp"); key("coronal", "ArrowLeft"); key("coronal", "ArrowLeft");
  answer.keyed = crosses();
  set(canvases.coronal.parentElement.querySelector("input"), 3);
  answer.slid = crosses();
  const turn = () => send("sagittal", new window.WheelEvent("wheel", { deltaY: -100, cancelable: true }));
  turn();
  answer.passed = crosses().sagittal.mm;
  canvases.sagittal.focus(); turn();
  answer.turned = crosses();
  answer.said = find("values").textContent;
  set(find("error"), true); set(find("strength"), 100);
  key("sagittal", "Home");
  for (let i = 0; i < 5; i++) key("sagittal", "ArrowLeft");
  for (let i = 0; i < 2; i++) key("sagittal", "ArrowUp");
  key("sagittal", "PageUp");
  const where = [1 - 15.2 / 20, 1 - 7.2 / 10];
  answer.error = pixel("sagittal", ...where);
  answer.error_said = find("values").textContent;
  set(find("error"), false); set(find("doubt"), true); key("sagittal", "PageDown");
  answer.doubt = pixel("sagittal", 0.1, 0.2);
  key("sagittal", "PageUp");
  answer.no_doubt = pixel("sagittal", 0.1, 0.2);
  set(find("doubt"), false);
  const before = pixels("axial").data.join();
  set(find("outline"), true);
  answer.outlined = before !== pixels("axial").data.join();
  pointer("coronal", "pointerdown", 0.2, 0.2, { shiftKey: true });
  pointer("coronal", "pointermove", 0.1, 0.4, { shiftKey: true }); pointer("coronal", "pointerup", 0.1, 0.4);
  answer.window = [Number(find("window").value), Number(find("level").value)];
  set(find("level"), 1);
  answer.dark = spots();
  find("reset").click();
  answer.reset = [Number(find("window").value), Number(find("level").value)];
  set(find("swipe"), 50);
  pointer("axial", "pointerdown", 0.5, 0.5);
  pointer("axial", "pointermove", 0.25, 0.5); pointer("axial", "pointerup", 0.25, 0.5);
  answer.held = Number(find("swipe").value);
  const link = document.querySelector("a[data-study]");
  link.addEventListener("click", (event) => event.preventDefault()); // in a frame it leads to the parent's page
  link.click();
  answer.chosen = [find("study").value, find("values").textContent,
    [...document.querySelectorAll("#viewer [data-shown]")].filter((each) => each.offsetParent).length];
  return answer;
}"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """One start of the browser for both widths and everything that is asked."""
    found = viewer.embed([study(), alone()])
    text = f"""<!DOCTYPE html><html lang="en"><meta charset="utf-8"><title>x</title>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'{found.policy}">
<meta name="viewport" content="width=device-width, initial-scale=1"><style>{found.style}</style>
<a href="#viewer" data-study="1">the other</a>{found.html}"""
    result, console = browser.asked(text, tmp_path_factory.mktemp("viewer"), QUESTION)
    assert console == []
    return result


def place(cross, plane):
    """The voxel (R, S, A) that a cross in a picture lies in; NaN where the picture does not say."""
    fixed, across, down = {"sagittal": (0, 2, 1), "coronal": (2, 0, 1), "axial": (1, 0, 2)}[plane]
    voxel = np.zeros(3)
    voxel[fixed] = np.nan
    for axis, share in zip((across, down), cross, strict=True):
        voxel[axis] = SHAPE[axis] - 1 - int(share * SHAPE[axis])
    return voxel


def voxel_of(crosses):
    """The one voxel that the crosses of all planes lie in, and say that they lie in."""
    said = [crosses[plane]["mm"] for plane in crosses]
    assert said[0] == pytest.approx(said[1]) and said[0] == pytest.approx(said[2])
    voxel = np.linalg.solve(AFFINE, [*said[0], 1])[:3].round(6)
    for plane, cross in crosses.items():
        drawn = place(cross["at"], plane)
        np.testing.assert_array_equal(drawn[~np.isnan(drawn)], voxel[~np.isnan(drawn)], err_msg=plane)
    return voxel.astype(int).tolist()


@pytest.mark.parametrize("width", [390, 1280])
def test_in_a_browser(answers, width):
    got = answers[width]
    assert got["overflow"] <= 0 and got["smallest"] >= 12
    mm = np.multiply(SHAPE, SPACING_MM)
    assert got["aspects"] == pytest.approx([mm[1] / mm[2], mm[1] / mm[0], mm[2] / mm[0]], abs=0.02)
    assert len(got["named"]) == 3 + 3 + 1 + 3 + 3 + 1 + 2 + 1 and all(got["named"])

    # the cross is at one place in all planes, whatever moved it
    assert voxel_of(got["start"]) == [5, 8, 16]  # the middle of what is outlined: 4.5, 7.5, 16
    assert voxel_of(got["clicked"]) == [5, 6, 13]
    assert voxel_of(got["keyed"]) == [5, 7, 13]  # up a slice; to the patient's right the volume ends
    assert voxel_of(got["slid"]) == [5, 7, 2]
    assert voxel_of(got["turned"]) == [4, 7, 2]
    assert got["passed"] == pytest.approx(got["slid"]["sagittal"]["mm"])  # the wheel scrolls the page until a click
    expected = (AFFINE @ [*voxel_of(got["turned"]), 1])[:3]
    signs = [ends[int(v >= 0)] for v, ends in zip(expected, ("LR", "PA", "IS"), strict=True)]
    told = ", ".join(f"{sign} {abs(value):.1f}" for sign, value in zip(signs, expected, strict=True))
    assert got["said"].startswith(f"{told} mm: CISS −0.63 · DESS, synthetic 0.63 · DESS, true 0.63")

    # the slider: the translation right of it, the source left; anterior, the ramp's bright end, is on the left
    all_right, half, all_left = got["swiped"]
    assert all_left[0][0] > 200 and all_left[1][0] < 60
    assert all_right[0][0] < 60 and all_right[1][0] > 200
    assert half[0] == all_left[0] and half[1] == all_right[1]
    assert got["swipe_said"] == "100 % CISS, the rest DESS, synthetic"
    assert got["held"] == pytest.approx(25, abs=2)

    # maps
    red, _, blue = got["error"]
    assert blue > red + 80  # translated minus truth is negative: too dark, blue
    assert "error −0.4" in got["error_said"]
    red, _, blue = got["doubt"]
    assert red > blue + 80 and np.ptp(got["no_doubt"]) == 0
    assert got["outlined"]

    # window and level
    assert got["window"][0] < 2 and got["window"][1] > 0 and got["reset"] == [2, 0]
    assert max(map(max, got["dark"])) < max(all_left[0])
    number, values, shown = got["chosen"]
    assert number == "1" and "CT" in values and shown == 0
