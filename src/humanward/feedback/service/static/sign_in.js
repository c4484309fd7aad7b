// Signing in by name and password.

import { post } from "./api.js";
import { $ } from "./dom.js";
import { safeNext } from "./next.js";

const form = $("#sign-in");
const problem = $(".problem", form);

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  problem.hidden = true;
  const button = $("button", form);
  button.disabled = true;
  try {
    await post("/session/login", { name: form.elements.name.value, password: form.elements.password.value });
    location.assign(safeNext());
  } catch (error) {
    problem.textContent = error.message;
    problem.hidden = false;
    form.elements.password.select();
    form.elements.password.focus();
  } finally {
    button.disabled = false;
  }
});
form.elements.name.focus();
