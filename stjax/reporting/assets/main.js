// Puts the page together: theme, choice of run, printing.
function bestGene() {
  const { pcc } = current().genes;
  return pcc.reduce((best, value, row) => (value ?? -2) > (pcc[best] ?? -2) ? row : best, 0);
}

function startTheme() {
  const root = document.documentElement, dark = matchMedia("(prefers-color-scheme: dark)");
  let chosen = null, before = "light";
  const apply = () => { root.dataset.theme = chosen ?? (dark.matches ? "dark" : "light"); };
  apply();
  dark.addEventListener("change", apply);
  $("#theme").addEventListener("click", () => { chosen = root.dataset.theme === "dark" ? "light" : "dark"; apply(); });
  addEventListener("beforeprint", () => { before = root.dataset.theme; root.dataset.theme = "light"; });
  addEventListener("afterprint", () => { root.dataset.theme = before; });
  $("#print").addEventListener("click", () => print());
}

function startRuns() {
  $("#run")?.addEventListener("change", (event) => {
    const name = current().genes.gene[state.gene];
    state.run = Number(event.target.value);
    const row = current().genes.gene.indexOf(name);
    state.gene = row < 0 ? bestGene() : row;
    $$(".for-run").forEach((part) => { part.hidden = Number(part.dataset.run) !== state.run; });
    emit("run");
  });
}

startTheme();
state.gene = bestGene();
startRuns();
startTable();
startCharts();
startMaps();
document.documentElement.dataset.ready = "true";
