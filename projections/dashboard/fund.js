// The fund of one margin currency: its figures now, and available and reserved over time.

import { AmountChart } from "./chart.js";
import { money, plainMoney } from "./amounts.js";
import { difference, percent, permille, signOf } from "./decimals.js";
import { byId, el, keyed, mark, row, setText } from "./dom.js";
import { read } from "./http.js";
import { clockTime, dateTime } from "./times.js";

const MINUTE_MS = 60_000;
const SPANS = [
  { name: "5 min", spanMs: 5 * MINUTE_MS, resolution: "entry" },
  { name: "15 min", spanMs: 15 * MINUTE_MS, resolution: "entry" },
  { name: "2 h", spanMs: 120 * MINUTE_MS, resolution: "minute" },
  { name: "24 h", spanMs: 1_440 * MINUTE_MS, resolution: "minute" },
  { name: "All", spanMs: null, resolution: "minute" },
];
const PAGE = 1_000;
const PAGES_MAX = 60;
const ROWS_SHOWN = 50;

/** The tiles: what the fund has, and what became of it. */
export function showFigures(fund) {
  const total = permille(fund.reserved, fund.total);
  const used = permille(fund.compensation_used, fund.compensation_granted);
  const closed = permille(fund.deleveraged_notional, fund.notional);
  const tiles = [
    { name: "Available", field: "available", note: `of ${plainMoney(fund.total, fund)} in all`, main: true },
    { name: "Reserved", field: "reserved", note: total === null ? "" : `${percent(total)} of the fund` },
    { name: "Shortfall", field: "shortfall", note: signOf(fund.shortfall) ? "owed by the treasury" : "none", alarm: signOf(fund.shortfall) },
    { name: "Gains", field: "gains", note: "closed better" },
    { name: "Draws", field: "draws", note: "closed at a cost" },
    { name: "Compensation used", field: "compensation_used", note: used === null ? "none granted" : `of ${plainMoney(fund.compensation_granted, fund)} granted` },
    { name: "Deleveraged", field: "deleveraged_notional", note: closed === null ? "notional" : `${percent(closed)} of notional closed` },
  ];
  keyed(byId("figures"), tiles, (tile) => tile.field, tileOf, (tile, item) => {
    setText(tile.amount, money(fund[item.field], fund), `${fund[item.field]} ${fund.margin_currency}`);
    setText(tile.note, item.note);
    mark(tile, "alarm", item.alarm);
  });
}

function tileOf(item) {
  const made = el("div", { class: item.main ? "tile main" : "tile" }, el("dt", {}, item.name));
  made.amount = el("dd", { class: "amount", id: `figure-${item.field}` });
  made.note = el("dd", { class: "note" });
  made.append(made.amount, made.note);
  return made;
}

/** The history of one fund, read piece by piece. */
export class History {
  constructor() {
    this.span = SPANS[1];
    this.fund = null;
    this.points = [];
    this.changed = true;
    const told = (id, field) => (point) => {
      setText(byId(id), point === null ? "" : `${money(point[field], this.fund)} at ${clockTime(point.now_ms)}`);
    };
    this.available = new AmountChart(byId("available-chart"), {
      field: "available", look: "--available", fromZero: false, cursorKey: "fund",
      show: told("available-at", "available"),
    });
    this.reserved = new AmountChart(byId("reserved-chart"), {
      field: "reserved", look: "--reserved", fromZero: true, cursorKey: "fund",
      show: told("reserved-at", "reserved"),
    });
    for (const span of SPANS) {
      byId("spans").append(this.choice(span));
    }
    byId("history-figures").addEventListener("toggle", () => this.showRows());
  }

  choice(span) {
    const input = el("input", { type: "radio", name: "span", value: span.name, onchange: () => this.choose(span) });
    input.checked = span === this.span;
    return el("label", {}, input, el("span", {}, span.name));
  }

  choose(span) {
    this.span = span;
    this.points = [];
    this.onWanted?.();
  }

  /** Read what is new of a fund as of `nowMs`; all of it where another fund is shown. */
  async refresh(fund, nowMs) {
    const [span, name] = [this.span, fund.margin_currency];
    if (this.fund?.margin_currency !== name || this.fund?.ledger !== fund.ledger) {
      this.points = [];
    }
    this.fund = fund;
    const startMs = span.spanMs === null ? 0 : Math.max(0, nowMs - span.spanMs);
    const fromMs = this.points.length ? this.points.at(-1).now_ms : startMs;
    let fresh = [];
    let cursor = null;
    for (let page = 0; page < PAGES_MAX; page += 1) {
      const answer = await read(`v1/funds/${encodeURIComponent(name)}/history`, {
        from_ms: fromMs, resolution: span.resolution, limit: PAGE, cursor,
      });
      fresh = fresh.concat(answer.points);
      cursor = answer.next;
      if (cursor === null) {
        break;
      }
    }
    if (span !== this.span || this.fund.margin_currency !== name) {
      return; // another one was chosen meanwhile, and is read anew
    }
    const older = fresh.length ? this.points.filter((p) => p.now_ms < fresh[0].now_ms) : this.points;
    this.points = older.concat(fresh);
    const outside = this.points.findIndex((point) => point.now_ms >= startMs) - 1;
    this.points.splice(0, Math.max(0, outside));
    this.changed = true;
    this.draw(nowMs);
  }

  /** Draw as of `nowMs`; called again and again, so that the right edge is now. */
  draw(nowMs) {
    if (this.fund === null) {
      return;
    }
    const last = this.points.at(-1)?.now_ms ?? nowMs;
    const toMs = Math.max(nowMs, last);
    const firstMs = this.points[0]?.now_ms ?? toMs - MINUTE_MS;
    const spanMs = this.span.spanMs ?? toMs - firstMs;
    // A fund that is younger than the time to be shown fills the chart all the same.
    const fromMs = Math.max(toMs - spanMs, Math.min(firstMs, toMs - MINUTE_MS));
    for (const chart of [this.available, this.reserved]) {
      chart.draw(this.points, fromMs, toMs, this.fund.moneyDecimals);
    }
    if (this.changed) {
      this.changed = false;
      const currency = this.fund.margin_currency;
      byId("available-chart").setAttribute("aria-label", this.available.summary("Available", currency));
      byId("reserved-chart").setAttribute("aria-label", this.reserved.summary("Reserved", currency));
      this.showRows();
    }
  }

  showRows() {
    if (!byId("history-figures").open) {
      return;
    }
    const cells = [["time", "Time"], ["available", "Available", "number"], ["reserved", "Reserved", "number"], ["shortfall", "Shortfall", "number"]];
    const newest = this.points.slice(-ROWS_SHOWN).reverse();
    keyed(byId("history-rows"), newest, (point) => `${point.sequence}`, () => row(cells), (made, point) => {
      setText(made.cell.time, clockTime(point.now_ms), dateTime(point.now_ms));
      for (const field of ["available", "reserved", "shortfall"]) {
        setText(made.cell[field], money(point[field], this.fund), point[field]);
      }
    });
  }
}

const OUTCOMES = [
  { name: "Better than bankruptcy", field: "better_than_bankruptcy", look: "better" },
  { name: "At a cost to the fund", field: "compensated", look: "cost" },
  { name: "By ADL", field: "deleveraged", look: "adl" },
];

/** Where liquidations ended: counts by liquidation, notional by how each part was closed. */
export function showOutcomes(fund) {
  const rest = difference(difference(fund.notional, fund.compensated_notional), fund.deleveraged_notional);
  const notional = [rest, fund.compensated_notional, fund.deleveraged_notional];
  const rows = OUTCOMES.map((outcome, index) => ({
    ...outcome,
    count: fund[outcome.field],
    notional: notional[index],
    share: permille(notional[index], fund.notional),
  }));
  keyed(byId("outcome-rows"), rows, (one) => one.field, outcomeRow, (made, one) => {
    setText(made.count, String(one.count));
    setText(made.notional, money(one.notional, fund), `${one.notional} ${fund.margin_currency}`);
    setText(made.share, one.share === null ? "" : percent(one.share));
  });
  keyed(byId("split"), rows, (one) => one.field, (one) => el("span", { class: one.look }), (made, one) => {
    made.style.flexGrow = String(one.share ?? 0);
  });
  const said = rows.map((one) => `${one.name}: ${one.count} liquidations, ${one.share === null ? "no" : percent(one.share)} of notional`);
  byId("split").setAttribute("aria-label", signOf(fund.notional) ? `${said.join("; ")}.` : "Nothing has ended yet.");
  setText(
    byId("outcomes-note"),
    signOf(fund.compensated_notional)
      ? `${money(fund.compensated_notional, fund)} ${fund.margin_currency} of notional was closed on the market only thanks to compensation.`
      : "Nothing needed compensation yet.",
  );
}

function outcomeRow(one) {
  const made = el("tr", {}, el("th", { scope: "row" }, el("span", { class: `swatch ${one.look}` }), one.name));
  made.count = el("td", { class: "number" });
  made.notional = el("span", {});
  made.share = el("span", { class: "note" });
  made.append(made.count, el("td", { class: "number two" }, made.notional, made.share));
  return made;
}

/** How near each instrument is to its cap in the rolling window. */
export function showShares(fund) {
  byId("shares-empty").hidden = fund.instruments.length > 0;
  setText(
    byId("window-maximum"),
    fund.instruments.length ? `Window maximum ${money(fund.window_maximum, fund)}` : "",
    `${fund.window_maximum} ${fund.margin_currency}`,
  );
  keyed(byId("shares"), fund.instruments, (one) => one.instrument_id, shareOf, (made, one) => {
    const used = permille(one.used, one.limit) ?? (signOf(one.used) > 0 ? 1000 : 0);
    const level = used >= 900 ? "full" : used >= 700 ? "near" : "calm";
    const word = { full: "at the cap", near: "near the cap", calm: "" }[level];
    made.className = level;
    made.bar.style.width = `${Math.min(1000, Math.max(0, used)) / 10}%`;
    setText(made.percent, percent(used));
    setText(made.word, word);
    setText(made.used, money(one.used, fund), one.used);
    setText(made.limit, money(one.limit, fund), one.limit);
    setText(made.headroom, money(one.headroom, fund), one.headroom);
    made.meter.setAttribute("aria-valuenow", String(Math.min(1000, Math.max(0, used)) / 10));
    made.meter.setAttribute("aria-valuetext", `${percent(used)} of its cap used${word ? `, ${word}` : ""}`);
  });
}

function shareOf(one) {
  const made = el("li", {});
  made.percent = el("span", { class: "number" });
  made.word = el("span", { class: "word" });
  made.bar = el("span", { class: "bar" });
  made.meter = el("div", {
    class: "meter", role: "meter", "aria-label": `${one.instrument_id}, share of the fund used`,
    "aria-valuemin": "0", "aria-valuemax": "100",
  }, made.bar);
  [made.used, made.limit, made.headroom] = [el("span", {}), el("span", {}), el("span", {})];
  made.append(
    el("div", { class: "head" }, el("strong", {}, one.instrument_id), made.word, made.percent),
    made.meter,
    el("p", { class: "note" }, made.used, " used of ", made.limit, ", ", made.headroom, " left"),
  );
  return made;
}
