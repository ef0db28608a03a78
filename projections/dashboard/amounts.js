// How amounts of a margin currency are written: cents for a currency of up to 6 decimals, coins whole.

import { decimalsOf, rounded } from "./decimals.js";

const SCALE_OF_MONEY = 6;
const CENTS = 2;
const COIN = 8;

/** Return how many decimals are shown of a currency that has `scale` of them. */
export function decimalsFor(scale) {
  return scale > SCALE_OF_MONEY ? COIN : Math.min(CENTS, scale);
}

/** Return the same for a fund; while its scale is unknown, as many as its amounts have. */
export function shownDecimals(fund, scale) {
  const amounts = [fund.available, fund.reserved, fund.shortfall, fund.gains, fund.draws];
  return scale === undefined ? Math.max(CENTS, ...amounts.map(decimalsOf)) : decimalsFor(scale);
}

/** Write an amount of the fund's currency; `-` stands for none. */
export function money(text, fund) {
  return text === null || text === undefined ? "–" : rounded(text, fund.moneyDecimals);
}

/** The same with the currency behind it. */
export function plainMoney(text, fund) {
  return `${money(text, fund)} ${fund.margin_currency}`;
}

/** Write a price, or another price beside it, with as many decimals as that one has. */
export function price(text, like = text) {
  return text === null || text === undefined ? "–" : rounded(text, decimalsOf(like ?? text));
}
