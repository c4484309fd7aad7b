// An unfinished answer, kept in this browser at once and on the server a moment later.

import { put } from "./api.js";
import { meta } from "./dom.js";

const PAUSE = 900; // ms without a change before the server is told

export class Draft {
  /** `onState` is told "saving", "saved" or "local"; `onLease` gets the lease that a save renewed. */
  constructor(taskId, { onState, onLease }) {
    Object.assign(this, { taskId, onState, onLease });
    this.key = `humanward.draft.${meta("user")}.${taskId}`;
    this.timer = null;
    this.sending = null;
  }

  /** What was kept: this browser's when the server has not confirmed it, else the server's. */
  load(fromServer) {
    const local = this.#read();
    return local && !local.confirmed ? local.draft : (fromServer ?? local?.draft ?? null);
  }

  change(draft) {
    this.draft = draft;
    this.#write(false);
    this.onState("saving");
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.flush(), PAUSE);
  }

  /** Send what is not confirmed yet; keeps trying when the server cannot be reached. */
  async flush() {
    clearTimeout(this.timer);
    this.timer = null;
    if (!this.draft) return;
    const sent = this.draft;
    try {
      this.sending = put(`/tasks/${this.taskId}/draft`, { draft: sent });
      this.onLease(await this.sending);
      if (sent === this.draft) {
        this.#write(true);
        this.onState("saved");
      }
    } catch {
      this.onState("local");
      if (this.draft) this.timer = setTimeout(() => this.flush(), 15_000);
    } finally {
      this.sending = null;
    }
  }

  /** Before an answer is sent: nothing of the draft may arrive after it. */
  async stop() {
    clearTimeout(this.timer);
    this.draft = null;
    await this.sending?.catch(() => null);
  }

  forget() {
    clearTimeout(this.timer);
    this.draft = null;
    localStorage.removeItem(this.key);
  }

  #read() {
    try {
      return JSON.parse(localStorage.getItem(this.key));
    } catch {
      return null;
    }
  }

  #write(confirmed) {
    try {
      localStorage.setItem(this.key, JSON.stringify({ draft: this.draft, confirmed }));
    } catch {
      // The browser keeps nothing (private mode, full): the server still does.
    }
  }
}
