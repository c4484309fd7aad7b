"use strict";
(() => {
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open]):not(.all)")];
    for (const one of opened) one.open = true;
  });
  addEventListener("afterprint", () => {
    for (const one of opened) one.open = false;
  });

  const tools = document.querySelector(".tools");
  const body = document.querySelector(".pairs tbody");
  if (!tools || !body) return;
  const rows = [...body.rows];
  const texts = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));
  const search = document.getElementById("search");
  const direction = document.getElementById("direction");
  const order = document.getElementById("order");
  const count = document.getElementById("count");
  const scored = (a, b) => (a.dataset.direction === "unscored") - (b.dataset.direction === "unscored");
  const by = {
    worse: (a, b) => b.dataset.order - a.dataset.order,
    better: (a, b) => scored(a, b) || a.dataset.order - b.dataset.order,
    moved: (a, b) => scored(a, b) || Math.abs(b.dataset.order) - Math.abs(a.dataset.order),
    reworded: (a, b) => b.dataset.reworded - a.dataset.reworded,
    longest: (a, b) => b.dataset.length - a.dataset.length,
    grew: (a, b) => b.dataset.grew - a.dataset.grew,
    reward: (a, b) => (a.dataset.reward ?? Infinity) - (b.dataset.reward ?? Infinity) || 0,
    id: (a, b) => a.dataset.id.localeCompare(b.dataset.id, undefined, { numeric: true }),
  };
  const update = () => {
    const wanted = search.value.trim().toLowerCase();
    let shown = 0;
    for (const row of rows) {
      const fits = texts.get(row).includes(wanted) && (!direction.value || row.dataset.direction === direction.value);
      row.hidden = !fits;
      row.style.display = fits ? "" : "none";
      shown += fits;
    }
    count.textContent = `${shown} of ${rows.length}`;
  };
  const arrange = () => body.append(...rows.sort(by[order.value]));
  search.addEventListener("input", update);
  direction.addEventListener("change", update);
  order.addEventListener("change", arrange);
  tools.addEventListener("submit", (event) => event.preventDefault());
  tools.hidden = false;
  update();
})();
