// Exact decimals as texts. No amount that is shown ever becomes a float: digits are grouped, rounded
// and summed as digits. Floats are for pixels alone.

const DECIMAL = /^(-?)([0-9]+)(?:\.([0-9]+))?$/;

function split(text) {
  const found = DECIMAL.exec(text);
  if (found === null) {
    throw new RangeError(`no decimal: ${text}`);
  }
  return { sign: found[1], whole: found[2], fraction: found[3] ?? "" };
}

function units(text, decimals) {
  const { sign, whole, fraction } = split(text);
  return BigInt(sign + whole + fraction.padEnd(decimals, "0"));
}

function written(value, decimals) {
  const digits = (value < 0n ? -value : value).toString().padStart(decimals + 1, "0");
  const whole = digits.slice(0, digits.length - decimals);
  const fraction = digits.slice(digits.length - decimals);
  return (value < 0n ? "-" : "") + whole + (fraction ? `.${fraction}` : "");
}

/** Return how many digits stand behind the point. */
export function decimalsOf(text) {
  return split(text).fraction.length;
}

/** Write a decimal with thousands apart: "-1234.50" is "-1,234.50". */
export function grouped(text) {
  const { sign, whole, fraction } = split(text);
  const apart = whole.replace(/\B(?=([0-9]{3})+$)/g, ",");
  return sign + apart + (fraction ? `.${fraction}` : "");
}

/** Write a decimal with so many digits behind the point, half away from zero, thousands apart. */
export function rounded(text, decimals) {
  const { sign, whole, fraction } = split(text);
  if (fraction.length <= decimals) {
    const padded = fraction.padEnd(decimals, "0");
    return grouped(sign + whole + (padded ? `.${padded}` : ""));
  }
  const kept = BigInt(whole + fraction.slice(0, decimals)) + (fraction[decimals] >= "5" ? 1n : 0n);
  return grouped(written(sign && kept ? -kept : kept, decimals));
}

/** Return the sum of decimals. */
export function sum(...texts) {
  const decimals = Math.max(0, ...texts.map(decimalsOf));
  return written(texts.reduce((total, text) => total + units(text, decimals), 0n), decimals);
}

/** Return `a - b`. */
export function difference(a, b) {
  const decimals = Math.max(decimalsOf(a), decimalsOf(b));
  return written(units(a, decimals) - units(b, decimals), decimals);
}

/** Return -1, 0 or 1 for a decimal below, at or above zero. */
export function signOf(text) {
  const { sign, whole, fraction } = split(text);
  if (!/[1-9]/.test(whole + fraction)) {
    return 0;
  }
  return sign ? -1 : 1;
}

/** Return `part / whole` in thousandths, rounded down, as a small integer; null where whole is 0. */
export function permille(part, whole) {
  const decimals = Math.max(decimalsOf(part), decimalsOf(whole));
  const of = units(whole, decimals);
  return of === 0n ? null : Number((units(part, decimals) * 1000n) / of);
}

/** Write thousandths as percent: 123 is "12.3 %". */
export function percent(thousandths) {
  const sign = thousandths < 0 ? "-" : "";
  const size = Math.abs(thousandths);
  return `${sign}${Math.trunc(size / 10)}.${size % 10} %`;
}

/** Return a float to draw with; never to be shown. */
export function pixels(text) {
  return Number(text);
}
