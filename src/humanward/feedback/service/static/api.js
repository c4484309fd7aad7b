// The JSON API (docs/api.md) as the pages use it.

import { meta } from "./dom.js";

/** The server refused: `code` is stable, the message is for people. */
export class Refused extends Error {
  constructor(status, { code, message, field }) {
    super(message);
    Object.assign(this, { status, code, field });
  }
}

/** No answer came, or one that says "later": the same request may be sent again. */
export class Unreachable extends Error {}

/** `file: true` gives the response's content as {blob, name} instead of JSON. */
export async function call(method, path, body = undefined, { raw = false, file = false, signal } = {}) {
  const headers = { Accept: "application/json" };
  if (method !== "GET") headers["X-CSRF-Token"] = meta("csrf");
  if (body !== undefined && !raw) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(`/api/v1${path}`, {
      method,
      headers,
      body: body === undefined || raw ? body : JSON.stringify(body),
      signal,
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Unreachable("The server cannot be reached.");
  }
  if (response.status === 204) return null;
  if (response.ok && file) {
    const name = /filename="([^"]+)"/.exec(response.headers.get("content-disposition") ?? "")?.[1];
    return { name: name ?? "download", blob: await response.blob() };
  }
  const content = await response.json().catch(() => null);
  if (response.ok && content !== null) return content;
  if (response.status >= 500 || content === null) throw new Unreachable(`The server answered ${response.status}.`);
  const refused = new Refused(response.status, content.error);
  if (refused.code === "not_signed_in" && meta("user")) {
    // The session ended while the page was open; come back here after signing in.
    location.assign(`/sign-in?next=${encodeURIComponent(location.pathname + location.hash)}`);
  }
  throw refused;
}

export const get = (path, options) => call("GET", path, undefined, options);
export const post = (path, body = undefined) => call("POST", path, body);
export const put = (path, body) => call("PUT", path, body);
export const patch = (path, body) => call("PATCH", path, body);
export const remove = (path) => call("DELETE", path);

/** Markdown as trees of allowed elements; without the server's help, null: then texts are shown as they are. */
export async function rendered(texts) {
  try {
    return (await post("/render", { texts })).trees;
  } catch {
    return texts.map(() => null);
  }
}
