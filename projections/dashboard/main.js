// The page: reads the views, follows the stream, and reads again what an entry has changed.

import { decimalsFor, shownDecimals } from "./amounts.js";
import { byId, mark, setText } from "./dom.js";
import { History, showFigures, showOutcomes, showShares } from "./fund.js";
import { showCurrencies, showHead } from "./head.js";
import { read, tokens } from "./http.js";
import { OpenLiquidations, prepareTables, showClosed, tickClosed } from "./liquidations.js";
import { EventStream } from "./sse.js";
import { Story } from "./story.js";
import { Announcer, showTriggers, tickTriggers } from "./triggers.js";

const REFRESH_MS = 700;
const BEHIND_MS = 250;
const AGAIN_MS = 3_000;
const OPEN_SHOWN = 200;
const TRIGGERS_SHOWN = 40;
const CLOSED_SHOWN = 30;
// The newest takeovers come first: of these, those that ended last are shown.
const CLOSED_READ = 150;
const CURRENCY = "insurance-fund-currency";

const PARTS = ["open", "triggers", "closed"];

const page = {
  ledgers: [],
  funds: [],
  currency: sessionStorage.getItem(CURRENCY),
  // Decimals of each currency, as far as its liquidations have told them.
  scales: new Map(),
  // What the stream of the ledger that is shown has told of last, now and when views were asked for.
  told: -1,
  asked: -1,
  streaming: null,
  // Which parts are to be read again.
  dirty: new Set(PARTS),
  skewMs: 0,
  refreshing: false,
  // Whether somebody wished for a reading while one went on, or the page was hidden.
  stale: false,
  wanted: null,
};
const history = new History();
const open = new OpenLiquidations();
const announcer = new Announcer();
const story = new Story((row) => decimalsFor(row.scale));

function chosen() {
  return page.funds.find((fund) => fund.margin_currency === page.currency) ?? page.funds[0] ?? null;
}

function ledgerOf(fund) {
  return page.ledgers.find((one) => one.ledger === fund?.ledger) ?? page.ledgers[0] ?? null;
}

/** Return the time of what is shown: the wall's, or that of a ledger which runs by its events. */
function nowMs() {
  const ledger = ledgerOf(chosen());
  return ledger?.clock === "event" ? ledger.now_ms : Date.now() + page.skewMs;
}

/** Read soon what has changed; several wishes within a moment are one. */
function refreshSoon(delayMs = REFRESH_MS) {
  page.wanted ??= setTimeout(() => {
    page.wanted = null;
    refresh();
  }, delayMs);
}

async function refresh() {
  if (document.hidden || page.refreshing) {
    page.stale = true;
    return;
  }
  [page.refreshing, page.stale, page.asked] = [true, false, page.told];
  try {
    await readAll();
    const unread = page.ledgers.find((one) => one.trouble);
    showTrouble(unread ? new Error(`Ledger ${unread.ledger} cannot be followed: ${unread.trouble}`) : null);
    if (isBehind() || page.stale) {
      refreshSoon(BEHIND_MS);
    }
  } catch (error) {
    showTrouble(error);
    refreshSoon(AGAIN_MS);
  } finally {
    page.refreshing = false;
  }
}

/** Say whether the views that were read lack entries that had been told of by then. */
function isBehind() {
  return page.asked > (ledgerOf(chosen())?.sequence ?? -1);
}

async function readAll() {
  const [ledgers, funds] = await Promise.all([read("v1/ledgers"), read("v1/funds")]);
  page.ledgers = ledgers.ledgers;
  page.funds = funds.funds;
  follow();
  showService();
  showCurrencies(page.funds, chosen()?.margin_currency, choose);
  const fund = chosen();
  byId("main").setAttribute("aria-busy", "false");
  [byId("main").hidden, byId("unread").hidden] = [false, true];
  byId("no-fund").hidden = fund !== null;
  mark(document.body, "bare", fund === null);
  if (fund === null) {
    return;
  }
  const fresh = await readParts(fund.margin_currency);
  fund.moneyDecimals = shownDecimals(fund, page.scales.get(fund.margin_currency));
  const now = nowMs();
  showFigures(fund);
  showOutcomes(fund);
  showShares(fund);
  if (fresh.open) {
    open.show(fresh.open.liquidations, fund, now);
  }
  if (fresh.triggers) {
    showTriggers(fresh.triggers.triggers, fund, fresh.triggers.next !== null);
  }
  if (fresh.closed) {
    const ended = fresh.closed.liquidations.sort((a, b) => b.closed_ms - a.closed_ms);
    showClosed(ended.slice(0, CLOSED_SHOWN), fund);
  }
  tickSlowly(now);
  await Promise.all([history.refresh(fund, now), story.refresh(isBehind())]);
}

/** Read the parts that have changed. */
async function readParts(currency) {
  const of = { margin_currency: currency };
  const paths = {
    open: ["v1/liquidations", { ...of, status: "open", limit: OPEN_SHOWN }],
    triggers: ["v1/adl-triggers", { ...of, limit: TRIGGERS_SHOWN }],
    closed: ["v1/liquidations", { ...of, status: "closed", limit: CLOSED_READ }],
  };
  const parts = PARTS.filter((part) => page.dirty.has(part));
  page.dirty.clear();
  let answers;
  try {
    answers = await Promise.all(parts.map((part) => read(...paths[part])));
  } catch (error) {
    parts.forEach((part) => page.dirty.add(part));
    throw error;
  }
  const fresh = Object.fromEntries(parts.map((part, index) => [part, answers[index]]));
  for (const answer of answers) {
    page.skewMs = answer.as_of_ms - Date.now();
    answer.liquidations?.forEach((one) => page.scales.set(one.margin_currency, one.scale));
  }
  if (isBehind()) {
    parts.forEach((part) => page.dirty.add(part));
  }
  return fresh;
}

/** Follow the stream of the ledger that is shown, from where its views are. */
function follow() {
  const ledger = ledgerOf(chosen());
  if (ledger === null || page.streaming?.ledger === ledger.ledger) {
    return;
  }
  // A browser gives one server few connections: one stream is followed, however many ledgers.
  page.streaming?.stream.stop();
  [page.told, page.asked] = [-1, -1];
  const stream = new EventStream(`v1/stream?ledger=${encodeURIComponent(ledger.ledger)}`, {
    onEvent: (event) => onEvent(event),
    onState: (state) => onState(stream, state),
    onLost: () => {
      [page.told, page.asked] = [-1, -1];
    },
  });
  stream.lastId = (ledger.sequence ?? -1) < 0 ? null : String(ledger.sequence);
  page.streaming = { ledger: ledger.ledger, stream, state: { name: "connecting" } };
  stream.follow();
}

function onEvent(event) {
  if (event.type !== "entry") {
    return;
  }
  const entry = JSON.parse(event.data);
  page.told = entry.sequence;
  for (const effect of entry.effects) {
    if (effect.type === "adl_triggered") {
      announcer.take(effect);
    }
    if (effect.type.startsWith("adl_")) {
      page.dirty.add("triggers");
    }
    if (effect.type === "liquidation_closed") {
      page.dirty.add("closed");
    }
    if (effect.liquidation_id !== undefined) {
      page.dirty.add("open");
      story.touch(effect.liquidation_id);
    }
  }
  showService();
  refreshSoon();
}

function onState(stream, state) {
  if (page.streaming?.stream !== stream) {
    return;
  }
  page.streaming.state = state;
  if (state.name === "live") {
    readAgain();
  }
  showService();
}

/** Read all parts again, at once. */
function readAgain() {
  PARTS.forEach((part) => page.dirty.add(part));
  clearTimeout(page.wanted);
  page.wanted = null;
  refreshSoon(0);
}

function showService() {
  showHead(ledgerOf(chosen()), page.streaming?.state ?? { name: "connecting" }, page.told);
}

function choose(currency) {
  page.currency = currency;
  sessionStorage.setItem(CURRENCY, currency);
  readAgain();
}

function showTrouble(trouble) {
  byId("banner").hidden = trouble === null;
  mark(document.body, "stale", trouble !== null);
  if (trouble !== null) {
    const old = byId("main").hidden ? "The" : "What is shown may be old; the";
    setText(byId("banner-text"), `${trouble.message.replace(/[.]$/, "")}. ${old} page tries again by itself.`);
    byId("unread").hidden = true;
  }
}

function tick() {
  if (!document.hidden) {
    open.tick(nowMs());
    showService();
  }
}

function tickSlowly(now) {
  if (!document.hidden) {
    tickTriggers(now);
    tickClosed(now);
    // What cannot be read must not look as if nothing had happened.
    if (!document.body.classList.contains("stale")) {
      history.draw(now);
    }
  }
}

tokens.ask = (why) =>
  new Promise((resolve) => {
    const dialog = byId("token");
    setText(byId("token-wrong"), why);
    byId("token-form").onsubmit = (event) => {
      event.preventDefault();
      const token = byId("token-input").value;
      byId("token-input").value = "";
      dialog.close();
      resolve(token);
    };
    // There is nothing to see without one.
    dialog.oncancel = (event) => event.preventDefault();
    dialog.showModal();
  });

byId("retry").addEventListener("click", () => {
  page.streaming?.stream.retry();
  readAgain();
});
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) {
    readAgain();
  }
});
history.onWanted = () => refreshSoon(0);
prepareTables();
refresh().then(() => story.follow());
setInterval(tick, 200);
setInterval(() => tickSlowly(nowMs()), 1_000);
