// Two small charts, drawn as SVG: estimates with their intervals, and bars.

import { fixed, svg } from "./dom.js";

const ROW = 30;
const LEFT = 235;
const RIGHT = 155;
const WIDTH = 720;

/** Rows of {name, value, ci95} on a scale to 1, from 0 or, where something is below, from -1; null values say so. */
export function intervals(rows, { label }) {
  const high = 1;
  const low = rows.some(({ value }) => value < 0) ? -1 : 0;
  const height = rows.length * ROW + 28;
  const x = (value) => LEFT + ((Math.min(high, Math.max(low, value)) - low) / (high - low)) * (WIDTH - LEFT - RIGHT);
  const chart = frame(height, label);
  for (const tick of [0, 0.25, 0.5, 0.75, 1].map((share) => low + share * (high - low))) {
    chart.append(svg("line", { class: tick === 0 && low < 0 ? "zero" : "axis", x1: x(tick), x2: x(tick), y1: 4, y2: height - 22 }));
    chart.append(text(fixed(tick, 2), { x: x(tick), y: height - 6, "text-anchor": "middle" }));
  }
  rows.forEach(({ name, value, ci95 }, index) => {
    const y = index * ROW + 18;
    chart.append(text(name, { class: "name", x: 0, y: y + 4 }, 34));
    if (value === null || value === undefined) {
      chart.append(text("not defined yet", { x: LEFT, y: y + 4 }));
      return;
    }
    if (ci95) chart.append(svg("line", { class: "whisker", x1: x(ci95[0]), x2: x(ci95[1]), y1: y, y2: y }));
    chart.append(svg("circle", { class: "dot", cx: x(value), cy: y, r: 4.5 }));
    const range = ci95 ? ` [${fixed(ci95[0])}, ${fixed(ci95[1])}]` : "";
    chart.append(text(`${fixed(value)}${range}`, { class: "name", x: WIDTH - RIGHT + 14, y: y + 4 }));
  });
  return chart;
}

/** Rows of {name, value, note}: the longest bar is the highest value. */
export function bars(rows, { label }) {
  const height = rows.length * ROW + 4;
  const most = Math.max(...rows.map(({ value }) => value), 1e-9);
  const chart = frame(height, label);
  rows.forEach(({ name, value, note }, index) => {
    const y = index * ROW + 4;
    const width = WIDTH - LEFT - RIGHT;
    chart.append(text(name, { class: "name", x: 0, y: y + 16 }, 34));
    chart.append(svg("rect", { class: "ground", x: LEFT, y: y + 4, width, height: 16, rx: 4 }));
    chart.append(svg("rect", { class: "bar", x: LEFT, y: y + 4, width: Math.max(2, (width * value) / most), height: 16, rx: 4 }));
    chart.append(text(note, { class: "name", x: WIDTH - RIGHT + 14, y: y + 16 }));
  });
  return chart;
}

function frame(height, label) {
  const chart = svg("svg", { class: "chart", viewBox: `0 0 ${WIDTH} ${height}`, role: "img", "aria-label": label });
  return chart;
}

function text(content, attributes, most = 60) {
  const node = svg("text", attributes);
  node.textContent = content.length > most ? `${content.slice(0, most - 1)}…` : content;
  return node;
}
