// Charts, drawn as SVG at the width there is, again when that or the run changes.
const FIGURES = {
  pcc_median: ["median PCC", 3], pcc_mean: ["mean PCC", 3], pcc_first_quartile: ["lower quartile PCC", 3],
  spearman_median: ["median Spearman", 3], pcc_section_median: ["median PCC by section", 3],
  pcc_patient_median: ["median PCC by patient", 3], pcc_smoothed_median: ["median PCC, smoothed", 3],
  ssim_median: ["median SSIM", 3], amae: ["aMAE (less is better)", 3], armse: ["aRMSE (less is better)", 3],
};
const TARGETS = { raw: "raw counts, log(1 + x)", library: "library-normalised, log" };
const charts = [];
let printing = 0;  // width of the paper, px; 0 on the screen

function chart(id, draw) {
  const figure = $(`#${id}`);
  const plot = $(".plot", figure);
  const entry = { width: 0, redraw: () => {
    const width = printing ? printing / (figure.closest(".pair") ? 2 : 1) : Math.floor(plot.clientWidth);
    if (width < 50) return;
    entry.width = width;
    plot.replaceChildren(...[draw(width)].flat().filter(Boolean));
  } };
  charts.push(entry);
  new ResizeObserver(() => { if (!printing && Math.floor(plot.clientWidth) !== entry.width) entry.redraw(); }).observe(plot);
  on("run", entry.redraw);
  return entry;
}

function canvas(width, height, label) {
  return svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
}

/** Room for names at the left of a chart, px. */
const nameWidth = (rows) => Math.min(320, Math.max(150, 36 + 7.4 * Math.max(...rows.map(([name]) => name.length))));

function text(x, y, content, attributes = {}) {
  return svg("text", { x, y, ...attributes }, content);
}

const linear = (low, high, from, to) => (value) => from + (value - low) / ((high - low) || 1) * (to - from);

function horizontalAxis(graph, scale, marks, top, bottom, title) {
  for (const mark of marks) {
    const x = scale(mark.value);
    graph.append(svg("line", { x1: x, x2: x, y1: top, y2: bottom, class: mark.value === 0 ? "zero" : "grid" }));
    graph.append(text(x, bottom + 18, mark.text, { "text-anchor": "middle" }));
  }
  if (title) graph.append(text(scale(marks[marks.length - 1].value), bottom + 36, title, { "text-anchor": "end" }));
}

function verticalAxis(graph, scale, marks, left, right) {
  for (const mark of marks) {
    const y = scale(mark.value);
    graph.append(svg("line", { x1: left, x2: right, y1: y, y2: y, class: mark.value === 0 ? "zero" : "grid" }));
    graph.append(text(left - 8, y + 4, mark.text, { "text-anchor": "end" }));
  }
}

// --- Each method with its interval -------------------------------------------------------------------------------
function drawMethods(width) {
  const target = $("#forest-target").value;
  const entries = Object.entries(current().targets[target] ?? current().methods);
  const rows = entries.map(([method, summary]) => [starred(method), summary, kindOfMethod(method)]);
  return drawForest(width, rows, $("#forest-figure").value);
}

/** The runs' models; the one the page is about stands out. */
function drawRuns(width) {
  const rows = page.runs.map((run) => [run.label, run.methods.model, run === current() ? "model" : "base"]);
  return drawForest(width, rows, $("#runs-figure").value);
}

/** A line for each [name, summary, kind]: "model" stands out, "ref" has a star. */
function drawForest(width, entries, figure) {
  const rows = entries.filter(([, summary]) => known(summary[figure]));
  const without = entries.filter(([, summary]) => !known(summary[figure])).map(([name]) => name);
  if (!rows.length) return element("p", { class: "fine" }, "None has this metric.");
  const ends = ([, summary]) => summary.intervals?.[figure] ?? [summary[figure], summary[figure]];
  const values = rows.flatMap((row) => [row[1][figure], ...ends(row)]).filter(known);
  const marks = ticks(Math.min(0, ...values), Math.max(...values) * 1.02, width < 500 ? 4 : 8);
  const stacked = width < 560;  // names above their line where they have no room beside it
  const names = stacked ? 0 : nameWidth(rows), right = 182, line = stacked ? 46 : 36, top = 6;
  const high = Math.max(marks[marks.length - 1].value, ...values), low = Math.min(marks[0].value, ...values);
  const scale = linear(low, high, names + 6, width - (stacked ? 12 : right));
  const bottom = top + rows.length * line;
  const graph = canvas(width, bottom + 42, `${FIGURES[figure][0]} of ${rows.map(([name, s]) => `${name} ${number(s[figure])}`).join(", ")}`);
  horizontalAxis(graph, scale, marks, top, bottom, FIGURES[figure][0]);
  rows.forEach(([name, summary, kind], index) => {
    const y = top + index * line + (stacked ? 32 : line / 2);
    const [from, to] = ends([name, summary]);
    const spread = to > from ? `${number(from)} to ${number(to)}` : "";
    graph.append(text(stacked ? 0 : names - 14, stacked ? y - 16 : y + 4.5, name, { "text-anchor": stacked ? "start" : "end", class: kind === "model" ? "name strong" : "name" }));
    if (spread) graph.append(svg("line", { x1: scale(from), x2: scale(to), y1: y, y2: y, class: kind, "stroke-width": 4, "stroke-linecap": "round", opacity: 0.45 }));
    graph.append(svg("circle", { cx: scale(summary[figure]), cy: y, r: kind === "model" ? 7 : 5.5, class: kind, "stroke-width": 2 }));
    const value = svg("text", { class: "over", x: stacked ? width : width - right + 24, y: stacked ? y - 16 : y + 4.5, "text-anchor": stacked ? "end" : "start" });
    value.append(svg("tspan", { class: "strong" }, number(summary[figure])), spread ? svg("tspan", { dx: 8 }, spread) : "");
    $("tspan", value).setAttribute("font-weight", kind === "model" ? 700 : 500);
    graph.append(value);
  });
  const star = rows.some(([, , kind]) => kind === "ref");
  const notes = [
    star && "* uses expression measured on the scored sections: a reference, not a rival.",
    without.length && `Without this metric: ${without.join(", ")} (a constant prediction has no correlation).`,
  ].filter(Boolean);
  return [graph, notes.length > 0 && element("p", { class: "fine" }, notes.join(" "))];
}

// --- Histogram of gene PCCs (BrST-Net, Figure 2) ------------------------------------------------------------------
function drawHistogram(width) {
  const model = current().genes.pcc.filter(known);
  const beside = $("#histogram-beside").value;
  const other = beside ? pccOf(beside).filter(known) : [], besideName = beside && page.methods[beside].label;
  if (!model.length) return element("p", { class: "fine" }, "No gene has a PCC.");
  const step = 0.05;
  const all = [...model, ...other];
  const low = Math.min(0, Math.floor(Math.min(...all) / step) * step), high = Math.min(1, Math.ceil(Math.max(...all) / step + 1e-9) * step);
  const bins = Math.max(1, Math.round((high - low) / step));
  const count = (values) => values.reduce((sums, v) => { sums[Math.min(bins - 1, Math.floor((v - low) / step + 1e-9))] += 1; return sums; }, Array(bins).fill(0));
  const [ours, theirs] = [count(model), count(other)];
  const left = 40, top = 22, height = 270, bottom = height - 44;
  const x = linear(low, low + bins * step, left, width - 8);
  const marks = ticks(0, Math.max(...ours, ...theirs), 5);
  const y = linear(0, Math.max(...ours, ...theirs, 1), bottom, top);
  const middle = median(model);
  const graph = canvas(width, height, `Histogram of ${model.length} genes' PCC; median ${number(middle)}`);
  verticalAxis(graph, y, marks, left, width - 8);
  horizontalAxis(graph, x, ticks(low, low + bins * step, width < 420 ? 5 : 8), bottom, bottom, "PCC of a gene");
  ours.forEach((n, i) => {
    const from = low + i * step;
    const bar = svg("rect", { x: x(from) + 1, width: Math.max(1, x(from + step) - x(from) - 2), y: y(n), height: bottom - y(n), class: "bar", rx: 1.5 });
    graph.append(hinted(bar, `PCC ${number(from, 2)} to ${number(from + step, 2)}\nmodel: ${n} genes${beside ? `\n${besideName}: ${theirs[i]}` : ""}`));
  });
  if (beside) {
    const path = theirs.map((n, i) => `L${x(low + i * step)},${y(n)}L${x(low + (i + 1) * step)},${y(n)}`).join("");
    graph.append(svg("path", { d: `M${x(low)},${bottom}${path}L${x(low + bins * step)},${bottom}`, class: "outline", "pointer-events": "none" }));
  }
  graph.append(svg("line", { x1: x(middle), x2: x(middle), y1: top - 6, y2: bottom, class: "median" }));
  const flip = x(middle) > width * 0.6;
  graph.append(text(x(middle) + (flip ? -6 : 6), top - 10, `median ${number(middle)}`, { class: "strong", "text-anchor": flip ? "end" : "start" }));
  return [graph, legend([["model", "var(--accent)"], ...(beside ? [[besideName, "transparent"]] : [])])];
}

function legend(entries) {
  return element("ul", { class: "legend" }, ...entries.map(([name, colour, faint]) => {
    const swatch = element("i", { "aria-hidden": "true" });
    swatch.style.background = colour;
    swatch.style.opacity = faint ? 0.45 : 1;
    return element("li", {}, swatch, name);
  }));
}

// --- Genes by band over methods and runs (BrST-Net, Figure 3) -----------------------------------------------------
const BANDS = ["0 or less", "0 to .1", ".1 to .3", ".3 to .5", "above .5", "no PCC"];

function bandsOf(summary) {
  const above = summary["genes_pcc_above_0"], some = summary["genes_pcc_0.1_to_0.3"], more = summary["genes_pcc_0.3_to_0.5"], most = summary["genes_pcc_above_0.5"];
  const none = summary.genes_without_pcc;
  return [summary.genes - none - above, above - some - more - most, some, more, most, none];
}

function drawBands(width) {
  const several = page.runs.length > 1;
  const rows = page.runs.map((run) => [several ? run.label : "model", run.methods.model, run === current()]);
  rows.push(...Object.entries(current().methods).filter(([method]) => method !== "model").map(([method, summary]) => [`${page.methods[method].label}${several ? `, ${current().label}` : ""}`, summary, false]));
  const usable = rows.filter(([, summary]) => known(summary.genes) && known(summary.genes_without_pcc));
  const stacked = width < 560;
  const names = stacked ? 0 : nameWidth(usable), line = stacked ? 48 : 36;
  const height = usable.length * line + 8;
  const graph = canvas(width, height, usable.map(([name, s]) => `${name}: ${bandsOf(s).map((n, i) => `${n} genes ${BANDS[i]}`).join(", ")}`).join(". "));
  usable.forEach(([name, summary, isModel], index) => {
    const top = index * line + (stacked ? 20 : 4), tall = 26;
    const x = linear(0, summary.genes || 1, names, width);
    graph.append(text(stacked ? 0 : names - 14, stacked ? top - 6 : top + 18, name, { class: isModel ? "name strong" : "name", "text-anchor": stacked ? "start" : "end" }));
    let from = 0;
    bandsOf(summary).forEach((n, band) => {
      if (n <= 0) return;
      const key = band === 5 ? "none" : band;
      const [left, right] = [x(from), x(from + n)];
      from += n;
      const bar = svg("rect", { x: left, y: top, width: Math.max(0.5, right - left - 1.5), height: tall, rx: 2 });
      bar.style.fill = `var(--band-${key})`;
      graph.append(hinted(bar, `${name}\nPCC ${BANDS[band]}: ${n} of ${summary.genes} genes`));
      if (right - left > 30) {
        const label = text((left + right) / 2, top + 17.5, n, { "text-anchor": "middle", "pointer-events": "none" });
        label.style.fill = `var(--on-band-${key})`;
        graph.append(label);
      }
    });
  });
  return [legend(BANDS.map((name, band) => [band === 5 ? name : `PCC ${name}`, `var(--band-${band === 5 ? "none" : band})`])), graph];
}

/** PCCs of another run, for the genes of this one. */
function pccOfRun(label) {
  const { genes } = page.runs.find((run) => run.label === label);
  const key = (table, row) => `${table.gene[row]}\t${table.ensembl_id[row]}`;
  const found = new Map(genes.gene.map((_, row) => [key(genes, row), genes.pcc[row]]));
  return current().genes.gene.map((_, row) => found.get(key(current().genes, row)) ?? null);
}

// --- Model against a baseline, a dot a gene -----------------------------------------------------------------------
function drawScatter(width) {
  const chosen = $("#scatter-against").value, against = page.methods[chosen]?.label ?? chosen;
  const theirs = chosen.startsWith("run ") ? pccOfRun(chosen.slice(4)) : chosen ? pccOf(chosen) : null;
  if (!theirs) return element("p", { class: "fine" }, "No baseline has a PCC for each gene.");
  const ours = current().genes.pcc;
  const rows = ours.map((_, row) => row).filter((row) => known(ours[row]) && known(theirs[row]));
  const values = rows.flatMap((row) => [ours[row], theirs[row]]);
  if (!values.length) return element("p", { class: "fine" }, "No gene has both PCCs.");
  const low = Math.min(0, ...values) - 0.03, high = Math.min(1, Math.max(...values) + 0.03);
  const left = 46, top = 22, side = 270, bottom = side - 44;
  const x = linear(low, high, left, width - 8), y = linear(low, high, bottom, top);
  const better = rows.filter((row) => ours[row] > theirs[row]).length;
  const graph = canvas(width, side, `PCC of each gene, model against ${against}: the model is better for ${better} of ${rows.length} genes`);
  verticalAxis(graph, y, ticks(low, high, 5), left, width - 8);
  horizontalAxis(graph, x, ticks(low, high, width < 420 ? 5 : 8), top, bottom, `PCC of ${against}`);
  graph.append(svg("line", { x1: x(low), y1: y(low), x2: x(high), y2: y(high), class: "median" }));
  graph.append(text(left, top - 10, `PCC of the model: better for ${better} of ${rows.length} genes`, { class: "strong" }));
  for (const row of [...rows.filter((each) => each !== state.gene), ...rows.filter((each) => each === state.gene)]) {
    const dot = svg("circle", { cx: x(theirs[row]), cy: y(ours[row]), r: row === state.gene ? 6.5 : 4, class: row === state.gene ? "dot chosen" : "dot" });
    dot.addEventListener("click", () => chooseGene(row));
    graph.append(hinted(dot, `${current().genes.gene[row]}\nmodel ${number(ours[row])}\n${against} ${number(theirs[row])}`));
  }
  return graph;
}

// --- Training curves ----------------------------------------------------------------------------------------------
function drawCurves(width) {
  const { train, epoch, best, steps_per_point: size } = current().log;
  if (!train.step.length && !epoch.step.length) return element("p", { class: "fine" }, "There is no training log in the work directory.");
  const last = Math.max(...train.step.filter(known), ...epoch.step.filter(known), 1);
  const left = 58, right = 10, panels = [
    { title: "loss", lines: [["step", train.step, train.loss, "accent", true], ["epoch", epoch.step, epoch.loss, "accent"], ["validation", epoch.step, epoch.val_loss, "reference"]], tall: 190 },
    { title: "validation: median PCC", lines: [["median PCC", epoch.step, epoch.val_pcc_median, "reference"]], tall: 120, marks: true },
    { title: "learning rate", lines: [["learning rate", train.step, train.learning_rate, "baseline"]], tall: 100 },
  ].map((panel) => ({ ...panel, lines: panel.lines.filter(([, , values]) => values.some(known)) })).filter((panel) => panel.lines.length);
  const height = panels.reduce((sum, panel) => sum + panel.tall + 34, 0) + 30;
  const graph = canvas(width, height, `Training curves over ${last} steps: ${panels.map((panel) => panel.title).join(", ")}`);
  const x = linear(0, last, left, width - right);
  let top = 22;
  panels.forEach((panel, index) => {
    const bottom = top + panel.tall;
    const values = panel.lines.flatMap(([, , each]) => each).filter(known);
    const [low, high] = [Math.min(...values, panel.title === "learning rate" ? 0 : Infinity), Math.max(...values)];
    const y = linear(low - (high - low) * 0.04, high + (high - low) * 0.04 || high + 1e-9, bottom, top + 4);
    verticalAxis(graph, y, ticks(low, high, panel.tall > 150 ? 5 : 3), left, width - right);
    graph.append(text(0, top - 8, panel.title, { class: "strong" }));
    for (const [name, steps, each, colour, faint] of panel.lines) {
      const points = steps.map((step, i) => [step, each[i]]).filter(([step, value]) => known(step) && known(value));
      const line = svg("path", { class: faint ? "line faint" : "line", d: points.map(([step, value], i) => `${i ? "L" : "M"}${x(step).toFixed(1)},${y(value).toFixed(1)}`).join("") });
      line.style.stroke = `var(--${colour})`;
      graph.append(line);
      if (faint || points.length > 120) continue;
      points.forEach(([step, value]) => {
        const chosen = best[epoch.step.indexOf(step)] && colour === "reference";
        const dot = svg("circle", { cx: x(step), cy: y(value), r: chosen ? 4 : 2.6 });
        dot.style.fill = `var(--${colour})`;
        graph.append(dot, hinted(svg("circle", { cx: x(step), cy: y(value), r: 9, class: "hit" }), `step ${step}\n${name} ${scientific(value)}${chosen ? "\nbest so far" : ""}`));
      });
    }
    top = bottom + 34;
    if (index === panels.length - 1) horizontalAxis(graph, x, ticks(0, last, width < 500 ? 4 : 8), bottom, bottom, "step");
  });
  const names = panels[0].lines.map(([name, , , colour, faint]) => [name, `var(--${colour})`, faint]);
  const note = size > 1 ? element("p", { class: "fine" }, `Steps are averages of ${size}.`) : null;
  return [graph, panels[0].title === "loss" ? legend(names) : null, note];
}

function startCharts() {
  const forest = chart("forest", drawMethods), histogram = chart("histogram", drawHistogram), scatter = chart("scatter", drawScatter);
  if (page.runs.length > 1) {
    const there = Object.keys(FIGURES).filter((key) => page.runs.some((run) => known(run.methods.model[key])));
    options($("#runs-figure"), there.map((key) => [key, FIGURES[key][0]]), "pcc_median");
    $("#runs-figure").addEventListener("change", chart("runs", drawRuns).redraw);
  }
  chart("bands", drawBands);
  chart("curves", drawCurves);
  const choices = () => {
    const there = Object.keys(FIGURES).filter((key) => Object.values(current().methods).some((summary) => known(summary[key])));
    options($("#forest-figure"), there.map((key) => [key, FIGURES[key][0]]), "pcc_median");
    const targets = Object.keys(current().targets);
    options($("#forest-target"), [["", "of the protocol"], ...targets.map((key) => [key, TARGETS[key] ?? key])], "");
    $("#forest-target-label").hidden = !targets.length;
    const others = baselines();
    const shown = others.map((method) => [method, starred(method)]);
    options($("#histogram-beside"), [["", "nothing"], ...shown], others[0] ?? "");
    const runs = page.runs.filter((run) => run !== current()).map((run) => [`run ${run.label}`, `run ${run.label}`]);
    options($("#scatter-against"), [...runs, ...shown], runs[0]?.[0] ?? others[0]);
  };
  choices();
  listeners.run.unshift(choices);
  for (const select of ["#forest-figure", "#forest-target"]) $(select).addEventListener("change", forest.redraw);
  $("#histogram-beside").addEventListener("change", histogram.redraw);
  $("#scatter-against").addEventListener("change", scatter.redraw);
  on("gene", scatter.redraw);
  const redraw = () => charts.forEach((each) => each.redraw());
  redraw();
  addEventListener("beforeprint", () => { printing = 660; redraw(); });
  addEventListener("afterprint", () => { printing = 0; redraw(); });
}
