// One's password and API tokens.

import { get, post, put, remove } from "./api.js";
import { $, bdi, h, meta, moment, table, toast } from "./dom.js";
import { attempt, failed, formProblem, guarded, secret } from "./forms.js";

const view = $("#view");

async function show(fresh = null) {
  const [session, tokens] = await Promise.all([get("/session"), get("/tokens")]);
  view.replaceChildren(
    h("div", { className: "stack wide" }, h("div", { className: "row between" }, h("p", { className: "lead" }, "You are signed in as ", h("strong", {}, bdi(meta("user-name"))), "."), h("button", { type: "button", className: "sign-out" }, "Sign out")), passwordForm(session), tokenSection(session, tokens, fresh)),
  );
}

function passwordForm({ has_password: has }) {
  const problem = formProblem();
  const input = h("input", { name: "password", type: "password", minlength: 10, maxlength: 200, required: true, autocomplete: "new-password" });
  const submit = guarded(problem, async () => {
    await put("/session/password", { password: input.value });
    toast("Password set. Your other browsers are signed out.");
    await show();
  });
  return h(
    "section",
    { className: "section" },
    h("h2", {}, "Password"),
    h("p", { className: "muted" }, has ? "You have one. A new one signs out your other browsers." : "You have none: one-time links are your only way in."),
    h("form", { className: "stack", novalidate: true, on: { submit } }, h("label", { className: "field" }, "New password", input, h("span", { className: "hint" }, "10 to 200 characters.")), problem, h("div", { className: "row" }, h("button", { className: "primary" }, "Set password"))),
  );
}

function tokenSection({ projects }, tokens, fresh) {
  const problem = formProblem();
  const name = h("input", { name: "name", required: true, maxlength: 100 });
  const only = h("select", { name: "project" }, h("option", { value: "" }, "All that I may do"), projects.map((project) => h("option", { value: project.id }, project.name)));
  const days = h("input", { name: "days", type: "number", min: 1, max: 3650, value: 90 });
  const submit = guarded(problem, async () => {
    const body = { name: name.value, days: Number(days.value) };
    if (only.value) body.project_id = Number(only.value);
    await show((await post("/tokens", body)).token);
  });
  const projectName = (id) => (id === null ? "all" : (projects.find((project) => project.id === id)?.name ?? "–"));
  const columns = [
    { title: "Name", row: true, of: (token) => bdi(token.name) },
    { title: "Begins with", of: ({ prefix }) => h("code", {}, prefix) },
    { title: "For", of: ({ project_id: project }) => bdi(projectName(project)) },
    { title: "Works until", className: "nowrap", of: ({ expires_at: at, revoked_at: revoked }) => (revoked ? h("span", { className: "tag" }, "Revoked") : at ? moment(at) : "revoked") },
    { title: "", of: ({ id, revoked_at: revoked }) => (revoked ? null : h("button", { type: "button", className: "small-button danger", on: { click: () => attempt(async () => (await remove(`/tokens/${id}`), show())) } }, "Revoke")) },
  ];
  return h(
    "section",
    { className: "section" },
    h("h2", {}, "API tokens"),
    h("p", { className: "muted" }, "For programs: sent as ", h("code", {}, "Authorization: Bearer …"), ". A token may do what you may, or only that within one project."),
    fresh ? secret(fresh, "Your new token. It is shown this once; whoever has it acts as you.") : null,
    tokens.length ? table(columns, tokens, { label: "API tokens", className: "middle" }) : null,
    h("form", { className: "stack", novalidate: true, on: { submit } }, h("div", { className: "fields" }, h("label", { className: "field" }, "Name", name), h("label", { className: "field" }, "May do", only), h("label", { className: "field" }, "Days until it ends", days)), problem, h("div", { className: "row" }, h("button", { className: "primary" }, "Make a token"))),
  );
}

show().catch(failed(view));
