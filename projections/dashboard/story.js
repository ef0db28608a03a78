// The story of a liquidation, in a dialog that the address names: #liquidation/ID.

import { money, price } from "./amounts.js";
import { grouped } from "./decimals.js";
import { byId, el, setText } from "./dom.js";
import { read } from "./http.js";
import { CAPS, ENDED } from "./liquidations.js";
import { dateTime } from "./times.js";

const ADDRESS = /^#liquidation\/(.+)$/;

/** The dialog; `decimals(row)` gives how the currency of a row is shown. */
export class Story {
  constructor(decimals) {
    this.decimals = decimals;
    this.dialog = byId("story");
    this.opened = null;
    this.from = null;
    this.next = null;
    this.touched = false;
    document.addEventListener("click", (event) => {
      const button = event.target.closest("button.story");
      if (button !== null) {
        location.hash = `liquidation/${encodeURIComponent(button.dataset.liquidation)}`;
      }
    });
    byId("story-close").addEventListener("click", () => this.dialog.close());
    byId("story-more").addEventListener("click", () => this.readMore());
    // A click beside the dialog is one on the dialog itself, whose content fills it.
    this.dialog.addEventListener("click", (event) => {
      if (event.target === this.dialog) {
        this.dialog.close();
      }
    });
    this.dialog.addEventListener("close", () => this.closed());
    addEventListener("hashchange", () => this.follow());
  }

  /** Show what the address names, or nothing. */
  follow() {
    const named = ADDRESS.exec(location.hash);
    const id = named === null ? null : decodeURIComponent(named[1]);
    if (id === null) {
      this.dialog.close();
    } else if (id !== this.opened) {
      this.open(id);
    }
  }

  open(id) {
    [this.opened, this.touched] = [id, false];
    this.from = document.activeElement;
    setText(byId("story-heading"), `Liquidation ${id}`);
    for (const part of ["story-facts", "story-lines"]) {
      byId(part).replaceChildren();
    }
    setText(byId("story-note"), "Reading its story …");
    byId("story-more").hidden = true;
    if (!this.dialog.open) {
      this.dialog.showModal();
    }
    byId("story-heading").focus();
    this.next = null;
    return this.readMore();
  }

  closed() {
    const id = this.opened;
    this.opened = null;
    if (ADDRESS.test(location.hash)) {
      history.replaceState(null, "", location.pathname + location.search);
    }
    // Where the row has gone meanwhile, another that names the liquidation, or its panel.
    const same = `button.story[data-liquidation="${CSS.escape(id ?? "")}"]`;
    const back = this.from?.isConnected ? this.from : document.querySelector(same);
    (back ?? byId("open-heading")).focus();
  }

  /** Read the story on. */
  async readMore() {
    const id = this.opened;
    try {
      const answer = await this.read(this.next);
      if (answer !== null) {
        this.showLines(answer.story.lines);
        this.next = answer.story.next;
        byId("story-more").hidden = this.next === null;
        setText(byId("story-note"), answer.story.lines.length ? "" : "Nothing is told of it yet.");
      }
    } catch (error) {
      if (id === this.opened) {
        setText(byId("story-note"), error.status === 404 ? `No liquidation ${id} is known.` : error.message);
      }
    }
  }

  /** Return an answer about the liquidation that is open, null where another is by then. */
  async read(cursor) {
    const id = this.opened;
    const answer = await read(`v1/liquidations/${encodeURIComponent(id)}`, { cursor });
    if (id !== this.opened) {
      return null;
    }
    this.showFacts(answer.liquidation);
    return answer;
  }

  /** Note that an entry is about a liquidation. */
  touch(id) {
    this.touched ||= id === this.opened;
  }

  /** Read what was added, where the story was read to its end; once more if views are behind. */
  async refresh(isBehind) {
    if (!this.touched || this.opened === null || this.next !== null) {
      return;
    }
    this.touched = isBehind;
    const answer = await this.read(null);
    if (answer !== null && answer.story.next === null) {
      this.showLines(answer.story.lines.slice(byId("story-lines").children.length));
    }
  }

  showLines(lines) {
    byId("story-lines").append(...lines.map(lineOf));
  }

  showFacts(one) {
    const shown = { moneyDecimals: this.decimals(one), margin_currency: one.margin_currency };
    const [ended] = ENDED[one.outcome] ?? ["open"];
    const facts = [
      ["Instrument", `${one.instrument_id}, ${one.position_side}`],
      ["Account", one.account_id],
      ["Closed of", `${grouped(one.closed)} / ${grouped(one.quantity)}`],
      ["Entry price", price(one.entry_price)],
      ["Bankruptcy price", price(one.bankruptcy_price, one.order_price ?? one.entry_price)],
      ["Ended", ended],
      [`Fund, ${one.margin_currency}`, money(one.delta, shown)],
      ["Used of granted", `${money(one.used, shown)} / ${money(one.granted, shown)}`],
      ["Cap that bound", CAPS[one.binding_cap] ?? "none"],
      ["Deleveraged", grouped(one.deleveraged)],
    ];
    byId("story-facts").replaceChildren(
      ...facts.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))),
    );
  }
}

function lineOf(line) {
  return el("li", {},
    el("p", { class: "at" },
      el("span", { class: "number" }, `#${line.sequence}`),
      el("time", {}, dateTime(line.now_ms)),
      el("span", { class: `chip ${toneOf(line.effect)}` }, line.effect.replaceAll("_", " "))),
    el("p", {}, line.text));
}

function toneOf(effect) {
  if (effect.startsWith("adl_")) {
    return "adl";
  }
  return effect === "fills_missing" || effect === "rejected" ? "cost" : "calm";
}
