// Reviewing: items in the order of disagreement, everybody's answers to one, and the decision.

import { get, patch, post, put, rendered } from "./api.js";
import { $, bdi, count, h, meta, moment, percent, say, seconds, table, toast } from "./dom.js";
import { attempt, failed } from "./forms.js";
import { Judge } from "./judge.js";
import { inSigns } from "./judgement.js";
import { newClientId } from "./outbox.js";
import { Guidelines, showKeys, singleKeys } from "./panels.js";
import { measure, promptView } from "./prompt.js";

const view = $("#view");
const id = meta("project");
const QUEUES = {
  disagreement: { title: "Most disagreement", query: "order=disagreement", keep: ({ disagreement, adjudicated }) => disagreement > 0 && !adjudicated },
  flagged: { title: "Flagged", query: "order=position&flagged=true", keep: () => true },
};
let project;
let guidelines;
let judge = null;

async function route() {
  const place = new URLSearchParams(location.hash.slice(1));
  try {
    if (place.get("task")) await showTask(place.get("task"));
    else await showQueue(place.has("flagged") ? "flagged" : "disagreement");
  } catch (error) {
    failed(view)(error);
  }
}

async function showQueue(name) {
  judge = null;
  document.body.classList.remove("with-dock");
  const { entries } = await get(`/projects/${id}/items?${QUEUES[name].query}&limit=100`);
  const found = entries.filter(QUEUES[name].keep);
  const columns = [
    { title: "Prompt", row: true, className: "grow", of: (item) => h("a", { className: "clip", dir: "auto", href: `#task=${item.task_id}` }, item.prompt_start || "(empty)") },
    { title: "Pairs judged differently", className: "num", of: ({ disagreement }) => percent(disagreement) },
    { title: "Opinions", className: "num", of: ({ opinions, quota }) => `${opinions} of ${quota}` },
    { title: "Flags", className: "num", of: ({ open_flags: flags }) => flags || "–" },
  ];
  view.replaceChildren(
    h(
      "div",
      { className: "page" },
      h("h2", { className: "page-title", "aria-hidden": "true" }, "Review"),
      h("p", { className: "lead" }, "See everybody’s answers to an item and decide. Your decision settles it; the answers stay."),
      h("div", { className: "criteria queues", role: "group", "aria-label": "Queues" }, Object.entries(QUEUES).map(([key, { title }]) => h("a", { className: "button criterion", href: key === "disagreement" ? "#" : `#${key}`, "aria-current": key === name ? "true" : null }, title))),
      found.length ? table(columns, found, { label: QUEUES[name].title }) : h("div", { className: "empty" }, h("h2", {}, "Nothing to review"), h("p", {}, name === "flagged" ? "No open flags." : "Nobody differs on an item that is not decided yet."), h("a", { className: "button", href: `/projects/${id}/items` }, "All items")),
    ),
  );
}

async function showTask(taskId) {
  const task = await get(`/tasks/${encodeURIComponent(taskId)}/review`);
  const trees = await rendered([...task.prompt.map(({ content }) => content), ...task.answers.map(({ text }) => text)]);
  judge = new Judge({ project, answers: task.answers, trees: trees.slice(task.prompt.length), onChange: drawState });
  if (task.adjudication) judge.restore((judgements) => judgements.restoreAnswer(task.adjudication.judgements));
  const comment = h("textarea", { maxlength: 5000, rows: 3, value: task.adjudication?.comment ?? "" });
  const client = newClientId();
  judge.decide = () => decide(task, comment, client);
  judge.button = h("button", { type: "button", className: "primary submit", on: { click: judge.decide } }, task.adjudication ? "Change decision" : "Decide");
  judge.lead = h("p", { className: "criterion-short" });
  judge.cards.element.classList.add("columns");
  document.body.classList.add("with-dock");
  view.replaceChildren(
    h("div", { className: "toolbar" }, h("a", { className: "quiet small-button", href: "#" }, "← All to review"), h("div", { className: "toolbar-actions" }, itemActions(task), h("button", { type: "button", className: "quiet small-button", on: { click: () => guidelines.toggle(judge.criterion) } }, "Guidelines"), h("button", { type: "button", className: "quiet small-button", on: { click: help } }, "Keys"))),
    promptView(task.prompt, trees),
    facts(task),
    h("div", { className: "criteria-row" }, judge.tabs, judge.lead),
    judge.cards.element,
    h("details", { className: "comment", open: Boolean(comment.value) }, h("summary", {}, "Comment on the decision"), h("label", {}, h("span", { className: "sr-only" }, "Comment"), comment)),
    h("div", { className: "dock" }, judge.order.element, h("div", { className: "acts" }, judge.none, h("button", { type: "button", className: "act", on: { click: () => judge.undo() } }, "Undo"), judge.button)),
  );
  measure(view);
  window.scrollTo(0, 0);
  drawState();
  judge.cards.begin();
}

/** Everybody's answers in the letters of this page, what follows from them, and what was flagged. */
function facts(task) {
  const titles = new Map(project.criteria.map(({ name, title }) => [name, title]));
  const several = project.criteria.length > 1;
  const shown = (judgements) =>
    Object.entries(judgements).map(([name, judgement]) => h("div", {}, several ? h("span", { className: "muted" }, bdi(titles.get(name) ?? name), ": ") : null, h("span", { className: "order" }, orderOf(judgement)), judgement.none_acceptable ? h("span", { className: "tag bad" }, "none acceptable") : null));
  const columns = [
    { title: "Who", row: true, of: (opinion) => [bdi(opinion.annotator), opinion.simulated ? h("span", { className: "tag warn" }, "simulated") : null, opinion.origin === "import" ? h("span", { className: "tag" }, "imported") : null, opinion.late ? h("span", { className: "tag" }, "late") : null] },
    { title: "Order", of: ({ judgements }) => shown(judgements) },
    { title: "Comment", className: "said", of: ({ comment, verdict_comment: reply }) => [comment ? h("p", { className: "prose plain", dir: "auto" }, comment) : null, reply ? h("p", { className: "muted small", dir: "auto" }, reply) : null] },
    { title: "Time", className: "num", of: ({ seconds_spent: spent }) => seconds(spent) },
    { title: "Verdict", of: (opinion) => verdict(task, opinion) },
  ];
  if (!task.opinions.some(({ comment, verdict_comment: reply }) => comment || reply)) columns.splice(2, 1);
  const consensus = Object.entries(task.consensus).map(([name, tiers]) => h("span", {}, several ? [bdi(titles.get(name) ?? name), ": "] : null, h("span", { className: "order" }, inSigns(tiers))));
  return h(
    "section",
    { className: "section facts", "aria-label": "Everybody’s answers" },
    h("p", { className: "row small" }, h("strong", {}, `${count(task.opinions.length, "opinion")}`), task.disagreement === null ? null : h("span", { className: "tag warn" }, `${percent(task.disagreement)} of pairs differ`), consensus.length ? h("span", {}, "Together: ", consensus) : null, task.gold ? h("span", { className: "tag accent" }, "Gold: ", Object.values(task.gold).map(inSigns).join("; ")) : null),
    task.opinions.length ? table(columns, task.opinions, { label: "Opinions", className: "middle" }) : h("p", { className: "muted" }, "Nobody has judged this yet."),
    task.flags.map((flag) => flagLine(task, flag)),
    task.skips.length ? h("p", { className: "muted small" }, `Skipped by ${count(task.skips.length, "person", "people")}`, task.skips.filter(Boolean).length ? [": ", bdi(task.skips.filter(Boolean).join("; "))] : "") : null,
  );
}

function orderOf({ tiers, scores }) {
  const given = Object.entries(scores ?? {});
  if (given.length) return given.sort().map(([label, score]) => `${label} ${score}`).join(", ");
  return tiers.length ? inSigns(tiers) : "–";
}

function verdict(task, opinion) {
  if (opinion.submission_id === null) return h("span", { className: "muted small" }, "from a file");
  if (opinion.verdict) return h("span", { className: opinion.verdict === "accepted" ? "tag good" : "tag bad" }, opinion.verdict);
  const give = (accepted) => attempt(async () => (await post(`/submissions/${opinion.submission_id}/verdict`, { accepted }), toast(accepted ? "Accepted." : "Rejected: the answer is withdrawn and the item opens again."), await showTask(task.task_id)));
  const button = (text, accepted) => h("button", { type: "button", className: accepted ? "small-button" : "small-button danger", "aria-label": `${text} ${opinion.annotator}’s answer`, on: { click: () => give(accepted) } }, text);
  return h("div", { className: "row verdicts" }, button("Accept", true), button("Reject", false));
}

function flagLine(task, flag) {
  const resolve = () => attempt(async () => (await post(`/flags/${flag.id}/resolve`, {}), await showTask(task.task_id)));
  return h(
    "div",
    { className: flag.resolved_at ? "notice row between" : "notice warn row between" },
    h("span", {}, h("strong", {}, flag.resolved_at ? "Was flagged: " : "Flagged: "), `${flag.reason}, by `, bdi(flag.by), ", ", moment(flag.created_at), flag.comment ? [": ", bdi(flag.comment)] : null),
    flag.resolved_at ? null : h("button", { type: "button", className: "small-button", on: { click: resolve } }, "Close flag"),
  );
}

function itemActions(task) {
  const out = task.state === "excluded";
  const change = (act, words) => attempt(async () => (await act(), toast(words), await showTask(task.task_id)));
  const exclude = h("button", { type: "button", className: "quiet small-button", on: { click: () => change(() => patch(`/tasks/${task.task_id}`, { excluded: !out }), out ? "Back in." : "Taken out: nobody gets it any more.") } }, out ? "Put back" : "Take out");
  if (meta("role") !== "admin") return exclude;
  const setGold = () => {
    if (task.gold) return change(() => put(`/tasks/${task.task_id}/gold`, { gold: null }), "An ordinary item again.");
    if (!judge.complete) return toast(`To make it gold, ${judge.problem()} first.`);
    const gold = Object.fromEntries(Object.entries(judge.judgements.body()).map(([name, { tiers, scores }]) => [name, scores ? { scores } : { tiers }]));
    return change(() => put(`/tasks/${task.task_id}/gold`, { gold }), project.mode === "rating" ? "Gold: the order of these scores is now what people are measured by." : "Gold: this order is now what people are measured by.");
  };
  return [h("button", { type: "button", className: "quiet small-button", title: "An item with a known answer, to measure people by", on: { click: setGold } }, task.gold ? "Not gold" : "Make gold"), exclude];
}

async function decide(task, comment, client) {
  if (!judge.complete) {
    if (judge.judgements.complete(judge.criterion)) judge.show(judge.incomplete());
    toast(`Not complete: ${judge.problem()}.`);
    drawState();
    return;
  }
  const body = { client_id: client, judgements: judge.judgements.body(), comment: comment.value };
  await attempt(async () => {
    await post(`/tasks/${task.task_id}/adjudicate`, body);
    toast("Decided.");
    say("Decided");
    location.hash = "";
  });
}

function drawState() {
  judge.lead.textContent = project.criteria.find(({ name }) => name === judge.criterion).short;
  judge.button.setAttribute("aria-disabled", String(!judge.complete));
}

function help() {
  showKeys({ mode: judge?.mode ?? project.mode, criteria: project.criteria.length, screen: "review" });
}

function onKey(event) {
  const typing = event.target.matches("input, select, textarea");
  if (!judge || $("dialog[open]")) return;
  const withControl = event.ctrlKey || event.metaKey;
  if (withControl && event.key === "Enter") judge.decide();
  else if (withControl && event.key.toLowerCase() === "z" && !typing) judge.undo();
  else if (withControl || event.altKey || typing || !singleKeys()) return;
  else if (event.key === "g") guidelines.toggle(judge.criterion);
  else if (event.key === "?") help();
  else if (!judge.key(event)) return;
  event.preventDefault();
  drawState();
}

async function start() {
  project = await get(`/projects/${id}`);
  guidelines = new Guidelines(project.criteria);
  document.addEventListener("keydown", onKey);
  window.addEventListener("hashchange", route);
  await route();
}

start().catch(failed(view));
