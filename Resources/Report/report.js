/* The report's own script: slices with niivue, their controls, the table of regions. No library but niivue. */
(function () {
  "use strict";
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const NONE = { R: [0, 0], G: [0, 0], B: [0, 0], A: [0, 0], I: [0, 255] };
  const state = { map: 0, sign: "both", opacity: 0.85, fraction: 0, viewer: null, index: null, ready: false };

  // ------------------------------------------------------------------------------------------------------- numbers

  function short(value) {
    if (value === 0) return "0";
    const size = Math.abs(value);
    return size >= 1e-3 && size < 1e4 ? String(Number(value.toPrecision(3))) : value.toExponential(2);
  }

  function signed(value) {
    return (value > 0 ? "+" : value < 0 ? "−" : "") + Math.round(Math.abs(value));
  }

  // -------------------------------------------------------------------------------------------------------- slices

  function stops(colours, alpha) {
    // The lowest of 256 entries is what lies below the threshold: transparent.
    const at = [0, ...colours.map((_, i) => 1 + Math.round((254 * i) / (colours.length - 1)))];
    const channel = (c) => [colours[0], ...colours].map((colour) => Math.round(255 * colour[c]));
    return { R: channel(0), G: channel(1), B: channel(2), A: [0, ...colours.map(() => alpha)], I: at };
  }

  function hasWebGL2() {
    try {
      return Boolean(document.createElement("canvas").getContext("webgl2"));
    } catch (_) {
      return false;
    }
  }

  /* Without a graphics card the fourth picture, in 3D, would make every click wait for seconds. */
  function drawsInSoftware() {
    const gl = document.createElement("canvas").getContext("webgl2");
    const about = gl && gl.getExtension("WEBGL_debug_renderer_info");
    return /swiftshader|llvmpipe|software/i.test(about ? gl.getParameter(about.UNMASKED_RENDERER_WEBGL) : "");
  }

  function bytesOf(id) {
    return byId(id).textContent.trim();
  }

  async function load(id, options) {
    return niivue.NVImage.loadFromBase64(Object.assign({ base64: bytesOf(id), name: id + ".nii.gz" }, options));
  }

  async function showSlices() {
    const viewer = new niivue.Niivue({
      backColor: [0, 0, 0, 1], crosshairColor: [0.35, 0.85, 0.4, 1], crosshairWidth: 1, crosshairWidthUnit: "voxels",
      isRadiologicalConvention: true, multiplanarLayout: 2, multiplanarShowRender: drawsInSoftware() ? 0 : 1, multiplanarPadPixels: 4,
      dragAndDropEnabled: false, isColorbar: false, scrollRequiresFocus: true, logLevel: "error", crosshairGap: 4,
      atlasOutline: 0, isCornerOrientationText: false, sagittalNoseLeft: false, loadingText: ""
    });
    await viewer.attachToCanvas(byId("slices"));
    viewer.addColormap("ad-positive", stops(data.colours.positive, 255));
    viewer.addColormap("ad-negative", stops(data.colours.negative, 255));
    viewer.addColormap("ad-none", NONE);
    viewer.addVolume(await load("volume-scan", { colormap: "gray", cal_min: 0, cal_max: 255, colorbarVisible: false }));
    viewer.addVolume(await load("volume-map-0", overlayOptions(0)));
    if (data.hasLabels) {
      state.index = await load("volume-labels", { opacity: 0 });
      const outline = await load("volume-labels", { opacity: 1 });
      outline.setColormapLabel({ R: [0, 255], G: [0, 0], B: [0, 255], A: [0, 255], I: [0, 1], labels: ["", "chosen"] });
      state.outline = outline;
      outlineRegion(0);
      viewer.addVolume(outline);
      viewer.setAtlasOutline(1);
    }
    viewer.onLocationChange = showPlace;
    state.viewer = viewer;
    state.ready = true;
    applyDisplay();
    viewer.setSliceType(Number(byId("planes").value));
  }

  function overlayOptions(number) {
    const map = data.maps[number];
    return { colormap: "ad-positive", colormapNegative: "ad-negative", cal_min: map.threshold, cal_max: map.maximum,
      cal_minNeg: -map.threshold, cal_maxNeg: -map.maximum, opacity: state.opacity, colorbarVisible: false };
  }

  /* The chosen region's border, one voxel thick, so that the map within it stays to be seen; in a colour that no map has. */
  function outlineRegion(place) {
    if (!state.outline) return;
    const labels = state.index.img, border = state.outline.img;
    const [, columns, rows] = state.index.hdr.dims;
    const steps = [1, columns, columns * rows];
    border.fill(0);
    for (let i = labels.indexOf(place); place > 0 && i >= 0 && i < labels.length; i++) {
      if (labels[i] === place && steps.some((s) => labels[i - s] !== place || labels[i + s] !== place)) border[i] = 1;
    }
  }

  async function chooseMap(number) {
    state.map = number;
    for (const body of document.querySelectorAll("tbody[data-map]")) body.hidden = Number(body.dataset.map) !== number;
    byId("signs").disabled = !data.maps[number].signed;
    byId("quantity").textContent = data.maps[number].quantity;
    state.fraction = data.maps[number].threshold / data.maps[number].maximum;
    byId("threshold").value = String(state.fraction);
    filterRows();
    if (!state.ready) return;
    const viewer = state.viewer;
    const added = await load("volume-map-" + number, overlayOptions(number));
    if (state.map !== number) return;
    const before = viewer.volumes[1];
    viewer.volumes[1] = added;
    viewer.overlays[0] = added;
    if (before !== added) viewer.mediaUrlMap && viewer.mediaUrlMap.delete(before);
    applyDisplay();
    viewer.createOnLocationChange();
  }

  function applyDisplay() {
    const map = data.maps[state.map];
    const threshold = Math.min(state.fraction, 0.999) * map.maximum;
    byId("threshold-value").textContent = short(threshold);
    byId("opacity-value").textContent = Math.round(100 * state.opacity) + " %";
    drawLegend(threshold, map);
    if (!state.ready) return;
    const overlay = state.viewer.volumes[1];
    overlay.colormap = state.sign === "negative" ? "ad-none" : "ad-positive";
    overlay.colormapNegative = state.sign === "positive" ? "ad-none" : "ad-negative";
    // A threshold of 0 would colour the empty background.
    overlay.cal_min = Math.max(threshold, map.step / 2);
    overlay.cal_max = map.maximum;
    overlay.cal_minNeg = -overlay.cal_min;
    overlay.cal_maxNeg = -map.maximum;
    overlay.opacity = byId("shown").checked ? state.opacity : 0;
    state.viewer.updateGLVolume();
  }

  function drawLegend(threshold, map) {
    const bar = byId("colours");
    const pen = bar.getContext("2d");
    const both = map.signed && state.sign === "both";
    const css = (c) => "rgb(" + c.map((v) => Math.round(255 * v)).join(" ") + ")";
    const ramp = (colours, from, to) => {
      const gradient = pen.createLinearGradient(from, 0, to, 0);
      colours.forEach((c, i) => gradient.addColorStop(i / (colours.length - 1), css(c)));
      pen.fillStyle = gradient;
      pen.fillRect(Math.min(from, to), 0, Math.abs(to - from), bar.height);
    };
    pen.clearRect(0, 0, bar.width, bar.height);
    const middle = bar.width / 2;
    if (both) {
      ramp(data.colours.negative, middle - 6, 0);
      ramp(data.colours.positive, middle + 6, bar.width);
    } else {
      ramp(state.sign === "negative" ? data.colours.negative : data.colours.positive, 0, bar.width);
    }
    const minus = state.sign === "negative" ? "−" : "";
    byId("legend-low").textContent = both ? "−" + short(map.maximum) : minus + short(threshold);
    byId("legend-high").textContent = minus + short(map.maximum);
    byId("legend-middle").textContent = both ? "transparent between ∓" + short(threshold) : "transparent below";
  }

  function valueAt(image, mm) {
    const voxel = image.mm2vox(mm);
    return image.getValue(voxel[0], voxel[1], voxel[2]);
  }

  function showPlace(place) {
    const mm = [place.mm[0], place.mm[1], place.mm[2]];
    const sides = [mm[0] < 0 ? "L" : "R", mm[1] < 0 ? "P" : "A", mm[2] < 0 ? "I" : "S"];
    const where = mm.map((v, i) => sides[i] + " " + Math.round(Math.abs(v))).join("  ");
    let text = where + " mm · relevance " + short(valueAt(state.viewer.volumes[1], mm));
    let name = "";
    if (state.index) {
      const number = Math.round(valueAt(state.index, mm));
      name = number > 0 ? data.regions[number - 1].name : "no region of the atlas";
    }
    byId("region-here").textContent = name;
    byId("place").textContent = text;
  }

  function moveTo(mm) {
    if (!state.ready) return;
    const viewer = state.viewer;
    viewer.scene.crosshairPos = viewer.mm2frac(mm);
    viewer.createOnLocationChange();
    viewer.drawScene();
  }

  // -------------------------------------------------------------------------------------------------------- regions

  function chooseRow(row) {
    for (const other of document.querySelectorAll("tr[aria-selected=true]")) other.setAttribute("aria-selected", "false");
    row.setAttribute("aria-selected", "true");
    outlineRegion(Number(row.dataset.index));
    if (state.ready && state.outline) state.viewer.updateGLVolume();
    moveTo(row.dataset.place.split(" ").map(Number));
  }

  function filterRows() {
    const wanted = byId("filter") ? byId("filter").value.trim().toLocaleLowerCase() : "";
    let shown = 0;
    for (const row of document.querySelectorAll('tbody[data-map="' + state.map + '"] tr')) {
      row.hidden = wanted !== "" && !row.dataset.name.toLocaleLowerCase().includes(wanted);
      shown += row.hidden ? 0 : 1;
    }
    if (byId("count")) byId("count").textContent = shown + (shown === 1 ? " region" : " regions");
  }

  function sortBy(head) {
    const column = head.cellIndex;
    const descending = head.getAttribute("aria-sort") === "ascending" ||
      (!head.hasAttribute("aria-sort") && head.dataset.first === "descending");
    for (const other of head.parentNode.children) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", descending ? "descending" : "ascending");
    const isText = head.classList.contains("text");
    for (const body of document.querySelectorAll("tbody[data-map]")) {
      const rows = Array.from(body.rows);
      const key = (row) => row.cells[column].dataset.value;
      rows.sort((a, b) => {
        const [x, y] = [key(a), key(b)];
        if (x === "" || y === "") return (x === "") - (y === ""); // missing ones last, either way
        const order = isText ? x.localeCompare(y) : Number(x) - Number(y);
        return descending ? -order : order;
      });
      body.append(...rows);
    }
  }

  function connectTable() {
    const table = byId("regions");
    if (!table) return;
    table.addEventListener("click", (event) => {
      const head = event.target.closest("th");
      if (head) return sortBy(head);
      const row = event.target.closest("tr[data-place]");
      if (row) chooseRow(row);
    });
    table.addEventListener("keydown", (event) => {
      const row = event.target.closest("tr[data-place]");
      if (!row) return;
      if (event.key === "Enter" || event.key === " ") chooseRow(row);
      else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
        let next = row;
        do next = event.key === "ArrowDown" ? next.nextElementSibling : next.previousElementSibling;
        while (next && next.hidden);
        if (next) next.focus();
      } else return;
      event.preventDefault();
    });
    byId("filter").addEventListener("input", filterRows);
  }

  // ------------------------------------------------------------------------------------------------------- controls

  const STEPS = { ArrowLeft: [1, 0, 0], ArrowRight: [-1, 0, 0], ArrowUp: [0, 0, 1], ArrowDown: [0, 0, -1],
    PageUp: [0, 1, 0], PageDown: [0, -1, 0] };

  function connectControls() {
    byId("map").addEventListener("change", (event) => chooseMap(Number(event.target.value)));
    byId("threshold").addEventListener("input", (event) => { state.fraction = Number(event.target.value); applyDisplay(); });
    byId("opacity").addEventListener("input", (event) => { state.opacity = Number(event.target.value); applyDisplay(); });
    byId("signs").addEventListener("change", (event) => { state.sign = event.target.value; applyDisplay(); });
    byId("shown").addEventListener("change", applyDisplay);
    byId("planes").addEventListener("change", (event) => state.viewer && state.viewer.setSliceType(Number(event.target.value)));
    byId("slices").addEventListener("keydown", (event) => {
      const step = STEPS[event.key];
      if (!step || !state.ready) return;
      event.preventDefault();
      event.stopPropagation();
      const mm = state.viewer.frac2mm(state.viewer.scene.crosshairPos);
      moveTo([mm[0] + step[0], mm[1] + step[1], mm[2] + step[2]]);
    }, true);
    window.addEventListener("beforeprint", () => {
      if (!state.ready) return;
      state.viewer.drawScene(); // what was drawn before is gone once the browser has shown it
      byId("printed").src = byId("slices").toDataURL("image/png");
    });
  }

  async function start() {
    connectTable();
    if (!data.maps.length) return;
    connectControls();
    chooseMap(0);
    applyDisplay();
    if (!hasWebGL2()) {
      document.body.classList.add("without");
      return;
    }
    try {
      await showSlices();
      const first = document.querySelector('tbody[data-map="0"] tr[data-place]');
      if (first) chooseRow(first);
      else state.viewer.createOnLocationChange();
    } catch (problem) {
      console.error("The slices cannot be shown:", problem);
      document.body.classList.add("without");
    }
    document.body.dataset.ready = "true";
  }

  window.adReport = { state, data }; // for whoever looks with the browser's tools, and for the tests
  start();
})();
