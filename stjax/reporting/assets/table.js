// The table of genes: sorted by its headers, searched, saved as CSV.
const COLUMNS = {
  gene: "gene", ensembl_id: "Ensembl id", pcc: "PCC", pcc_low: "from", pcc_high: "to", p_value: "p", p_holm: "p (Holm)", ceiling: "ceiling",
  pcc_of_ceiling: "of ceiling", spearman: "Spearman", pcc_smoothed: "smoothed", ssim: "SSIM", mae: "MAE", rmse: "RMSE",
  mean_expression: "mean expression", coverage: "coverage of intervals",
};
const order = { column: "pcc", ascending: false };

function columnTitle(name) {
  if (COLUMNS[name]) return COLUMNS[name];
  const method = Object.values(page.methods).find(({ column }) => column === name)?.label;
  return `PCC, ${method ?? name.slice("pcc_".length).replaceAll("_", " ")}`;
}

/** Columns with values, known ones first; errors of baselines are left to the CSV file. */
function columnsShown() {
  const genes = current().genes;
  const others = Object.keys(genes).filter((name) => !COLUMNS[name] && name.startsWith("pcc_"));
  const names = [...Object.keys(COLUMNS).slice(0, 9), ...others, ...Object.keys(COLUMNS).slice(9)];
  return names.filter((name) => genes[name]?.some((value) => typeof value === "string" ? value : known(value)));
}

const kindOf = (name) => name === "ensembl_id" ? "text id" : null;

function sortedRows() {
  const values = current().genes[order.column] ?? current().genes.gene;
  const sign = order.ascending ? 1 : -1;
  return values.map((_, row) => row).sort((a, b) => {
    const [x, y] = [values[a], values[b]];
    if (typeof x === "string") return sign * x.localeCompare(y, "en", { numeric: true });
    if (!known(x) || !known(y)) return (known(y) ? 1 : 0) - (known(x) ? 1 : 0) || a - b;  // what has no figure comes last
    return sign * (x - y) || a - b;
  });
}

function matches(row, words) {
  const { gene, ensembl_id: id } = current().genes;
  const text = `${gene[row]} ${id?.[row] ?? ""}`.toLowerCase();
  return words.every((word) => text.includes(word) || calledSo(row, word));
}

const wordsOf = (text) => text.toLowerCase().split(/[\s,;]+/).filter(Boolean);

function drawHead() {
  const row = element("tr", {}, ...columnsShown().map((name) => {
    const sorted = name === order.column;
    const button = element("button", { type: "button", "data-column": name }, columnTitle(name), element("span", { "aria-hidden": "true" }, sorted ? (order.ascending ? " ▲" : " ▼") : ""));
    return element("th", { scope: "col", "aria-sort": sorted ? (order.ascending ? "ascending" : "descending") : "none", class: kindOf(name) }, button);
  }));
  $("#gene-table thead").replaceChildren(row);
}

function cell(name, row) {
  const value = current().genes[name][row];
  if (name === "gene") {
    const button = element("button", { type: "button", "data-row": row, title: "Show its map", tabindex: "-1" }, value || current().genes.ensembl_id[row]);
    return element("th", isBelowFloor(row) ? { scope: "row", class: "below-floor", title: `PCC not shown to reach ${page.floor}` } : { scope: "row" }, button);
  }
  if (typeof value === "string") return element("td", { class: kindOf(name) }, value);
  if (name.startsWith("p_")) return element("td", {}, scientific(value));
  if (name !== "pcc") return element("td", {}, number(value));
  const bar = element("i");
  bar.style.width = `${Math.max(0, Math.min(1, value ?? 0)) * 100}%`;
  return element("td", {}, number(value), element("span", { class: "meter", "aria-hidden": "true" }, bar));
}

function drawRows() {
  const columns = columnsShown();
  // Several words that each are a gene's name are alternatives; otherwise all must match.
  const words = wordsOf($("#gene-search").value);
  const names = current().genes.gene.map((name) => name.toLowerCase());
  const list = words.length > 1 && words.every((word) => names.includes(word));
  const rows = sortedRows().filter((row) => list ? words.includes(names[row]) : matches(row, words));
  $("#gene-table tbody").replaceChildren(...rows.map((row) => element("tr", { class: row === state.gene ? "chosen" : null, "data-row": row }, ...columns.map((name) => cell(name, row)))));
  stopAt();
  $("#gene-count").textContent = words.length ? `${rows.length} of ${names.length} genes` : `${names.length} genes`;
}

/** One gene's button is a stop of the Tab key, so that the page goes on after it; arrows walk over the others. */
function stopAt(button) {
  $$("#gene-table tbody button[tabindex='0']").forEach((each) => each.setAttribute("tabindex", "-1"));
  (button ?? $("#gene-table tbody tr.chosen button") ?? $("#gene-table tbody button"))?.setAttribute("tabindex", "0");
}

function walk(event) {
  const buttons = $$("#gene-table tbody button"), place = buttons.indexOf(document.activeElement);
  const next = { ArrowDown: place + 1, ArrowUp: place - 1, Home: 0, End: buttons.length - 1 }[event.key];
  if (place < 0 || !buttons[next]) return;
  event.preventDefault();
  stopAt(buttons[next]);
  buttons[next].focus();
}

function saveCsv() {
  const genes = current().genes;
  const names = Object.keys(genes);
  const quoted = (value) => /[",\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value;
  const lines = sortedRows().map((row) => names.map((name) => quoted(String(genes[name][row] ?? ""))).join(","));
  const url = URL.createObjectURL(new Blob([[names.join(","), ...lines].join("\n") + "\n"], { type: "text/csv" }));
  const link = element("a", { href: url, download: `${current().label.replaceAll(/[^\w.-]+/g, "_")}_genes.csv` });
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

function startTable() {
  $("#gene-table thead").addEventListener("click", (event) => {
    const name = event.target.closest("button")?.dataset.column;
    if (!name) return;
    order.ascending = name === order.column ? !order.ascending : ["gene", "ensembl_id", "p_value", "p_holm", "mae", "rmse"].includes(name);
    order.column = name;
    drawHead();
    drawRows();
    $(`#gene-table thead [data-column="${CSS.escape(name)}"]`).focus();
  });
  $("#gene-table tbody").addEventListener("click", (event) => {
    const row = event.target.closest("button")?.dataset.row;
    if (row === undefined) return;
    chooseGene(Number(row));
    $("#maps").scrollIntoView();
    $("#panels").focus({ preventScroll: true });
  });
  $("#gene-table tbody").addEventListener("keydown", walk);
  $("#gene-search").addEventListener("input", drawRows);
  $("#gene-download").addEventListener("click", saveCsv);
  on("gene", () => {
    $$("#gene-table tbody tr").forEach((row) => row.classList.toggle("chosen", Number(row.dataset.row) === state.gene));
    stopAt();
  });
  on("run", () => { drawHead(); drawRows(); });
  drawHead();
  drawRows();
}
