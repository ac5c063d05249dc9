// What every part of the page shares: the data, the choice of run and gene, elements, numbers, the tooltip.
const page = JSON.parse(document.getElementById("data").textContent);
const state = { run: 0, gene: 0 };
const listeners = { run: [], gene: [], theme: [] };

const $ = (selector, root = document) => root.querySelector(selector);
const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];
const current = () => page.runs[state.run];

function on(event, listener) {
  listeners[event].push(listener);
}

function emit(event) {
  for (const listener of listeners[event]) listener();
}

/** Chooses a gene by its row in the table, for every part of the page. */
function chooseGene(row) {
  if (row === state.gene || row < 0 || row >= current().genes.gene.length) return;
  state.gene = row;
  emit("gene");
}

function element(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

function svg(name, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
}

/** Texts are added as text: nothing in the data is ever read as HTML. */
function fill(node, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

const known = (value) => typeof value === "number" && Number.isFinite(value);

/** A figure as people read it: a true minus sign, a dash for what does not exist. */
function number(value, decimals = 3) {
  if (!known(value)) return "–";
  return value.toFixed(decimals).replace("-", "−").replace(/^−(0(\.0*)?)$/, "$1");
}

function scientific(value) {
  if (!known(value)) return "–";
  if (value === 0) return "0";
  return Math.abs(value) >= 1e-3 && Math.abs(value) < 1e4 ? number(value) : value.toExponential(1).replaceAll("-", "−");
}

/** Round numbers from low to high, about `count` of them. */
function ticks(low, high, count = 6) {
  const span = high - low || 1;
  const rough = span / Math.max(1, count);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((each) => each * power >= rough * 0.999) * power;
  const first = Math.ceil(low / step - 1e-9);
  const last = Math.floor(high / step + 1e-9);
  const decimals = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  return Array.from({ length: Math.max(0, last - first + 1) }, (_, i) => {
    const value = (first + i) * step;
    const text = decimals > 3 ? value.toExponential(step < power * 2 ? 0 : 1).replace("-", "−") : number(value, decimals);
    return { value, text: value === 0 ? "0" : text };
  });
}

function median(values) {
  const sorted = values.filter(known).sort((a, b) => a - b);
  if (!sorted.length) return null;
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

const tip = $("#tip");

/** Shows a text beside the pointer; null hides it. */
function hint(text, event) {
  tip.hidden = !text;
  if (!text) return;
  tip.textContent = text;
  const { width, height } = tip.getBoundingClientRect();
  const left = event.clientX + 16 + width > innerWidth ? event.clientX - width - 12 : event.clientX + 16;
  const top = event.clientY + 18 + height > innerHeight ? event.clientY - height - 12 : event.clientY + 18;
  tip.style.left = `${Math.max(4, left)}px`;
  tip.style.top = `${Math.max(4, top)}px`;
}

/** Gives an element a tooltip. */
function hinted(node, text) {
  node.addEventListener("pointermove", (event) => hint(text, event));
  node.addEventListener("pointerleave", () => hint(null));
  return node;
}

function options(select, entries, chosen) {
  select.replaceChildren(...entries.map(([value, text]) => element("option", { value, selected: value === chosen }, text)));
}

/** The genes' PCCs of a method, or undefined. */
const pccOf = (method) => current().genes[page.methods[method].column];

const baselines = () => Object.keys(current().methods).filter((name) => name !== "model" && pccOf(name)?.some(known));
const starred = (method) => `${page.methods[method].label}${page.methods[method].uses_test_expression ? " *" : ""}`;
const kindOfMethod = (name) => name === "model" ? "model" : page.methods[name].uses_test_expression ? "ref" : "base";

/** Whether a gene's correlation on held-out sections is not shown to reach the floor of trust.csv. */
const isBelowFloor = (row) => current().genes.below_floor?.[row] === 1;

/** Whether a gene has this other name: HER2 for ERBB2. */
function calledSo(row, name) {
  const bare = name.toLowerCase().replaceAll(/[-_ ./]/g, "");
  return bare !== "" && current().aliases[row].includes(` ${bare} `);
}
