// Answers on their way: kept in this browser until the server confirms them. The client id stays the same over all
// attempts, so an answer that arrived unnoticed is not counted twice.

import { Refused, Unreachable, post } from "./api.js";
import { meta } from "./dom.js";

/** An id that no other answer has. Also without https, where browsers hide crypto.randomUUID. */
export function newClientId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

const LATER = new Set(["not_signed_in", "csrf", "too_many_attempts"]);

export class Outbox {
  /** `onChange(waiting, error)`; `onRefused(entry, error)` when the server will never take an answer; `onSent(entry, receipt)`. */
  constructor({ onChange, onRefused, onSent }) {
    Object.assign(this, { onChange, onRefused, onSent });
    this.key = `humanward.outbox.${meta("user")}`;
    this.running = null;
    this.unkept = []; // where the browser keeps nothing (private mode, full), at least as long as the page is open
    this.delay = 2000;
    window.addEventListener("online", () => this.flush());
  }

  get waiting() {
    try {
      return JSON.parse(localStorage.getItem(this.key)) ?? this.unkept;
    } catch {
      return this.unkept;
    }
  }

  has(taskId) {
    return this.waiting.some((entry) => entry.taskId === taskId);
  }

  /** Keep the answer, then try to send all; true when nothing is left waiting. */
  send(entry) {
    this.#keep([...this.waiting, entry]);
    return this.flush();
  }

  async flush() {
    this.running ??= this.#run().finally(() => {
      this.running = null;
    });
    return this.running;
  }

  async #run() {
    clearTimeout(this.timer);
    for (let entry = this.waiting[0]; entry; entry = this.waiting[0]) {
      try {
        const receipt = await post(`/tasks/${entry.taskId}/submit`, entry.body);
        this.#drop(entry);
        this.onSent(entry, receipt);
      } catch (error) {
        if (error instanceof Unreachable || (error instanceof Refused && LATER.has(error.code))) {
          this.timer = setTimeout(() => this.flush(), this.delay);
          this.delay = Math.min(this.delay * 2, 30_000);
          this.onChange(this.waiting.length, error);
          return false;
        }
        this.#drop(entry);
        this.onRefused(entry, error);
      }
    }
    this.delay = 2000;
    this.onChange(0);
    return true;
  }

  #drop(entry) {
    this.#keep(this.waiting.filter(({ body }) => body.client_id !== entry.body.client_id));
  }

  #keep(entries) {
    this.unkept = [];
    localStorage.removeItem(this.key);
    if (!entries.length) return;
    try {
      localStorage.setItem(this.key, JSON.stringify(entries));
    } catch {
      this.unkept = entries;
    }
  }
}
