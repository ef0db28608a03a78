// Liquidations: those that are open, with their orders counting down, and those that ended last.

import { money, price } from "./amounts.js";
import { grouped, permille, rounded, signOf } from "./decimals.js";
import { byId, el, keyed, mark, row, setText } from "./dom.js";
import { ago, dateTime, duration } from "./times.js";

const OPEN = [
  ["name", "Liquidation", ""],
  ["instrument", "Instrument", ""],
  ["orderPrice", "Order price", "number"],
  ["bankruptcyPrice", "Bankruptcy price", "number"],
  ["filled", "Closed of", "number"],
  ["residual", "Residual", "number"],
  ["reserved", "Reserved", "number"],
  ["missing", "Missing fills", "number"],
  ["left", "Time left", "number"],
];
const CLOSED = [
  ["name", "Liquidation", ""],
  ["outcome", "Ended", ""],
  ["delta", "Fund", "number"],
  ["used", "Used of granted", "number"],
  ["when", "When", "number"],
];
export const CAPS = {
  price_concession: "price concession",
  fund: "fund",
  per_liquidation: "per liquidation",
  per_instrument: "instrument share",
};
export const ENDED = {
  better_than_bankruptcy: ["better", "better"],
  compensated: ["at a cost", "cost"],
  deleveraged: ["ADL", "adl"],
};

/** Write the heads of the tables. */
export function prepareTables() {
  for (const [id, columns] of [["open-head", OPEN], ["closed-head", CLOSED]]) {
    for (const [, label, look] of columns) {
      byId(id).append(el("th", { scope: "col", role: "columnheader", class: look }, label));
    }
  }
}

/** Return the key of a liquidation: an id may come again once the fund has forgotten it. */
export function keyOf(liquidation) {
  return `${liquidation.ledger}/${liquidation.liquidation_id}/${liquidation.takeover_sequence}`;
}

/** Make the button that opens a liquidation's story. */
export function storyButton(id) {
  return el("button", { type: "button", class: "story", "data-liquidation": id, "aria-haspopup": "dialog" }, id);
}

function side(text) {
  return el("span", { class: `side ${text}` }, text);
}

function instrumentOf(one) {
  return el("span", { class: "instrument" }, one.instrument_id, " ", side(one.position_side));
}

/** The open ones: the order that ends first on top, those without an order below. */
export class OpenLiquidations {
  constructor() {
    this.rows = [];
  }

  show(liquidations, fund, nowMs) {
    const due = (one) => (one.order_status === "open" ? one.expires_at_ms : Infinity);
    const sorted = [...liquidations].sort((a, b) => due(a) - due(b) || a.takeover_sequence - b.takeover_sequence);
    this.rows = sorted;
    keyed(byId("open-rows"), sorted, keyOf, openRow, (made, one) => fillOpen(made, one, fund));
    byId("open-empty").hidden = sorted.length > 0;
    setText(byId("open-count"), openCount(sorted.length, fund.open_liquidations));
    this.tick(nowMs);
  }

  /** Let the time left of each order pass. */
  tick(nowMs) {
    for (const [index, made] of [...byId("open-rows").children].entries()) {
      tickRow(made, this.rows[index], nowMs);
    }
  }
}

function openCount(shown, all) {
  return shown < all ? `${shown} of ${all} shown` : `${all}`;
}

function openRow(one) {
  const made = row(OPEN);
  made.cell.name.append(storyButton(one.liquidation_id));
  made.cell.instrument.append(instrumentOf(one));
  made.closed = el("span", {});
  made.bar = el("span", { class: "bar" });
  made.cell.filled.append(made.closed, el("span", { class: "meter", "aria-hidden": "true" }, made.bar));
  made.time = el("span", {});
  made.timeBar = el("span", { class: "bar" });
  made.cell.left.append(made.time, el("span", { class: "meter", "aria-hidden": "true" }, made.timeBar));
  return made;
}

function fillOpen(made, one, fund) {
  setText(made.cell.orderPrice, one.order_price === null ? "–" : grouped(one.order_price));
  const bankruptcy = price(one.bankruptcy_price, one.order_price ?? one.entry_price);
  setText(made.cell.bankruptcyPrice, bankruptcy, one.bankruptcy_price ?? "any price is covered by the margin");
  setText(made.closed, `${grouped(one.closed)} / ${grouped(one.quantity)}`);
  made.bar.style.width = `${(permille(one.closed, one.quantity) ?? 0) / 10}%`;
  setText(made.cell.residual, grouped(one.residual));
  setText(made.cell.reserved, money(one.reserved, fund), one.reserved);
  const missing = signOf(one.awaited) > 0;
  setText(made.cell.missing, missing ? grouped(one.awaited) : "–");
  mark(made.cell.missing, "alarm", one.missing_fills);
  mark(made.cell.missing, "warning", missing && !one.missing_fills);
}

function tickRow(made, one, nowMs) {
  if (one.order_status !== "open") {
    setText(made.time, waitsFor(one));
    made.timeBar.style.width = "0";
    made.lifeMs = null;
    mark(made, "ending", false);
    return;
  }
  const leftMs = one.expires_at_ms - nowMs;
  if (made.order !== one.order_id) {
    // The life of an order is not told; it began with its entry at the latest.
    [made.order, made.lifeMs] = [one.order_id, Math.max(1, one.expires_at_ms - one.now_ms)];
  }
  setText(made.time, leftMs > 0 ? duration(leftMs) : "due");
  made.timeBar.style.width = `${Math.min(100, Math.max(0, (100 * leftMs) / made.lifeMs))}%`;
  mark(made, "ending", leftMs < made.lifeMs / 4);
}

function waitsFor(one) {
  if (one.order_status === null) {
    return "no order yet";
  }
  return signOf(one.awaited) && !signOf(one.residual) ? "awaits fills" : "order ended";
}

function closedRow(one) {
  const made = row(CLOSED);
  made.cell.name.append(storyButton(one.liquidation_id), instrumentOf(one));
  const [word, look] = ENDED[one.outcome] ?? [one.outcome, ""];
  made.cell.outcome.append(el("span", { class: `chip ${look}` }, word));
  [made.used, made.bound] = [el("span", {}), el("span", { class: "note" })];
  made.cell.used.append(made.used, made.bound);
  return made;
}

/** Those that ended last, newest first. */
export function showClosed(liquidations, fund) {
  byId("closed-empty").hidden = liquidations.length > 0;
  keyed(byId("closed-rows"), liquidations, keyOf, closedRow, (made, one) => {
    const sign = signOf(one.delta) > 0 ? "+" : "";
    setText(made.cell.delta, sign + money(one.delta, fund), one.delta);
    mark(made.cell.delta, "gain", signOf(one.delta) > 0);
    mark(made.cell.delta, "loss", signOf(one.delta) < 0);
    const granted = signOf(one.granted) ? `${money(one.used, fund)} / ${rounded(one.granted, fund.moneyDecimals)}` : "–";
    setText(made.used, granted, `${one.used} of ${one.granted}`);
    const bound = CAPS[one.binding_cap];
    setText(made.bound, bound === undefined ? "" : `bound by ${bound}`);
    made.closedMs = one.closed_ms;
  });
}

/** Let time pass since they ended. */
export function tickClosed(nowMs) {
  for (const made of byId("closed-rows").children) {
    setText(made.cell.when, ago(nowMs - made.closedMs), dateTime(made.closedMs));
  }
}
