// Two clocks: how long the lease still holds, and how long somebody really looked at the task.

const IDLE = 60_000; // without a sign of life for a minute, nobody is judging

/** Minutes left of a lease, told once a second to `onTick(seconds left)`. */
export class LeaseClock {
  constructor(onTick) {
    this.onTick = onTick;
    this.until = 0;
    setInterval(() => this.#tick(), 1000);
  }

  set(secondsLeft) {
    this.until = performance.now() + secondsLeft * 1000;
    this.#tick();
  }

  #tick() {
    this.onTick(Math.max(0, (this.until - performance.now()) / 1000));
  }
}

/** Seconds spent on a task: only while the page is in sight and somebody types, points or scrolls. */
export class Stopwatch {
  constructor() {
    this.spent = 0;
    this.last = performance.now();
    this.alive = this.last;
    const awake = () => {
      this.alive = performance.now();
    };
    for (const kind of ["pointermove", "pointerdown", "keydown", "wheel", "scroll", "touchmove"]) {
      window.addEventListener(kind, awake, { passive: true, capture: true });
    }
    setInterval(() => this.#tick(), 1000);
  }

  start(seconds = 0) {
    this.spent = seconds;
    this.last = this.alive = performance.now();
  }

  get seconds() {
    this.#tick();
    return Math.round(this.spent * 10) / 10;
  }

  #tick() {
    const now = performance.now();
    if (!document.hidden && now - this.alive < IDLE) this.spent += (now - this.last) / 1000;
    this.last = now;
  }
}
