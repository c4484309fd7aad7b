// The log of every change.

import { get } from "./api.js";
import { $, bdi, h, meta, moment, table } from "./dom.js";
import { attempt, failed } from "./forms.js";

const view = $("#view");
const id = meta("project");
const LIMIT = 100;
const seen = [];

async function more() {
  const before = seen.length ? `&before=${seen.at(-1).id}` : "";
  const { entries } = await get(`/projects/${id}/audit?limit=${LIMIT}${before}`);
  seen.push(...entries);
  const columns = [
    { title: "When", className: "nowrap", of: ({ at }) => moment(at) },
    { title: "Who", of: ({ actor }) => bdi(actor) },
    { title: "What", className: "nowrap", of: ({ action }) => h("code", {}, action) },
    { title: "On", of: ({ subject }) => bdi(subject) },
    { title: "Details", className: "grow", of: ({ detail }) => details(detail) },
  ];
  view.replaceChildren(
    h(
      "div",
      { className: "stack" },
      seen.length ? table(columns, seen, { label: "Audit log" }) : h("div", { className: "empty" }, "Nothing has changed yet."),
      entries.length === LIMIT ? h("div", { className: "row" }, h("button", { type: "button", on: { click: () => attempt(more) } }, "Show older")) : null,
    ),
  );
}

function details(detail) {
  const lines = Object.entries(detail).filter(([, value]) => value !== "" && value !== null);
  if (!lines.length) return "";
  const shown = (value) => (typeof value === "string" ? value : JSON.stringify(value));
  const text = lines.map(([name, value]) => `${name}: ${shown(value)}`);
  if (text.join(" ").length < 140) return h("span", { className: "small" }, bdi(text.join(" · ")));
  return h("details", {}, h("summary", { className: "small" }, lines.map(([name]) => name).join(", ")), text.map((line) => h("p", { className: "small prose plain", dir: "auto" }, line)));
}

more().catch(failed(view));
