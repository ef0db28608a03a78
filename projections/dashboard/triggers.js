// ADL triggers as they come, newest first, each with the evidence for it.

import { money, price } from "./amounts.js";
import { grouped, permille, signOf } from "./decimals.js";
import { byId, el, keyed, mark, setText } from "./dom.js";
import { CAPS, keyOf, storyButton } from "./liquidations.js";
import { ago, dateTime } from "./times.js";

const REASONS = {
  order_expired: "the order expired unfilled",
  order_rejected: "the order was rejected",
  order_cancelled: "the order was cancelled",
  order_filled: "more was left than the filled order covered",
  deadline: "the order was due to end and no report came",
  no_order: "no order stood for it in time",
};
const STATES = {
  open: ["open", "cost"],
  executed: ["executed", "calm"],
  cancelled: ["cancelled", "calm"],
};
// So long a trigger that came is marked as new, and so long several are told together.
const NEW_MS = 6_000;
const TOLD_TOGETHER_MS = 3_000;

/** Show triggers; `more` says whether there are older ones. */
export function showTriggers(triggers, fund, more) {
  byId("triggers-empty").hidden = triggers.length > 0;
  setText(byId("triggers-count"), more ? `the newest ${triggers.length}` : `${triggers.length}`);
  keyed(byId("triggers"), triggers, keyOf, triggerOf, (made, one) => {
    made.firstMs = one.first_ms;
    fill(made, one, fund);
  });
}

/** Let time pass: those that came just now stand out for a moment. */
export function tickTriggers(nowMs) {
  for (const made of byId("triggers").children) {
    setText(made.when, ago(nowMs - made.firstMs), dateTime(made.firstMs));
    mark(made, "new", nowMs - made.firstMs < NEW_MS);
  }
}

const EVIDENCE = [
  ["lastOrder", "Last order"],
  ["filled", "Filled of it"],
  ["compensation", "Granted"],
  ["cap", "Cap that bound"],
  ["needed", "Needed at the mark price"],
  ["mark", "Mark price"],
  ["bankruptcy", "Bankruptcy price"],
  ["available", "Fund had available"],
];

function triggerOf(one) {
  const made = el("li", {});
  made.chip = el("span", { class: "chip" });
  made.what = el("span", { class: "what" });
  made.why = el("span", { class: "note" });
  made.when = el("span", { class: "note when" });
  made.done = el("span", {});
  made.bar = el("span", { class: "bar" });
  made.evidence = {};
  const facts = el("dl", { class: "evidence", "aria-label": "Evidence" });
  for (const [key, label] of EVIDENCE) {
    made.evidence[key] = el("dd", {});
    facts.append(el("div", {}, el("dt", {}, label), made.evidence[key]));
  }
  made.append(
    el("div", { class: "head" }, storyButton(one.liquidation_id), made.chip, made.what, made.when),
    el("div", { class: "progress" },
      made.why, made.done, el("span", { class: "meter", "aria-hidden": "true" }, made.bar)),
    facts,
  );
  return made;
}

function fill(made, one, fund) {
  const [word, look] = STATES[one.state] ?? [one.state, ""];
  setText(made.chip, word);
  made.chip.className = `chip ${look}`;
  const revision = one.revision > 1 ? `, revision ${one.revision}` : "";
  setText(made.what, `${one.order_side} ${grouped(one.quantity)} ${one.instrument_id} at ${price(one.price)}${revision}`);
  setText(made.why, `Because ${REASONS[one.reason] ?? one.reason}.`);
  const nobody = signOf(one.unfilled) && one.state === "open" ? `; nobody was found for ${grouped(one.unfilled)}` : "";
  setText(made.done, `${grouped(one.executed)} of ${grouped(one.quantity)} executed${nobody}`);
  made.bar.style.width = `${Math.min(1000, permille(one.executed, one.quantity) ?? 0) / 10}%`;
  const told = one.evidence;
  const like = told.order_price ?? one.price;
  const said = {
    lastOrder: told.order_price === null ? "none" : price(told.order_price),
    filled: grouped(told.filled_quantity),
    compensation: money(told.compensation, fund),
    cap: CAPS[told.binding_cap] ?? "none",
    needed: money(told.compensation_needed, fund),
    mark: price(told.mark_price),
    bankruptcy: price(told.bankruptcy_price, like),
    available: money(told.fund_available, fund),
  };
  for (const [key] of EVIDENCE) {
    setText(made.evidence[key], said[key]);
  }
  made.evidence.bankruptcy.title = told.bankruptcy_price ?? "";
}

/** Tells new triggers to who listens to the page, several at once where they come fast. */
export class Announcer {
  constructor() {
    this.waiting = [];
    this.timer = null;
  }

  take(effect) {
    this.waiting.push(effect);
    this.timer ??= setTimeout(() => this.tell(), this.waiting.length > 1 ? TOLD_TOGETHER_MS : 0);
  }

  tell() {
    const [first, ...more] = this.waiting;
    const one = `${first.order_side} ${first.quantity} ${first.instrument_id} at ${first.price}, ${first.liquidation_id}`;
    byId("announcements").textContent = more.length ? `${more.length + 1} new ADL triggers, the first: ${one}` : `New ADL trigger: ${one}`;
    this.waiting = [];
    // What comes soon after is told together.
    this.timer = setTimeout(() => {
      this.timer = null;
      if (this.waiting.length) {
        this.tell();
      }
    }, TOLD_TOGETHER_MS);
  }
}
