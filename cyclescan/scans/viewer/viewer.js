"use strict";
// Linked planes of volumes. Voxels are bytes whose axes point to the patient's right, up and to the front (R, S, A), the
// last one fastest. Planes are drawn as radiologists look at them: superior up; anterior to the left in sagittal and up
// in axial planes; the patient's right on the left. So every axis of a picture runs against its axis of voxels.
(() => {
  const PLANES = {
    sagittal: { fixed: 0, across: 2, down: 1, letters: ["A", "P", "S", "I"], world: 0 },
    coronal: { fixed: 2, across: 0, down: 1, letters: ["R", "L", "S", "I"], world: 1 },
    axial: { fixed: 1, across: 0, down: 2, letters: ["R", "L", "A", "P"], world: 2 },
  };
  const ENDS = [["L", "R"], ["P", "A"], ["I", "S"]]; // of the x, y and z of RAS+, below and above 0
  const CROSS = "#ffd54f", LINE = "#2fd36b";
  const NEAR = 9; // pixels around the white line within which it is taken hold of

  const root = document.getElementById("viewer");
  const control = (name) => root.querySelector(`[data-control="${name}"]`);
  const data = JSON.parse(control("data").textContent);
  const decoded = new Map();
  const views = [...root.querySelectorAll(".viewer-plane")].map((box) => ({
    ...PLANES[box.dataset.plane],
    name: box.dataset.plane,
    box,
    canvas: box.querySelector("canvas"),
    slider: box.querySelector("input"),
    said: box.querySelector("output"),
  }));
  let study, position, level, width;

  function bytes(number) {
    if (!decoded.has(number)) {
      const text = atob(data.voxels[number]);
      const found = new Uint8Array(text.length);
      for (let i = 0; i < text.length; i++) found[i] = text.charCodeAt(i);
      decoded.set(number, found);
    }
    return decoded.get(number);
  }

  const layer = (kind) => study.layers.find((each) => each.kind === kind);
  const images = () => study.layers.filter((each) => ["source", "translation", "truth"].includes(each.kind));
  const valueOf = (each, at) => each.low + (bytes(each.voxels)[at] / 255) * (each.high - each.low);
  const offset = (at) => (at[0] * study.shape[1] + at[1]) * study.shape[2] + at[2];
  const millimetres = (at) => study.affine.slice(0, 3).map((row) => row[0] * at[0] + row[1] * at[1] + row[2] * at[2] + row[3]);
  const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
  const number = (value, digits) => value.toFixed(digits).replace("-", "\u2212");

  function place(at, axis) {
    const mm = millimetres(at)[axis];
    return `${ENDS[axis][mm < 0 ? 0 : 1]} ${Math.abs(mm).toFixed(1)}`;
  }

  // ---- what is drawn ----

  // calls `paint(offset of the voxel, offset of the pixel)` for each pixel of a plane
  function eachPixel(view, paint) {
    const columns = study.shape[view.across], rows = study.shape[view.down], at = [0, 0, 0];
    at[view.fixed] = position[view.fixed];
    for (let y = 0; y < rows; y++) {
      at[view.down] = rows - 1 - y;
      for (let x = 0; x < columns; x++) {
        at[view.across] = columns - 1 - x;
        paint(offset(at), y * columns + x);
      }
    }
  }

  function picture(view, colour) {
    const canvas = document.createElement("canvas");
    canvas.width = study.shape[view.across];
    canvas.height = study.shape[view.down];
    const context = canvas.getContext("2d");
    const pixels = context.createImageData(canvas.width, canvas.height);
    const values = new Uint32Array(pixels.data.buffer); // alpha, blue, green, red from the highest byte down
    eachPixel(view, (from, to) => { values[to] = colour(from); });
    context.putImageData(pixels, 0, 0);
    return canvas;
  }

  const rgba = (red, green, blue, alpha) => ((Math.round(alpha) << 24) | (blue << 16) | (green << 8) | red) >>> 0;

  function greyOf(each) {
    const found = bytes(each.voxels), table = new Uint32Array(256);
    for (let i = 0; i < 256; i++) {
      const value = each.low + (i / 255) * (each.high - each.low);
      const grey = Math.round(255 * clamp((value - level) / width + 0.5, 0, 1));
      table[i] = rgba(grey, grey, grey, 255);
    }
    return (at) => table[found[at]];
  }

  function errorColour(strength) {
    const made = layer("translation"), truth = layer("truth");
    return (at) => {
      const share = clamp((valueOf(made, at) - valueOf(truth, at)) / study.error_limit, -1, 1);
      return share > 0 ? rgba(255, 42, 26, 255 * strength * share) : rgba(33, 102, 255, -255 * strength * share);
    };
  }

  function doubtColour(strength) {
    const doubt = layer("doubt");
    return (at) => rgba(255, 217, 47, 255 * strength * clamp(valueOf(doubt, at) / doubt.limit, 0, 1));
  }

  function drawOutline(view, context, stepX, stepY) {
    const columns = study.shape[view.across], rows = study.shape[view.down];
    const mask = layer("outline"), inside = new Uint8Array(columns * rows);
    eachPixel(view, (from, to) => { inside[to] = valueOf(mask, from) >= 0.5 ? 1 : 0; });
    context.beginPath();
    for (let y = 0; y <= rows; y++) {
      for (let x = 0; x <= columns; x++) {
        const here = x < columns && y < rows ? inside[y * columns + x] : 0;
        const before = x > 0 && y < rows ? inside[y * columns + x - 1] : 0;
        const above = y > 0 && x < columns ? inside[(y - 1) * columns + x] : 0;
        if (here !== before) { context.moveTo(x * stepX, y * stepY); context.lineTo(x * stepX, (y + 1) * stepY); }
        if (here !== above) { context.moveTo(x * stepX, y * stepY); context.lineTo((x + 1) * stepX, y * stepY); }
      }
    }
    context.strokeStyle = LINE;
    context.lineWidth = 2 * (window.devicePixelRatio || 1);
    context.stroke();
  }

  function text(context, words, x, y, align, baseline, colour, size) {
    context.font = `600 ${size}px system-ui, sans-serif`;
    context.textAlign = align;
    context.textBaseline = baseline;
    context.lineWidth = size / 4;
    context.strokeStyle = "#000";
    context.strokeText(words, x, y);
    context.fillStyle = colour;
    context.fillText(words, x, y);
  }

  const compared = () => images().length > 1;
  const swipe = () => (compared() ? Number(control("swipe").value) / 100 : 1);

  function draw(view) {
    const { canvas } = view, sharp = window.devicePixelRatio || 1;
    const across = study.shape[view.across] * study.spacing_mm[view.across];
    const down = study.shape[view.down] * study.spacing_mm[view.down];
    canvas.width = Math.max(1, Math.round(canvas.clientWidth * sharp));
    canvas.height = Math.max(1, Math.round((canvas.width * down) / across)); // a millimetre is as long both ways
    const context = canvas.getContext("2d"), w = canvas.width, h = canvas.height, split = Math.round(swipe() * w);
    const stepX = w / study.shape[view.across], stepY = h / study.shape[view.down];
    const shown = [layer(control("left").value), layer(control("right").value)];
    context.drawImage(picture(view, greyOf(shown[0])), 0, 0, w, h);
    if (compared()) {
      context.save();
      context.beginPath();
      context.rect(split, 0, w - split, h);
      context.clip();
      context.drawImage(picture(view, greyOf(shown[1])), 0, 0, w, h);
      context.restore();
    }
    const strength = Number(control("strength").value) / 100;
    if (layer("doubt") && control("doubt").checked) context.drawImage(picture(view, doubtColour(strength)), 0, 0, w, h);
    if (study.error_limit && control("error").checked) context.drawImage(picture(view, errorColour(strength)), 0, 0, w, h);
    if (layer("outline") && control("outline").checked) drawOutline(view, context, stepX, stepY);
    drawMarks(view, context, w, h, split, stepX, stepY, sharp, shown);
  }

  function drawMarks(view, context, w, h, split, stepX, stepY, sharp, shown) {
    if (compared() && split > 0 && split < w) {
      context.fillStyle = "#fff";
      context.fillRect(split - sharp, 0, 2 * sharp, h);
      context.beginPath();
      context.arc(split, h - 26 * sharp, 5 * sharp, 0, 2 * Math.PI);
      context.fill();
    }
    const x = Math.round((study.shape[view.across] - 0.5 - position[view.across]) * stepX);
    const y = Math.round((study.shape[view.down] - 0.5 - position[view.down]) * stepY), gap = 7 * sharp;
    context.fillStyle = CROSS;
    for (const [from, to] of [[0, x - gap], [x + gap, w]]) context.fillRect(from, y, Math.max(0, to - from), sharp);
    for (const [from, to] of [[0, y - gap], [y + gap, h]]) context.fillRect(x, from, sharp, Math.max(0, to - from));
    const size = 13 * sharp, edge = 4 * sharp;
    text(context, view.letters[0], edge, h / 2, "left", "middle", CROSS, size);
    text(context, view.letters[1], w - edge, h / 2, "right", "middle", CROSS, size);
    text(context, view.letters[2], w / 2, edge, "center", "top", CROSS, size);
    text(context, view.letters[3], w / 2, h - edge, "center", "bottom", CROSS, size);
    const small = 11.5 * sharp;
    if (split > 0) text(context, shown[0].name, edge, edge, "left", "top", "#fff", small);
    // below, where the two names do not meet in a narrow plane
    if (split < w) text(context, shown[1].name, w - edge, h - edge, "right", "bottom", "#fff", small);
  }

  // ---- what is said ----

  function say() {
    const at = offset(position), where = [0, 1, 2].map((axis) => place(position, axis)).join(", ");
    const parts = images().map((each) => `${each.name} ${number(valueOf(each, at), 2)}`);
    if (study.error_limit) {
      const error = valueOf(layer("translation"), at) - valueOf(layer("truth"), at);
      parts.push(`error ${error > 0 ? "+" : ""}${number(error, 2)}`);
    }
    if (layer("doubt")) parts.push(`uncertainty ${number(valueOf(layer("doubt"), at), 2)}`);
    control("values").textContent = `${where} mm: ${parts.join(" \u00b7 ")}`;
    for (const view of views) {
      const slice = position[view.fixed] + 1, many = study.shape[view.fixed];
      view.slider.max = many;
      view.slider.value = slice;
      view.said.textContent = `${place(position, view.world)} mm`;
      view.slider.setAttribute("aria-valuetext", `slice ${slice} of ${many}, ${place(position, view.world)} mm`);
      view.canvas.setAttribute("aria-label", `${view.name} plane, cross at ${where} mm`);
      view.canvas.dataset.mm = millimetres(position).join(" ");
    }
    for (const [name, value] of [["window", width], ["level", level]]) {
      control(name).value = value;
      control(name).nextElementSibling.textContent = number(value, 2);
    }
    const pair = ["left", "right"].map((side) => layer(control(side).value).name);
    control("swipe").setAttribute("aria-valuetext", `${Math.round(100 * swipe())} % ${pair[0]}, the rest ${pair[1]}`);
  }

  function show() {
    views.forEach(draw);
    say();
  }

  // ---- what is chosen ----

  function choose(index) {
    study = data.studies[index];
    control("study").value = index;
    position = startOf();
    for (const [side, kind] of [["left", "source"], ["right", "translation"]]) {
      const options = images().map((each) => new Option(each.name, each.kind));
      control(side).replaceChildren(...options);
      control(side).value = layer(kind) ? kind : images()[0].kind;
    }
    const there = {
      compare: compared(),
      error: Boolean(study.error_limit),
      doubt: Boolean(layer("doubt")),
      outline: Boolean(layer("outline")),
    };
    there.maps = there.error || there.doubt;
    for (const part of root.querySelectorAll("[data-shown]")) part.hidden = !there[part.dataset.shown];
    control("outline-name").textContent = there.outline ? layer("outline").name : "";
    if (there.error) legend("error", `\u2212${study.error_limit}`, `+${study.error_limit}`);
    if (there.doubt) legend("doubt", "0", `${layer("doubt").limit}`);
    const mm = (view) => study.shape[view.across] * study.spacing_mm[view.across];
    const columns = (some) => some.map((view) => `${mm(view)}fr`).join(" ");
    root.style.setProperty("--viewer-columns", columns(views));
    root.style.setProperty("--viewer-columns-small", columns(views.slice(1)));
    const [low, high] = study.limits;
    Object.assign(control("window"), { min: (high - low) / 50, max: high - low, step: (high - low) / 100 });
    Object.assign(control("level"), { min: low, max: high, step: (high - low) / 100 });
    const sizes = `${study.shape.join(" \u00d7 ")} voxels of ${study.spacing_mm.map((s) => Number(s.toPrecision(3))).join(" \u00d7 ")} mm`;
    const finer = study.coarser_than_mm && study.coarser_than_mm.map((s) => Number(s.toPrecision(3))).join(" \u00d7 ");
    control("grid").textContent = finer ? `${sizes}, averaged from ${finer} mm so that the page stays small.` : `${sizes}.`;
    reset();
  }

  function legend(name, first, last) {
    const ends = [first, last].map((words) => Object.assign(document.createElement("span"), { textContent: words }));
    root.querySelector(`[data-limit="${name}"]`).replaceChildren(...ends);
  }

  // the middle of what is outlined, else of the volume
  function startOf() {
    const mask = layer("outline"), middle = study.shape.map((n) => n >> 1);
    if (!mask) return middle;
    const sum = [0, 0, 0], found = bytes(mask.voxels);
    let total = 0;
    for (let i = 0; i < study.shape[0]; i++) {
      for (let j = 0; j < study.shape[1]; j++) {
        for (let k = 0; k < study.shape[2]; k++) {
          const share = found[offset([i, j, k])];
          total += share;
          sum[0] += share * i; sum[1] += share * j; sum[2] += share * k;
        }
      }
    }
    return total ? sum.map((each) => Math.round(each / total)) : middle;
  }

  function reset() {
    width = study.limits[1] - study.limits[0];
    level = (study.limits[0] + study.limits[1]) / 2;
    position = startOf();
    show();
  }

  function move(axis, by) {
    position[axis] = clamp(position[axis] + by, 0, study.shape[axis] - 1);
    show();
  }

  // ---- mouse, keys, controls ----

  function dragged(view, event, mode, start) {
    const box = view.canvas.getBoundingClientRect();
    const x = clamp((event.clientX - box.left) / box.width, 0, 1), y = clamp((event.clientY - box.top) / box.height, 0, 1);
    if (mode === "swipe") {
      control("swipe").value = 100 * x;
    } else if (mode === "window") {
      const range = study.limits[1] - study.limits[0];
      width = clamp(start.width + (range * (event.clientX - start.x)) / 300, range / 50, range);
      level = clamp(start.level + (range * (event.clientY - start.y)) / 300, ...study.limits);
    } else {
      const columns = study.shape[view.across], rows = study.shape[view.down];
      position[view.across] = clamp(columns - 1 - Math.floor(x * columns), 0, columns - 1);
      position[view.down] = clamp(rows - 1 - Math.floor(y * rows), 0, rows - 1);
    }
    show();
  }

  for (const view of views) {
    const { canvas } = view;
    let mode = null, start = null, turned = 0;
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("pointerdown", (event) => {
      const box = canvas.getBoundingClientRect(), split = box.left + swipe() * box.width;
      const held = compared() && Math.abs(event.clientX - split) < NEAR;
      mode = event.button === 2 || event.shiftKey ? "window" : held ? "swipe" : "cross";
      start = { x: event.clientX, y: event.clientY, width, level };
      if (event.isTrusted) canvas.setPointerCapture(event.pointerId); // a pointer made by a script cannot be held
      dragged(view, event, mode, start);
    });
    canvas.addEventListener("pointermove", (event) => { if (mode) dragged(view, event, mode, start); });
    for (const ending of ["pointerup", "pointercancel"]) canvas.addEventListener(ending, () => { mode = null; });
    canvas.addEventListener("wheel", (event) => {
      if (document.activeElement !== canvas) return; // whoever scrolls the page past a plane is not held up
      event.preventDefault();
      turned += event.deltaMode ? 100 * event.deltaY : event.deltaY;
      const steps = Math.trunc(turned / 40); // of a touchpad many small ones make one
      turned -= 40 * steps;
      if (steps) move(view.fixed, Math.sign(steps));
    }, { passive: false });
    canvas.addEventListener("keydown", (event) => {
      const keys = {
        ArrowLeft: [view.across, 1], ArrowRight: [view.across, -1], ArrowUp: [view.down, 1], ArrowDown: [view.down, -1],
        PageUp: [view.fixed, 1], PageDown: [view.fixed, -1],
      };
      if (event.key === "Home") position = study.shape.map((n) => n >> 1);
      else if (!(event.key in keys)) return;
      event.preventDefault();
      move(...(keys[event.key] || [0, 0]));
    });
    view.slider.addEventListener("input", () => { position[view.fixed] = Number(view.slider.value) - 1; show(); });
  }
  for (const name of ["swipe", "left", "right", "error", "doubt", "outline", "strength"]) {
    control(name).addEventListener("input", show);
  }
  control("window").addEventListener("input", () => { width = Number(control("window").value); show(); });
  control("level").addEventListener("input", () => { level = Number(control("level").value); show(); });
  control("reset").addEventListener("click", reset);
  control("study").addEventListener("change", () => choose(Number(control("study").value)));
  // elsewhere in the page, before or after the viewer: <a href="#viewer" data-study="2"> shows a study
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[data-study]");
    if (link) choose(Number(link.dataset.study));
  });
  choose(0);
  let drawnWidth = views[0].canvas.clientWidth;
  new ResizeObserver(() => {
    const now = views[0].canvas.clientWidth;
    if (now === drawnWidth) return; // a plane's height follows from its width, and is no news
    drawnWidth = now;
    requestAnimationFrame(() => views.forEach(draw));
  }).observe(root);
})();
