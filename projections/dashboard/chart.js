// Charts of amounts over time, drawn by uPlot. Beside each drawn point stands its exact text, which is
// what a cursor shows; the floats are for pixels.

import { pixels, rounded } from "./decimals.js";
import { clockTime } from "./times.js";

/* global uPlot */

const STEPPED = uPlot.paths.stepped({ align: 1 });

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function compact(value) {
  const size = Math.abs(value);
  for (const [unit, letter] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
    if (size >= unit) {
      return `${+(value / unit).toFixed(2)}${letter}`;
    }
  }
  return `${+value.toPrecision(4)}`;
}

/** One chart of one amount. */
export class AmountChart {
  /**
   * `parent` is filled by the chart, which is as large as that. `look` names the CSS colour, and
   * whether the axis begins at zero; `show(point | null)` is told over which point the cursor is.
   */
  constructor(parent, { field, look, fromZero, cursorKey, show }) {
    this.parent = parent;
    this.field = field;
    this.look = look;
    this.fromZero = fromZero;
    this.cursorKey = cursorKey;
    this.show = show;
    this.points = [];
    this.range = [0, 1];
    this.decimals = 2;
    this.plot = null;
    const redrawn = () => this.rebuild();
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redrawn);
    new ResizeObserver(() => this.resize()).observe(parent);
  }

  /** Draw points, rising by time, from `fromMs` to `toMs`; the last one holds until then. */
  draw(points, fromMs, toMs, decimals) {
    this.points = points;
    this.range = [fromMs / 1000, Math.max(toMs, fromMs + 1_000) / 1000];
    this.decimals = decimals;
    if (this.plot === null) {
      this.rebuild();
    } else {
      this.plot.setData(this.data());
    }
  }

  data() {
    const times = this.points.map((point) => point.now_ms / 1000);
    const values = this.points.map((point) => pixels(point[this.field]));
    if (values.length && times.at(-1) < this.range[1]) {
      times.push(this.range[1]);
      values.push(values.at(-1));
    }
    return [times, values];
  }

  resize() {
    const { clientWidth: width, clientHeight: height } = this.parent;
    const plot = this.plot;
    if (plot !== null && width && height && (width !== plot.width || height !== plot.height)) {
      plot.setSize({ width, height });
    }
  }

  rebuild() {
    this.plot?.destroy();
    this.plot = new uPlot(this.options(), this.data(), this.parent);
  }

  options() {
    const line = colour(this.look);
    const axis = {
      stroke: colour("--muted"),
      font: "11px system-ui, sans-serif",
      grid: { stroke: colour("--grid"), width: 1 },
      ticks: { show: false },
    };
    return {
      width: this.parent.clientWidth || 300,
      height: this.parent.clientHeight || 100,
      legend: { show: false },
      padding: [10, 18, 0, 0],
      cursor: {
        sync: { key: this.cursorKey },
        drag: { x: false, y: false },
        y: false,
        points: { size: 7 },
      },
      scales: {
        x: { time: true, range: () => this.range },
        y: { range: (_plot, low, high) => this.span(low, high) },
      },
      axes: [
        { ...axis, size: 26, space: 70, values: (_plot, at) => at.map((s) => this.timeOf(s)) },
        { ...axis, size: 58, space: 32, values: (_plot, at) => at.map(compact) },
      ],
      series: [
        {},
        {
          stroke: line,
          // An area says "this much", which it does only where the axis begins at zero.
          fill: this.fromZero ? `color-mix(in srgb, ${line} 16%, transparent)` : undefined,
          width: 1.75,
          paths: STEPPED,
          points: { show: false },
        },
      ],
      hooks: { setCursor: [(plot) => this.told(plot.cursor.idx)] },
    };
  }

  span(low, high) {
    if (low === null || high === null) {
      return [0, 1];
    }
    const bottom = this.fromZero ? Math.min(0, low) : low;
    const margin = (high - bottom || Math.abs(high) || 1) * 0.08;
    return [this.fromZero && low >= 0 ? 0 : bottom - margin, high + margin];
  }

  timeOf(seconds) {
    const text = clockTime(seconds * 1000);
    return this.range[1] - this.range[0] > 600 ? text.slice(0, 5) : text;
  }

  told(index) {
    const point = index === null || index === undefined ? null : this.points[index];
    this.show(point ?? (index === this.points.length ? this.points.at(-1) : null) ?? null);
  }

  /** Say in words what is drawn. */
  summary(name, currency) {
    if (!this.points.length) {
      return `${name}: nothing yet.`;
    }
    const shown = (point) => `${rounded(point[this.field], this.decimals)} ${currency}`;
    const at = (point) => clockTime(point.now_ms);
    let [lowest, highest] = [this.points[0], this.points[0]];
    for (const point of this.points) {
      // Only which point it is comes from floats; what is said is its text.
      lowest = pixels(point[this.field]) < pixels(lowest[this.field]) ? point : lowest;
      highest = pixels(point[this.field]) > pixels(highest[this.field]) ? point : highest;
    }
    const [first, last] = [this.points[0], this.points.at(-1)];
    return (
      `${name} from ${at(first)} to ${at(last)} UTC: first ${shown(first)}, ` +
      `lowest ${shown(lowest)} at ${at(lowest)}, highest ${shown(highest)} at ${at(highest)}, ` +
      `last ${shown(last)}.`
    );
  }
}
