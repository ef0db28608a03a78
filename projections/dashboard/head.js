// The head of the page: the state of the service, and which fund is shown.

import { grouped } from "./decimals.js";
import { byId, el, keyed, setText } from "./dom.js";
import { dateTime, duration } from "./times.js";

/** Show how far the ledger, its views and the page are; `told` is what the stream told of last. */
export function showHead(ledger, state, told) {
  byId("light").dataset.state = state.name;
  setText(byId("connection"), sayState(state));
  if (ledger === null) {
    return;
  }
  const newest = Math.max(told, ledger.head_sequence ?? -1);
  const applied = ledger.sequence ?? -1;
  const { clock, rules, software } = ledger;
  setText(byId("ledger"), ledger.ledger, `${clock} clock, rules ${rules}, software ${software}`);
  setText(
    byId("sequence"),
    newest < 0 ? "none yet" : grouped(String(newest)),
    ledger.now_ms === null ? "" : dateTime(ledger.now_ms),
  );
  setText(
    byId("lag"),
    sayLag(state.name === "live" ? ledger.lag_entries : null),
    "entries of the ledger that are not in these views yet",
  );
  setText(
    byId("verified"),
    applied < 0 ? "nothing yet" : `#${grouped(String(applied))} ${ledger.sha256.slice(0, 8)}`,
    applied < 0 ? "" : `SHA-256 of entry ${applied}: ${ledger.sha256}`,
  );
}

function sayLag(entries) {
  if (entries === null) {
    return "unknown";
  }
  return entries ? `${grouped(String(entries))} ${entries === 1 ? "entry" : "entries"}` : "none";
}

function sayState(state) {
  if (state.name === "live") {
    return "Live";
  }
  if (state.name === "connecting") {
    return "Connecting";
  }
  return `Reconnecting in ${duration(state.untilMs - Date.now())}`;
}

/** Let a person choose among several funds; `onChoose(currency)` is told. */
export function showCurrencies(funds, shown, onChoose) {
  byId("currencies").hidden = funds.length < 2;
  const create = (fund) => choiceOf(fund.margin_currency, onChoose);
  keyed(byId("currencies-list"), funds, (fund) => fund.margin_currency, create, (made, fund) => {
    made.firstChild.checked = fund.margin_currency === shown;
  });
}

function choiceOf(name, onChoose) {
  const input = el("input", {
    type: "radio", name: "currency", value: name, onchange: () => onChoose(name),
  });
  return el("label", {}, input, el("span", {}, name));
}
