// One's own answers; each can be opened and edited.

import { get } from "./api.js";
import { $, h, meta, moment, table } from "./dom.js";
import { failed, pager } from "./forms.js";

const view = $("#view");
const id = meta("project");
const LIMIT = 50;

async function show(offset) {
  const { entries, total } = await get(`/projects/${id}/history?offset=${offset}&limit=${LIMIT}`);
  if (!total) {
    view.replaceChildren(h("div", { className: "empty" }, h("h2", {}, "Nothing yet"), h("a", { className: "button primary", href: `/projects/${id}/label` }, "Start labelling")));
    return;
  }
  const columns = [
    { title: "Prompt", row: true, className: "grow", of: ({ prompt_start: text }) => h("span", { className: "clip", dir: "auto" }, text) },
    { title: "What", of: ({ state, skip_reason: reason }) => [h("span", { className: state === "submitted" ? "tag good" : "tag" }, state === "submitted" ? "Sent" : "Skipped"), reason ? h("p", { className: "muted small" }, reason) : null] },
    { title: "When", className: "nowrap", of: ({ submitted_at: at }) => (at ? moment(at) : "–") },
    { title: "", className: "nowrap", of: ({ task_id: task, state }) => h("a", { href: `/projects/${id}/label#task=${task}` }, state === "submitted" ? "Edit" : "Judge") },
  ];
  view.replaceChildren(h("div", { className: "stack" }, table(columns, entries, { label: "My answers" }), pager(offset, LIMIT, total, show)));
}

show(0).catch(failed(view));
