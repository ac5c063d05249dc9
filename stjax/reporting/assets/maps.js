// The map viewer: truth, prediction and their difference over the tissue, moved and zoomed together.
const VIEWS = { all: "All", truth: "Truth", prediction: "Prediction", difference: "Difference", interval: "Interval" };
const NAMES = { truth: "Measured", prediction: "Predicted", difference: "Predicted − measured", interval: "Width of the prediction interval" };
const SCALE_TITLES = { truth: "expression", prediction: "expression", difference: "difference of expression", interval: "width in expression" };
const viewer = { section: 0, view: "all", opacity: 0.85, size: 1, shared: true, grey: false, panels: [], values: {}, flat: {}, limits: {}, picture: null, camera: null, spot: -1, request: 0 };

const mapSections = () => current().sections ?? [];
const shownSection = () => mapSections()[viewer.section];
const mapPlace = () => current().mapped.indexOf(state.gene);

/** What can be shown of a section: all of it side by side, or one by one. */
function kindsOf(section) {
  const { truth, lower, upper } = section.layers;
  return [...(truth ? ["truth"] : []), "prediction", ...(truth ? ["difference"] : []), ...(lower && upper ? ["interval"] : [])];
}

function kindsShown() {
  const kinds = kindsOf(shownSection());
  return viewer.view === "all" ? kinds.filter((kind) => kind !== "interval") : [kinds.includes(viewer.view) ? viewer.view : "prediction"];
}

// --- What is drawn ------------------------------------------------------------------------------------------------
/** Unpacks the gene's values in the section; a later request overtakes an earlier one. */
async function loadValues() {
  const section = shownSection(), place = mapPlace(), request = ++viewer.request;
  if (!section) return;
  const names = Object.keys(section.layers);
  const [picture, ...layers] = await Promise.all([pictureOf(section), ...names.map((name) => place < 0 ? null : valuesOf(section.layers[name], place, section.ids.length))]);
  if (request !== viewer.request) return;
  const values = Object.fromEntries(names.map((name, i) => [name, layers[i] ?? new Float64Array(section.ids.length).fill(NaN)]));
  const flat = Object.fromEntries(names.map((name) => [name, section.layers[name].constant.includes(place)]));
  if (values.truth) {
    values.difference = values.prediction.map((value, spot) => value - values.truth[spot]);
    flat.difference = flat.truth && flat.prediction;
  }
  if (values.lower && values.upper) {
    values.interval = values.upper.map((value, spot) => value - values.lower[spot]);
    // Both ends are off by up to half a step of their own: a width that differs by less is the same everywhere.
    const step = (layer) => (layer.high[place] - layer.low[place]) / (2 ** page.bits - 2);
    const widths = values.interval.filter(Number.isFinite), low = widths.reduce((a, b) => Math.min(a, b), Infinity), high = widths.reduce((a, b) => Math.max(a, b), -Infinity);
    flat.interval = widths.length > 1 && high - low <= 1.01 * (step(section.layers.lower) + step(section.layers.upper));
    if (flat.interval) values.interval = values.interval.map((value) => Number.isNaN(value) ? value : (low + high) / 2);
  }
  Object.assign(viewer, { values, flat, picture });
  setLimits();
  describe();
  draw();
}

/** The ends of each colour scale: the middle 96 % of the values, so that single spots do not wash out the rest. */
function setLimits() {
  const { truth, prediction, difference, interval } = viewer.values;
  const ends = (...all) => {
    const values = all.flatMap((each) => [...each]);
    let [low, high] = [quantile(values, 0.02), quantile(values, 0.98)];
    if (!(high > low)) [low, high] = [quantile(values, 0), quantile(values, 1)];
    const half = high > low ? 0 : Math.abs(low) / 2 || 0.5;  // what does not vary has the colour in the middle
    return [low - half, high + half];
  };
  viewer.limits = {
    truth: truth && (viewer.shared ? ends(truth, prediction) : ends(truth)),
    prediction: viewer.shared && truth ? ends(truth, prediction) : ends(prediction),
    interval: interval && ends(interval),
  };
  if (difference) {
    const most = quantile(difference.map(Math.abs), 0.98) || 1e-9;
    viewer.limits.difference = [-most, most];
  }
}

function fit() {
  const section = shownSection();
  const [xs, ys] = [0, 1].map((axis) => section.xy.map((place) => place[axis]));
  const extent = (values) => [Math.min(...values), Math.max(...values)];
  const [[left, right], [top, bottom]] = [extent(xs), extent(ys)];
  const margin = section.diameter + 0.06 * Math.max(right - left, bottom - top, 1);
  const [wide, tall] = [right - left + 2 * margin, bottom - top + 2 * margin];
  viewer.aspect = Math.min(1.35, Math.max(0.72, tall / wide));
  // `span`: how many pixels of the picture the panel's width shows.
  viewer.camera = { x: (left + right) / 2, y: (top + bottom) / 2, span: Math.max(wide, tall / viewer.aspect) };
  viewer.fitted = { ...viewer.camera };
}

/** The radius a spot is drawn with: its own, or what can be seen when the panel shows all of the section. */
const radiusOf = (section) => viewer.size * Math.max(section.diameter, viewer.fitted.span / 130) / 2;

function draw() {
  cancelAnimationFrame(viewer.frame);
  viewer.frame = requestAnimationFrame(() => viewer.panels.forEach(drawPanel));
}

function drawPanel({ kind, canvas: target, bar }) {
  const section = shownSection(), values = viewer.values[kind], limits = viewer.limits[kind];
  const width = target.clientWidth, height = Math.round(width * viewer.aspect), ratio = Math.min(3, devicePixelRatio || 1);
  if (!width || !viewer.picture || !values || !limits) return;
  if (target.width !== Math.round(width * ratio) || target.height !== Math.round(height * ratio)) {
    target.width = Math.round(width * ratio);
    target.height = Math.round(height * ratio);
  }
  target.style.height = `${height}px`;
  const context = target.getContext("2d");
  const { x, y, span } = viewer.camera, zoom = width / span;
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  context.translate(width / 2, height / 2);
  context.scale(zoom, zoom);
  context.translate(-x, -y);
  context.imageSmoothingQuality = "high";
  context.drawImage(viewer.grey ? viewer.picture.grey : viewer.picture.colour, 0, 0, section.width, section.height);
  const scale = SCALES[kind === "difference" ? "difference" : "values"], radius = radiusOf(section);
  context.globalAlpha = viewer.opacity;
  section.xy.forEach(([left, top], spot) => {
    context.beginPath();
    context.arc(left, top, radius, 0, 2 * Math.PI);
    if (Number.isNaN(values[spot])) {
      context.lineWidth = 1 / zoom;
      context.strokeStyle = "#888";
      context.stroke();
      return;
    }
    const share = (values[spot] - limits[0]) / (limits[1] - limits[0]);
    context.fillStyle = scale[Math.round(255 * Math.min(1, Math.max(0, share)))];
    context.fill();
  });
  context.globalAlpha = 1;
  if (viewer.spot >= 0) {
    const [left, top] = section.xy[viewer.spot];
    for (const [colour, thick] of [["#000", 4.5], ["#fff", 2.2]]) {
      context.beginPath();
      context.arc(left, top, radius + 1.5 / zoom, 0, 2 * Math.PI);
      context.lineWidth = thick / zoom;
      context.strokeStyle = colour;
      context.stroke();
    }
  }
  drawScaleBar(bar, zoom);
}

function drawScaleBar(bar, zoom) {
  const size = shownSection().um_per_px;
  bar.hidden = !size;
  if (!size) return;
  const most = 90 * size / zoom, power = 10 ** Math.floor(Math.log10(most));
  const length = [5, 2, 1].find((each) => each * power <= most) * power;
  bar.firstChild.textContent = length >= 1000 ? `${length / 1000} mm` : `${length} µm`;
  bar.lastChild.style.width = `${length / size * zoom}px`;
}

// --- Panels and what is said of them ------------------------------------------------------------------------------
function buildPanels() {
  viewer.panels = kindsShown().map((kind) => {
    const target = element("canvas", { role: "img" });
    const bar = element("div", { class: "scalebar", "aria-hidden": "true" }, element("span"), element("i"));
    const strip = element("canvas", { width: 256, height: 1, "aria-hidden": "true" });
    const context = strip.getContext("2d");
    SCALES[kind === "difference" ? "difference" : "values"].forEach((colour, i) => {
      context.fillStyle = colour;
      context.fillRect(i, 0, 1, 1);
    });
    const ends = [element("span"), element("span")], note = element("em");
    const title = element("p", { class: "scale-title" }, `${SCALE_TITLES[kind]}, ${current().unit}`);
    const box = element("div", { class: "panel" }, element("h3", {}, NAMES[kind], note), element("div", { class: "frame" }, target, bar), element("div", { class: "scale" }, ends[0], strip, ends[1]), title);
    follow(target);
    return { kind, canvas: target, bar, box, ends, note };
  });
  $("#panels").replaceChildren(...viewer.panels.map(({ box }) => box));
  $("#panels").classList.toggle("single", viewer.panels.length === 1);
}

function describe() {
  const { genes, target: transform } = current(), row = state.gene, section = shownSection(), place = mapPlace();
  const name = genes.gene[row] || genes.ensembl_id[row];
  const facts = [["PCC", genes.pcc[row], genes.pcc_low && [genes.pcc_low[row], genes.pcc_high[row]]], [`in section ${section.name}`, section.pcc[place]]];
  for (const method of baselines()) facts.push([page.methods[method].label, pccOf(method)[row]]);
  for (const [title, key] of [["noise ceiling", "ceiling"], ["MAE", "mae"], ["mean expression", "mean_expression"]]) if (genes[key]) facts.push([title, genes[key][row]]);
  const doubtful = isBelowFloor(row);
  if (doubtful) facts.push(["believe it with care: its PCC is not shown to reach", page.floor]);
  $("#gene-facts").replaceChildren(element("span", { class: doubtful ? "gene-name below-floor" : "gene-name" }, name), ...facts.filter(([, value]) => known(value)).map(([title, value, ends]) =>
    element("span", {}, `${title} `, element("b", {}, number(value)), ends?.every(known) ? ` (${number(ends[0])} to ${number(ends[1])})` : "")),
    place < 0 ? element("span", {}, "This gene has no map in this file.") : "");
  for (const { kind, canvas: target, ends, note } of viewer.panels) {
    const limits = viewer.limits[kind] ?? [NaN, NaN];
    ends[0].textContent = number(limits[0], 2);
    ends[1].textContent = `${kind === "difference" && limits[1] > 0 ? "+" : ""}${number(limits[1], 2)}`;
    const flat = viewer.flat?.[kind] ? "does not vary" : "";
    note.textContent = flat && `: ${flat}`;
    target.setAttribute("aria-label", `${NAMES[kind]} expression of ${name} (${transform}) in section ${section.name}, ${section.ids.length} spots, ${flat || `colours from ${number(limits[0], 2)} to ${number(limits[1], 2)}`}`);
  }
  if (document.activeElement !== $("#map-gene")) $("#map-gene").value = name;
}

function spotText(spot) {
  const { values } = viewer, parts = [];
  if (values.truth) parts.push(["measured", values.truth[spot]]);
  parts.push(["predicted", values.prediction[spot]]);
  if (values.difference) parts.push(["difference", values.difference[spot]]);
  if (values.interval) parts.push(["interval from", values.lower[spot]], ["to", values.upper[spot]]);
  return parts.map(([name, value]) => `${name} ${number(value, 2)}`);
}

function point(spot, event = null) {
  if (spot !== viewer.spot) {
    viewer.spot = spot;
    draw();
    const id = spot < 0 ? "" : shownSection().ids[spot];
    $("#readout").replaceChildren(...(spot < 0 ? ["\u00a0"] : ["Spot ", element("b", {}, id), `: ${spotText(spot).join(", ")}`]));
  }
  hint(spot < 0 || !event ? null : [`spot ${shownSection().ids[spot]}`, ...spotText(spot)].join("\n"), event);
}

// --- Moving, zooming, pointing ------------------------------------------------------------------------------------
function placeOf(event, target) {
  const box = target.getBoundingClientRect(), { x, y, span } = viewer.camera, zoom = box.width / span;
  return [x + (event.clientX - box.left - box.width / 2) / zoom, y + (event.clientY - box.top - box.height / 2) / zoom];
}

/** Zooms by a factor; the place given stays where it is. */
function zoomBy(factor, [x, y] = [viewer.camera.x, viewer.camera.y]) {
  const camera = viewer.camera, span = Math.min(viewer.fitted.span * 4, Math.max(viewer.fitted.span / 40, camera.span / factor));
  const share = span / camera.span;
  viewer.camera = { x: x + (camera.x - x) * share, y: y + (camera.y - y) * share, span };
  draw();
}

function move(x, y) {
  viewer.camera.x += x;
  viewer.camera.y += y;
  draw();
}

function nearest([x, y]) {
  const section = shownSection(), radius = radiusOf(section) * 1.25;
  let [best, least] = [-1, radius * radius];
  section.xy.forEach(([left, top], spot) => {
    const distance = (left - x) ** 2 + (top - y) ** 2;
    if (distance <= least) [best, least] = [spot, distance];
  });
  return best;
}

function follow(target) {
  const pointers = new Map();
  target.addEventListener("pointerdown", (event) => {
    pointers.set(event.pointerId, event);
    target.setPointerCapture(event.pointerId);
  });
  target.addEventListener("pointermove", (event) => {
    const before = pointers.get(event.pointerId);
    if (!before) return point(nearest(placeOf(event, target)), event);
    const others = [...pointers.values()].filter((each) => each.pointerId !== event.pointerId);
    const zoom = target.clientWidth / viewer.camera.span;
    if (others.length) {
      const apart = (a) => Math.hypot(a.clientX - others[0].clientX, a.clientY - others[0].clientY) || 1;
      zoomBy(apart(event) / apart(before), placeOf(others[0], target));
    } else {
      move((before.clientX - event.clientX) / zoom, (before.clientY - event.clientY) / zoom);
    }
    pointers.set(event.pointerId, event);
  });
  for (const name of ["pointerup", "pointercancel"]) target.addEventListener(name, (event) => pointers.delete(event.pointerId));
  target.addEventListener("pointerleave", () => point(-1));
  target.addEventListener("dblclick", (event) => zoomBy(2, placeOf(event, target)));
  target.addEventListener("wheel", (event) => {
    if (!$("#panels").contains(document.activeElement) && !event.ctrlKey) return;
    event.preventDefault();
    zoomBy(Math.exp(-event.deltaY * 0.0016), placeOf(event, target));
  }, { passive: false });
}

function onKey(event) {
  const step = viewer.camera.span / 10, spots = shownSection().ids.length;
  const actions = {
    ArrowLeft: () => move(-step, 0), ArrowRight: () => move(step, 0), ArrowUp: () => move(0, -step), ArrowDown: () => move(0, step),
    "+": () => zoomBy(1.4), "=": () => zoomBy(1.4), "-": () => zoomBy(1 / 1.4), 0: () => { fit(); draw(); },
    "]": () => point((viewer.spot + 1) % spots), "[": () => point((viewer.spot + spots - (viewer.spot < 0 ? 0 : 1)) % spots),
  };
  if (event.ctrlKey || event.metaKey || event.altKey || !actions[event.key]) return;
  event.preventDefault();
  actions[event.key]();
}

// --- Choosing the gene --------------------------------------------------------------------------------------------
/** Rows of genes with maps, best first, that a text is part of; those that begin with it come first. */
function genesLike(typed) {
  const { gene, ensembl_id: id, pcc } = current().genes, wanted = typed.trim().toLowerCase();
  const rows = [...current().mapped].sort((a, b) => (pcc[b] ?? -2) - (pcc[a] ?? -2));
  const begins = (row) => gene[row].toLowerCase().startsWith(wanted);
  const found = rows.filter((row) => gene[row].toLowerCase().includes(wanted) || id[row].toLowerCase().includes(wanted) || calledSo(row, wanted));
  return [...found.filter(begins), ...found.filter((row) => !begins(row))];
}

function startPicker() {
  const input = $("#map-gene"), list = $("#gene-list");
  let rows = [], chosen = 0;
  const close = () => {
    list.hidden = true;
    input.setAttribute("aria-expanded", "false");
    input.removeAttribute("aria-activedescendant");
  };
  const mark = () => {
    $$("li", list).forEach((item, i) => item.setAttribute("aria-selected", String(i === chosen)));
    input.setAttribute("aria-activedescendant", `gene-option-${chosen}`);
    $$("li", list)[chosen]?.scrollIntoView({ block: "nearest" });
  };
  const open = (typed) => {
    const { gene, ensembl_id: id, pcc } = current().genes;
    rows = genesLike(typed).slice(0, 100);
    chosen = 0;
    list.replaceChildren(...rows.map((row, i) => element("li", { role: "option", id: `gene-option-${i}`, "data-row": row, "aria-selected": "false" }, gene[row] || id[row], element("span", {}, `PCC ${number(pcc[row])}`))));
    list.hidden = !rows.length;
    input.setAttribute("aria-expanded", String(rows.length > 0));
    if (rows.length) mark();
  };
  const take = (row) => {
    close();
    if (row !== undefined) chooseGene(row);
    input.value = current().genes.gene[state.gene];
    input.select();
  };
  input.addEventListener("focus", () => input.select());
  input.addEventListener("click", () => open(""));
  input.addEventListener("input", () => open(input.value));
  input.addEventListener("keydown", (event) => {
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      if (list.hidden) return open("");
      chosen = (chosen + (event.key === "ArrowDown" ? 1 : rows.length - 1)) % rows.length;
      mark();
    } else if (event.key === "Enter") {
      if (list.hidden) open(input.value);
      take(rows[chosen]);
    } else if (event.key === "Escape") {
      take(undefined);
    }
  });
  input.addEventListener("blur", () => { close(); describe(); });
  list.addEventListener("pointerdown", (event) => {
    event.preventDefault();  // the input keeps the focus
    const row = event.target.closest("li")?.dataset.row;
    if (row !== undefined) take(Number(row));
  });
  const step = (by) => {
    const all = genesLike(""), place = all.indexOf(state.gene);
    chooseGene(all[(place + by + all.length) % all.length]);
  };
  $("#gene-previous").addEventListener("click", () => step(-1));
  $("#gene-next").addEventListener("click", () => step(1));
}

// --- Start --------------------------------------------------------------------------------------------------------
function showSection() {
  fit();
  viewer.spot = -1;
  const kinds = kindsOf(shownSection());
  const views = kinds.length > 1 ? ["all", ...kinds] : kinds;
  if (!views.includes(viewer.view)) viewer.view = views[0];
  $("#map-view").replaceChildren(element("legend", {}, "View"), ...views.map((view) => element("label", {}, element("input", { type: "radio", name: "map-view", value: view, checked: view === viewer.view }), VIEWS[view])));
  buildPanels();
  loadValues();
}

function showRun() {
  const sections = mapSections();
  $("#viewer").hidden = !sections.length;
  $("#no-maps").hidden = sections.length > 0;
  if (!sections.length) return;
  viewer.section = Math.min(viewer.section, sections.length - 1);
  options($("#map-section"), sections.map((section, place) => [String(place), section.patient && section.patient !== section.name ? `${section.name} (patient ${section.patient})` : section.name]), String(viewer.section));
  showSection();
}

function startMaps() {
  if (!("DecompressionStream" in window)) {
    $("#old-browser").hidden = false;
    return;
  }
  viewer.view = innerWidth < 720 ? "prediction" : "all";
  startPicker();
  $("#map-section").addEventListener("change", (event) => { viewer.section = Number(event.target.value); showSection(); });
  $("#map-view").addEventListener("change", (event) => { viewer.view = event.target.value; buildPanels(); describe(); draw(); });
  $("#map-opacity").addEventListener("input", (event) => {
    viewer.opacity = Number(event.target.value) / 100;
    $("#map-opacity-value").textContent = `${event.target.value} %`;
    draw();
  });
  $("#map-size").addEventListener("input", (event) => {
    viewer.size = Number(event.target.value) / 100;
    $("#map-size-value").textContent = `${event.target.value} %`;
    draw();
  });
  $("#map-shared").addEventListener("change", (event) => { viewer.shared = event.target.checked; setLimits(); describe(); draw(); });
  $("#map-grey").addEventListener("change", (event) => { viewer.grey = event.target.checked; draw(); });
  $("#zoom-in").addEventListener("click", () => zoomBy(1.5));
  $("#zoom-out").addEventListener("click", () => zoomBy(1 / 1.5));
  $("#zoom-fit").addEventListener("click", () => { fit(); draw(); });
  $("#panels").addEventListener("keydown", onKey);
  new ResizeObserver(draw).observe($("#panels"));
  on("gene", () => { if (shownSection()) loadValues(); });
  on("run", showRun);
  showRun();
}
