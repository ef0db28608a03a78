// Server-sent events by fetch(), which can send a token where EventSource cannot. The stream is
// resumed behind the last event, whatever became of the service in between.

import { request } from "./http.js";

// The service says something every 15 s, be it a heartbeat.
const SILENCE_MS_MAX = 40_000;
const BACKOFF_MS = [250, 500, 1_000, 2_000, 4_000, 8_000, 15_000];

/**
 * Return what takes a stream piece by piece. `onEvent({type, data})` is called with whole events,
 * `onId(id)` in front of them with the place in the stream, which moves on without events as well.
 */
export function parser(onEvent, onId) {
  let rest = "";
  let event = { id: null, type: "message", data: [] };
  return (text) => {
    rest += text;
    const lines = rest.split(/\r\n|\n|\r(?!$)/);
    rest = lines.pop();
    for (const line of lines) {
      if (line === "") {
        if (event.id !== null) {
          onId(event.id);
        }
        if (event.data.length) {
          onEvent({ type: event.type, data: event.data.join("\n") });
        }
        event = { id: null, type: "message", data: [] };
        continue;
      }
      const [, name, value] = /^([^:]*):? ?(.*)$/s.exec(line);
      if (name === "data") {
        event.data.push(value);
      } else if (name === "id") {
        event.id = value;
      } else if (name === "event") {
        event.type = value;
      }
    }
  };
}

/** Follows one stream for as long as the page is open. */
export class EventStream {
  /**
   * `onEvent(event)` gets each event once, `onState(state)` gets {name: "connecting" | "live" |
   * "waiting", ...} where a waiting one has `untilMs` and `why`. `onLost()` is called where the
   * place to resume from is not known to the service any more.
   */
  constructor(path, { onEvent, onState, onLost }) {
    this.path = path;
    this.onEvent = onEvent;
    this.onState = onState;
    this.onLost = onLost;
    this.lastId = null;
    this.hurry = null;
    this.stopped = false;
    this.connection = null;
  }

  /** Follow until stopped. */
  async follow() {
    for (let failures = 0; !this.stopped; failures += 1) {
      let why = "The connection ended";
      this.onState({ name: "connecting" });
      try {
        await this.once(() => {
          failures = 0;
        });
      } catch (error) {
        why = error.message;
        if (this.lastId !== null && error.status >= 400 && error.status < 429) {
          this.lastId = null;
          this.onLost();
        }
      }
      const step = BACKOFF_MS[Math.min(failures, BACKOFF_MS.length - 1)];
      const pauseMs = step / 2 + Math.random() * (step / 2);
      this.onState({ name: "waiting", untilMs: Date.now() + pauseMs, why });
      await this.pause(pauseMs);
    }
  }

  /** Let go of the stream for good. */
  stop() {
    this.stopped = true;
    this.connection?.abort();
    this.retry();
  }

  /** Try again now, where it is waiting. */
  retry() {
    this.hurry?.();
  }

  pause(pauseMs) {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, pauseMs);
      this.hurry = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }

  async once(onLive) {
    const silence = new AbortController();
    this.connection = silence;
    let timer = setTimeout(() => silence.abort(), SILENCE_MS_MAX);
    try {
      const headers = { Accept: "text/event-stream" };
      if (this.lastId !== null) {
        headers["Last-Event-ID"] = this.lastId;
      }
      const response = await request(this.path, { headers, signal: silence.signal });
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      const take = parser(this.onEvent, (id) => {
        this.lastId = id;
      });
      this.onState({ name: "live" });
      onLive();
      for (;;) {
        const { done, value } = await reader.read();
        if (done) {
          return;
        }
        clearTimeout(timer);
        timer = setTimeout(() => silence.abort(), SILENCE_MS_MAX);
        take(value);
      }
    } catch (error) {
      throw silence.signal.aborted ? new Error("The service has fallen silent") : error;
    } finally {
      clearTimeout(timer);
      silence.abort();
    }
  }
}
