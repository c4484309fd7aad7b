// Members of a project and invitations to it.

import { get, patch, post, remove } from "./api.js";
import { $, bdi, h, meta, moment, table, toast } from "./dom.js";
import { attempt, failed, formProblem, guarded, secret } from "./forms.js";

const view = $("#view");
const id = meta("project");
const ROLES = { annotator: "Annotator", reviewer: "Reviewer", admin: "Admin" };

async function show(link = null) {
  const [people, invitations] = await Promise.all([get(`/projects/${id}/people`), get(`/projects/${id}/invitations`)]);
  view.replaceChildren(h("div", { className: "stack wide" }, invite(link), members(people), links(invitations)));
}

function roleSelect(chosen, attributes = {}) {
  return h("select", attributes, Object.entries(ROLES).map(([value, text]) => h("option", { value, selected: value === chosen }, text)));
}

function invite(link) {
  const problem = formProblem();
  const role = roleSelect("annotator", { name: "role" });
  const name = h("input", { name: "name", maxlength: 100 });
  const hours = h("select", { name: "hours" }, [[24, "One day"], [72, "Three days"], [168, "A week"], [720, "A month"]].map(([value, text]) => h("option", { value, selected: value === 72 }, text)));
  const submit = guarded(problem, async () => {
    const body = { role: role.value, hours: Number(hours.value) };
    if (name.value.trim()) body.name = name.value.trim();
    await show((await post(`/projects/${id}/invitations`, body)).link);
  });
  return h(
    "section",
    { className: "section" },
    h("h2", {}, "Invite somebody"),
    h("p", { className: "muted" }, "You get a link to pass on. It works once; annotators judge, reviewers also see everybody's answers and decide, admins do all."),
    link ? secret(link, "The link, shown this once:") : null,
    h("form", { className: "stack panel", on: { submit } }, h("div", { className: "fields" }, h("label", { className: "field" }, "Name, if you want to suggest one", name), h("label", { className: "field" }, "As", role), h("label", { className: "field" }, "Works for", hours)), problem, h("div", { className: "row" }, h("button", { className: "primary" }, "Make a link"))),
  );
}

function members(people) {
  const own = Number(meta("user"));
  const columns = [
    { title: "Name", row: true, of: (person) => [bdi(person.name), person.user_id === own ? h("span", { className: "muted" }, " (you)") : null, person.simulated ? h("span", { className: "tag warn" }, "simulated") : null, person.disabled ? h("span", { className: "tag bad" }, "locked out") : null] },
    { title: "Sent", className: "num", of: ({ submitted }) => submitted.toLocaleString("en") },
    { title: "Skipped", className: "num", of: ({ skipped }) => skipped.toLocaleString("en") },
    { title: "Role", of: (person) => change(person) },
    { title: "", of: (person) => h("button", { type: "button", className: "small-button danger", "aria-label": `Remove ${person.name}`, on: { click: () => end(person) } }, "Remove") },
  ];
  return h("section", { className: "section" }, h("h2", {}, "People"), people.length ? table(columns, people, { label: "People", className: "middle" }) : h("p", { className: "muted" }, "Nobody yet."));
}

function change(person) {
  const select = roleSelect(person.role, { "aria-label": `Role of ${person.name}` });
  select.addEventListener("change", async () => {
    await attempt(() => patch(`/projects/${id}/people/${person.user_id}`, { role: select.value }).then(() => toast(`${person.name} is now ${ROLES[select.value].toLowerCase()}.`)));
    await show();
  });
  return select;
}

async function end(person) {
  if (await attempt(() => remove(`/projects/${id}/people/${person.user_id}`))) {
    toast(`${person.name} is no longer a member. What they did stays.`);
    await show();
  }
}

function links(invitations) {
  const state = ({ used_at: used, revoked_at: revoked, expires_at: until }) =>
    used ? h("span", { className: "tag good" }, "Used") : revoked ? h("span", { className: "tag" }, "Revoked") : new Date(until) < new Date() ? h("span", { className: "tag" }, "Over") : h("span", { className: "tag accent" }, "Open");
  const open = (row) => !row.used_at && !row.revoked_at && new Date(row.expires_at) > new Date();
  const columns = [
    { title: "For", row: true, of: ({ name }) => (name ? bdi(name) : h("span", { className: "muted" }, "anybody with the link")) },
    { title: "As", of: ({ role }) => ROLES[role] ?? role },
    { title: "Works until", className: "nowrap", of: ({ expires_at: at }) => moment(at) },
    { title: "State", of: state },
    { title: "", of: (row) => (open(row) ? h("button", { type: "button", className: "small-button danger", on: { click: () => attempt(() => remove(`/projects/${id}/invitations/${row.id}`)).then(() => show()) } }, "Revoke") : null) },
  ];
  return h("section", { className: "section" }, h("h2", {}, "Invitations"), invitations.length ? table(columns, invitations, { label: "Invitations", className: "middle" }) : h("p", { className: "muted" }, "None yet."));
}

show().catch(failed(view));
