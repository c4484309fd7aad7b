// Labelling: takes a task, keeps what is judged, sends it, takes the next.

import { Refused, Unreachable, get, post, rendered } from "./api.js";
import { LeaseClock, Stopwatch } from "./clocks.js";
import { $, h, meta, say, toast } from "./dom.js";
import { Draft } from "./drafts.js";
import { Judge } from "./judge.js";
import { Outbox, newClientId } from "./outbox.js";
import { Guidelines, askFlag, askSkip, showKeys, singleKeys } from "./panels.js";
import { measure, promptView } from "./prompt.js";
import { Toolbar, looks } from "./toolbar.js";

const id = meta("project");
const view = $("#view");
const watch = new Stopwatch();
let project;
let guidelines;
let now = null; // the task on the screen: {task, trees, judge, draft, comment}
let notice = null;
let sending = false;

const toolbar = new Toolbar({ previous, guidelines: () => guidelines.toggle(now?.judge.criterion), keys: help, looks: redraw, keepLease: renew });
const lease = new LeaseClock((left) => {
  if (!now) return;
  toolbar.showLease(now.task.state, left);
  if (now.task.state !== "leased") return;
  if (left <= 0) leaseOver();
  // Somebody who reads a long text changes nothing; being there is enough to keep the task.
  else if (left < project.lease_seconds / 4 && performance.now() - watch.alive < 30_000 && !now.renewing) renew();
});
const outbox = new Outbox({
  onChange(waiting, error) {
    if (view.dataset.state !== "waiting") return;
    if (waiting) showWaiting(error);
    else if (!sending) route();
  },
  onSent(entry, receipt) {
    localStorage.removeItem(`humanward.draft.${meta("user")}.${entry.taskId}`);
    if (receipt.late) toast("Sent after its time; it is kept and marked as late.");
    else toast(receipt.revision > 1 ? `Change sent: version ${receipt.revision}.` : "Sent.", { action: "Edit", onAction: () => open(entry.taskId) });
  },
  onRefused(entry, error) {
    notice = h("p", { className: "notice bad row between", role: "alert" }, h("span", {}, `An answer was not accepted: ${error.message}`), h("a", { className: "button", href: `#task=${entry.taskId}` }, "Open it"));
  },
});

async function start() {
  project = await get(`/projects/${id}`);
  guidelines = new Guidelines(project.criteria);
  document.addEventListener("keydown", onKey);
  window.addEventListener("hashchange", route);
  window.addEventListener("online", () => view.dataset.state === "offline" && route());
  await outbox.flush();
  await route();
}

/** A task that the address names, or else the next one. */
async function route() {
  const wanted = new URLSearchParams(location.hash.slice(1)).get("task");
  await now?.draft.flush();
  now = null;
  if (outbox.waiting.length) {
    showWaiting();
    return;
  }
  try {
    if (wanted) await show(await get(`/tasks/${encodeURIComponent(wanted)}`));
    else await showNext();
  } catch (error) {
    if (error instanceof Unreachable) showOffline();
    else if (error instanceof Refused && error.code !== "not_signed_in") showEmpty("This cannot be shown", error.message);
  }
}

async function showNext() {
  const { task } = await post(`/projects/${id}/claim`);
  if (task) {
    await show(task);
    return;
  }
  await progress();
  if (project.progress.tasks) showEmpty("All done", "There is nothing left for you to judge here. New items, and items that others give back, will show up.");
  else showEmpty("No items yet", "Prompts with at least two answers have to be brought in first.", meta("role") === "admin" ? h("a", { className: "button primary", href: `/projects/${id}/data` }, "Import data") : null);
}

async function show(task) {
  const texts = [...task.prompt.map(({ content }) => content), ...task.answers.map(({ text }) => text)];
  const [trees] = await Promise.all([rendered(texts), progress()]);
  const draft = new Draft(task.task_id, {
    onState: (state) => toolbar.showSaved(state),
    onLease: (renewed) => takeLease(renewed),
  });
  const kept = draft.load(task.draft);
  now = { task, trees, draft, client: newClientId() };
  now.comment = h("textarea", { maxlength: 5000, rows: 3, value: kept?.comment ?? task.comment, on: { input: changed } });
  draw((judge) => {
    if (kept?.state) judge.restore((judgements) => judgements.restore(kept.state));
    else if (task.submitted) judge.restore((judgements) => judgements.restoreAnswer(task.submitted));
  });
  watch.start(kept?.seconds ?? 0);
  lease.set(task.lease_seconds_left);
  toolbar.showLease(task.state, task.lease_seconds_left);
  toolbar.showSaved(kept ? "saved" : "none");
  window.scrollTo(0, 0);
  now.judge.cards.begin();
  say(`${task.submitted ? "An answer of yours, to edit" : "New item"}: ${task.answers.length} answers. Press question mark for the keys.`);
}

/** The task as the page shows it; `restore` fills in what was judged. */
function draw(restore) {
  const { task, trees } = now;
  const used = looks.text === "plain" ? null : trees;
  const judge = new Judge({ project, answers: task.answers, trees: used?.slice(task.prompt.length), onChange: changed });
  now.judge = judge;
  restore(judge);
  now.submit = h("button", { type: "button", className: "primary submit", on: { click: submit } });
  const action = (text, act, hint) => h("button", { type: "button", className: "act", title: hint, on: { click: act } }, text);
  const lead = h("p", { className: "criterion-short" });
  now.lead = lead;
  view.dataset.state = "task";
  document.body.classList.add("with-dock");
  view.replaceChildren(
    toolbar.element,
    ...(notice ? [notice] : []),
    ...(task.state === "leased" ? [] : [banner(task)]),
    promptView(task.prompt, used),
    h("div", { className: "criteria-row" }, judge.tabs, lead),
    judge.cards.element,
    h("details", { className: "comment", open: Boolean(now.comment.value) }, h("summary", {}, "Comment"), h("label", {}, h("span", { className: "sr-only" }, "Comment on this item"), now.comment)),
    h(
      "div",
      { className: "dock" },
      judge.order.element,
      h("div", { className: "acts" }, judge.none, action("Undo", () => judge.undo(), "Ctrl + Z"), task.submitted ? null : action("Skip", skip, "S"), action("Flag", flag, "F"), now.submit),
    ),
  );
  notice = null;
  judge.cards.element.classList.add(looks.layout);
  measure(view);
  drawState();
}

function redraw() {
  if (!now) return;
  const { judgements, criterion } = now.judge;
  const active = now.judge.cards.active;
  draw((judge) => {
    judge.judgements = judgements;
    judge.criterion = criterion;
    judge.update();
  });
  now.judge.cards.activate(active);
}

function banner(task) {
  const words = {
    submitted: `You sent this already${task.revision > 1 ? ` (version ${task.revision})` : ""}. What you send now becomes its next version.`,
    skipped: "You skipped this item. You can still judge it.",
    expired: "Your time on this item ran out. What you send is still kept.",
    released: "You gave this item back. What you send is still kept.",
  };
  return h("p", { className: "notice row between" }, h("span", {}, words[task.state] ?? task.state), h("a", { className: "button small-button", href: "#" }, "To the current item"));
}

function drawState() {
  const { judge, submit: button, lead, task } = now;
  const criterion = project.criteria.find(({ name }) => name === judge.criterion);
  if (lead.textContent !== criterion.short) lead.textContent = criterion.short;
  if (!guidelines.element.hidden && guidelines.shown !== judge.criterion) guidelines.show(judge.criterion);
  const next = judge.judgements.complete(judge.criterion) ? project.criteria.find(({ name }) => name === judge.incomplete()) : null;
  button.textContent = next ? `Next: ${next.title}` : task.submitted ? "Send change" : "Submit";
  button.setAttribute("aria-disabled", String(!next && !judge.complete));
}

function changed() {
  drawState();
  now.draft.change({ state: now.judge.judgements.state, comment: now.comment.value, seconds: watch.seconds });
}

async function submit() {
  const { judge, task, draft, comment, client } = now;
  if (!judge.complete) {
    const next = judge.judgements.complete(judge.criterion) ? judge.incomplete() : null;
    if (next) {
      judge.show(next);
      drawState();
      judge.cards.focus(judge.labels[0], { scroll: false });
      return;
    }
    toast(`Not complete: ${judge.problem()}.`);
    const missing = judge.judgements.missing(judge.criterion)[0];
    if (missing) judge.cards.focus(missing);
    return;
  }
  if (outbox.has(task.task_id)) return;
  const body = { client_id: client, judgements: judge.judgements.body(), seconds_spent: watch.seconds, comment: comment.value };
  now.submit.disabled = true;
  now = null;
  sending = true;
  view.dataset.state = "waiting";
  await draft.stop();
  await outbox.send({ taskId: task.task_id, body });
  sending = false;
  if (outbox.waiting.length) return;
  if (location.hash) location.hash = "";
  else await route();
}

async function skip() {
  const { task, draft } = now;
  if (task.submitted) return;
  const reason = await askSkip();
  if (reason === null) return;
  await attempt(async () => {
    await draft.stop();
    await post(`/tasks/${task.task_id}/skip`, { reason });
    draft.forget();
    toast("Skipped.");
    if (location.hash) location.hash = "";
    else await route();
  });
}

async function flag() {
  const { task } = now;
  const said = await askFlag();
  if (said) await attempt(async () => (await post(`/tasks/${task.task_id}/flag`, said), toast("Flagged: a reviewer will look at it. Judge or skip it now.")));
}

async function previous() {
  await attempt(async () => {
    const { entries } = await get(`/projects/${id}/history?limit=200`);
    const at = entries.findIndex(({ task_id: each }) => each === now?.task.task_id);
    const before = entries[at + 1];
    if (before) open(before.task_id);
    else toast(at < 0 ? "You have not sent anything yet." : "This was your first.");
  });
}

function open(taskId) {
  location.hash = `task=${taskId}`;
}

async function renew() {
  if (!now) return;
  const { task } = now;
  now.renewing = true;
  await attempt(async () => takeLease(await post(`/tasks/${task.task_id}/renew`)));
  if (now) now.renewing = false;
}

function takeLease({ task_id: taskId, state, lease_seconds_left: left }) {
  if (now?.task.task_id !== taskId) return;
  now.task.state = state;
  lease.set(left);
  if (state === "leased") $(".lease-over", view)?.remove();
}

function leaseOver() {
  now.task.state = "expired";
  $(".prompt", view).before(
    h(
      "p",
      { className: "notice warn row between lease-over", role: "alert" },
      "Your time on this item ran out: somebody else may get it. What you send is still kept.",
      h("button", { type: "button", className: "small-button", on: { click: renew } }, "Keep it"),
    ),
  );
}

async function progress() {
  toolbar.showProgress(await get(`/projects/${id}/me`));
}

async function attempt(act) {
  try {
    await act();
  } catch (error) {
    toast(error.message);
  }
}

function help() {
  showKeys({ mode: now?.judge.mode ?? project.mode, criteria: project.criteria.length, screen: "label" });
}

function onKey(event) {
  const typing = event.target.matches("input, select, textarea, [contenteditable]");
  if (!now || $("dialog[open]")) return;
  const withControl = event.ctrlKey || event.metaKey;
  if (withControl && event.key === "Enter") submit();
  else if (withControl && event.key.toLowerCase() === "z" && !event.shiftKey && !typing) now.judge.undo();
  else if (withControl || event.altKey || typing || !singleKeys()) return;
  else if (!now.judge.key(event)) {
    const actions = { s: skip, f: flag, p: previous, g: () => guidelines.toggle(now.judge.criterion), "?": help };
    const action = actions[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!action) return;
    action();
  }
  event.preventDefault();
  if (now) drawState();
}

function showEmpty(title, text, action = h("button", { type: "button", on: { click: route } }, "Look again")) {
  leaveTask("empty");
  view.replaceChildren(h("div", { className: "page narrow" }, ...(notice ? [notice] : []), h("div", { className: "empty" }, h("h2", {}, title), h("p", {}, text), h("div", { className: "row" }, action, h("a", { className: "button", href: `/projects/${id}/history` }, "My answers")))));
  notice = null;
  say(title);
}

function showOffline() {
  showEmpty("No connection", "The server cannot be reached. Drafts are kept in this browser; this goes on when the connection is back.");
  view.dataset.state = "offline";
  setTimeout(() => view.dataset.state === "offline" && route(), 10_000);
}

function showWaiting(error) {
  const waiting = outbox.waiting.length;
  const kept = `${waiting === 1 ? "Your answer is" : `${waiting} answers are`} kept in this browser`;
  // Signed in anew in another tab: this page's token is an old one.
  if (error?.code === "csrf") showEmpty("Reload this page", `${kept} and will be sent then.`, h("button", { type: "button", on: { click: () => location.reload() } }, "Reload"));
  else if ($(".empty", view)) return;
  else showEmpty("No connection", `${kept} and will be sent when the connection is back. The next item comes then.`, h("button", { type: "button", on: { click: () => outbox.flush() } }, "Try now"));
  view.dataset.state = "waiting";
}

function leaveTask(state) {
  now = null;
  view.dataset.state = state;
  document.body.classList.remove("with-dock");
}

start().catch((error) => showEmpty("This cannot be shown", error.message));
