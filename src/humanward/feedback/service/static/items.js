// All items of a project, found by state, flags or text.

import { get, patch } from "./api.js";
import { $, fixed, h, meta, percent, table } from "./dom.js";
import { attempt, failed, pager } from "./forms.js";

const view = $("#view");
const id = meta("project");
const LIMIT = 50;
const STATES = { "": "All states", open: "Open", done: "Done", gold: "Gold", excluded: "Taken out" };
const ORDERS = { position: "As imported", turn: "Next in turn", disagreement: "Most disagreement" };
const TAGS = { open: "tag accent", done: "tag good", gold: "tag warn", excluded: "tag" };
const place = h("div", { className: "stack" });

const text = h("input", { type: "search", maxlength: 200, placeholder: "Words of the prompt" });
const state = h("select", {}, Object.entries(STATES).map(([value, name]) => h("option", { value }, name)));
const order = h("select", {}, Object.entries(ORDERS).map(([value, name]) => h("option", { value }, name)));
const flagged = h("input", { type: "checkbox" });

async function show(offset = 0) {
  const query = new URLSearchParams({ offset, limit: LIMIT, order: order.value });
  if (state.value) query.set("state", state.value);
  if (text.value.trim()) query.set("text", text.value.trim());
  if (flagged.checked) query.set("flagged", "true");
  const { entries, total } = await get(`/projects/${id}/items?${query}`);
  const columns = [
    { title: "Prompt", row: true, className: "grow", of: (item) => h("a", { className: "clip", dir: "auto", href: `/projects/${id}/review#task=${item.task_id}` }, item.prompt_start || "(empty)") },
    { title: "State", of: (item) => [h("span", { className: TAGS[item.state] }, STATES[item.state]), item.open_flags ? h("span", { className: "tag bad" }, `${item.open_flags} flagged`) : null, item.adjudicated ? h("span", { className: "tag" }, "Decided") : null] },
    { title: "Answers", className: "num", of: ({ answers }) => answers },
    { title: "Opinions", className: "num", of: ({ opinions, quota }) => `${opinions} of ${quota}` },
    { title: "Disagreement", className: "num", of: ({ disagreement }) => percent(disagreement) },
    { title: "Uncertainty", className: "num", of: ({ uncertainty }) => fixed(uncertainty) },
    { title: "", className: "nowrap", of: (item) => toggle(item, offset) },
  ];
  place.replaceChildren(
    ...(entries.length ? [table(columns, entries, { label: "Items" })] : [h("div", { className: "empty" }, h("h2", {}, "No items"), h("p", {}, total || text.value || state.value || flagged.checked ? "Nothing matches." : "Import prompts with at least two answers each."))]),
    ...[pager(offset, LIMIT, total, (to) => attempt(() => show(to)))].filter(Boolean),
  );
}

function toggle(item, offset) {
  const out = item.state === "excluded";
  const act = () => attempt(async () => (await patch(`/tasks/${item.task_id}`, { excluded: !out }), await show(offset)));
  return h("button", { type: "button", className: "link small", on: { click: act } }, out ? "Put back" : "Take out");
}

let timer;
text.addEventListener("input", () => {
  clearTimeout(timer);
  timer = setTimeout(() => attempt(() => show()), 300);
});
for (const control of [state, order, flagged]) control.addEventListener("change", () => attempt(() => show()));

view.replaceChildren(
  h(
    "div",
    { className: "stack" },
    h("form", { className: "fields", role: "search", on: { submit: (event) => event.preventDefault() } }, h("label", { className: "field" }, "Search", text), h("label", { className: "field" }, "State", state), h("label", { className: "field" }, "Order", order), h("label", { className: "check" }, flagged, "Only flagged")),
    place,
  ),
);
show().catch(failed(place));
