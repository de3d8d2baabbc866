// @ts-check
// Line charts as SVG: several series over one x axis, a cursor, and reading by pointer and keyboard.
//
//   const chart = createChart({ title, xLabel, yLabel, log, reversed, unit, series, read, onMove });
//   chart.setSeries([{ name, x, y, style }]); chart.setCursor(index); parent.append(chart.element);
//
// Values that are not finite, or not above 0 on a logarithmic axis, are left out of the lines. A line
// with `points: false` is context and is not read; one with `marked: false` has no mark at the cursor.

const SVG = "http://www.w3.org/2000/svg";
const HEIGHT = 190;
const MARGIN = { left: 52, right: 12, top: 10, bottom: 34 };

export function createChart(options) {
  const figure = document.createElement("figure");
  figure.className = "chart";
  const caption = document.createElement("figcaption");
  caption.append(...[options.caption ?? options.title].flat());
  const box = document.createElement("div");
  box.className = "chart-box";
  const reading = document.createElement("output");
  reading.className = "chart-reading";
  const legend = document.createElement("div");
  legend.className = "chart-legend";
  figure.append(caption, legend, box, reading);
  if (options.onMove) {
    box.tabIndex = 0;
    box.setAttribute("role", "slider");
    box.setAttribute("aria-label", options.title);
  } else {
    box.setAttribute("role", "img");
  }

  let series = [];
  let cursor = 0;
  let hovered = null;
  let scales = null;

  function redraw() {
    const width = Math.max(box.clientWidth, 180);
    scales = makeScales(series, options, width);
    box.replaceChildren(drawChart(series, scales, options, width));
    legend.replaceChildren(...drawLegend(series));
    moveCursor();
  }

  function moveCursor() {
    const svg = box.firstElementChild;
    if (!svg) {
      return;
    }
    svg.querySelector(".chart-cursor").replaceChildren(...drawCursor(series, scales, hovered ?? cursor));
    const text = options.read ? options.read(hovered ?? cursor) : "";
    reading.textContent = text;
    if (options.onMove) {
      box.setAttribute("aria-valuemin", "0");
      box.setAttribute("aria-valuemax", String(pointCount() - 1));
      box.setAttribute("aria-valuenow", String(cursor));
      box.setAttribute("aria-valuetext", options.read ? options.read(cursor) : String(cursor));
    } else {
      box.setAttribute("aria-label", `${options.title}. ${text}`);
    }
  }

  function pointCount() {
    return Math.max(1, ...series.filter((line) => line.points !== false).map((line) => line.x.length));
  }

  function nearestPoint(event) {
    const left = box.getBoundingClientRect().left;
    const place = event.clientX - left;
    const line = series.filter((one) => one.points !== false).reduce((a, b) => (b.x.length > a.x.length ? b : a));
    let best = 0;
    Array.from(line.x).forEach((value, i) => {
      if (Math.abs(scales.x(value) - place) < Math.abs(scales.x(line.x[best]) - place)) {
        best = i;
      }
    });
    return best;
  }

  box.addEventListener("pointermove", (event) => {
    if (series.length) {
      hovered = nearestPoint(event);
      moveCursor();
    }
  });
  box.addEventListener("pointerleave", () => {
    hovered = null;
    moveCursor();
  });
  if (options.onMove) {
    box.addEventListener("click", (event) => series.length && options.onMove(nearestPoint(event)));
    box.addEventListener("keydown", (event) => {
      const last = pointCount() - 1;
      const moves = { ArrowLeft: cursor - 1, ArrowRight: cursor + 1, Home: 0, End: last };
      if (event.key in moves) {
        event.preventDefault();
        event.stopPropagation();
        options.onMove(Math.min(Math.max(moves[event.key], 0), last));
      }
    });
  }
  new ResizeObserver(() => box.clientWidth > 0 && redraw()).observe(box);

  return {
    element: figure,
    setSeries(lines) {
      series = lines;
      redraw();
    },
    setCursor(index) {
      cursor = index;
      moveCursor();
    },
  };
}

// The readable form of a number: three significant digits, powers of ten for the far ends.
export function formatNumber(value) {
  if (value === null || value === undefined || Number.isNaN(value)) {
    return "none";
  }
  if (!Number.isFinite(value)) {
    return value > 0 ? "infinity" : "-infinity";
  }
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e5)) {
    return value.toExponential(2).replace("e+", "e");
  }
  return String(Number(value.toPrecision(3)));
}

function usable(value, log) {
  return Number.isFinite(value) && (!log || value > 0);
}

function makeScales(series, options, width) {
  const xs = series.flatMap((line) => Array.from(line.x)).filter((value) => Number.isFinite(value));
  const ys = series.flatMap((line) => Array.from(line.y)).filter((value) => usable(value, options.log));
  const xRange = extent(xs.length ? xs : [0, 1], false);
  const yRange = extent(options.range ?? (ys.length ? ys : [1, 1]), options.log);
  const from = MARGIN.left;
  const to = width - MARGIN.right;
  /** @type {(value: number, range: number[], start: number, end: number) => number} */
  const place = (value, [low, high], start, end) => start + ((value - low) / (high - low)) * (end - start);
  const convert = options.log ? Math.log10 : (value) => value;
  return {
    xRange,
    yRange,
    x: (value) => (options.reversed ? place(value, xRange, to, from) : place(value, xRange, from, to)),
    // A value beyond the range is drawn at its border.
    y: (value) => {
      const known = usable(value, options.log) ? value : value > 0 ? yRange[1] : yRange[0];
      const height = place(convert(known), yRange.map(convert), HEIGHT - MARGIN.bottom, MARGIN.top);
      return Math.min(Math.max(height, MARGIN.top), HEIGHT - MARGIN.bottom);
    },
  };
}

function extent(values, log) {
  const low = values.reduce((a, b) => Math.min(a, b), Infinity);
  const high = values.reduce((a, b) => Math.max(a, b), -Infinity);
  if (log) {
    const first = 10 ** Math.floor(Math.log10(low));
    const last = 10 ** Math.ceil(Math.log10(high));
    return first === last ? [first / 10, last * 10] : [first, last];
  }
  return low === high ? [low - 0.5, high + 0.5] : [low, high];
}

function drawChart(series, scales, options, width) {
  const svg = element("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, width, height: HEIGHT, "aria-hidden": "true" });
  const bottom = HEIGHT - MARGIN.bottom;
  const right = width - MARGIN.right;
  for (const value of ticks(scales.yRange, options.log, 4)) {
    const y = scales.y(value);
    svg.append(
      element("line", { class: "chart-grid", x1: MARGIN.left, x2: right, y1: y, y2: y }),
      label(MARGIN.left - 6, y + 4, "end", tickText(value, options.log)),
    );
  }
  for (const value of ticks(scales.xRange, false, width < 300 ? 3 : 5)) {
    svg.append(label(scales.x(value), bottom + 15, "middle", formatNumber(value)));
  }
  svg.append(
    element("line", { class: "chart-axis", x1: MARGIN.left, x2: right, y1: bottom, y2: bottom }),
    label((MARGIN.left + right) / 2, HEIGHT - 4, "middle", options.xLabel),
  );
  series.forEach((line, i) => {
    const style = line.style ?? `tone-${i}`;
    svg.append(element("path", { class: `chart-line ${style}`, d: pathOf(line, scales, options.log) }));
    if (line.points) {
      Array.from(line.x).forEach((value, k) => {
        if (usable(line.y[k], options.log)) {
          svg.append(element("circle", { class: `chart-point ${style}`, cx: scales.x(value), cy: scales.y(line.y[k]), r: 2.2 }));
        }
      });
    }
  });
  svg.append(element("g", { class: "chart-cursor" }));
  return svg;
}

// The names of the lines with their strokes; nothing for a single line.
function drawLegend(series) {
  const named = series.filter((line) => line.name);
  if (named.length < 2) return [];
  return named.map((line) => {
    const entry = document.createElement("span");
    const stroke = element("svg", { width: 22, height: 8, "aria-hidden": "true" });
    stroke.append(element("line", { class: `chart-line ${line.style}`, x1: 0, x2: 22, y1: 4, y2: 4 }));
    entry.append(stroke, line.name);
    return entry;
  });
}

function pathOf(line, scales, log) {
  let pen = "M";
  const parts = [];
  Array.from(line.x).forEach((value, i) => {
    if (!usable(line.y[i], log) || !Number.isFinite(value)) {
      pen = "M";
      return;
    }
    parts.push(`${pen}${scales.x(value).toFixed(1)} ${scales.y(line.y[i]).toFixed(1)}`);
    pen = "L";
  });
  return parts.join("");
}

function drawCursor(series, scales, index) {
  const line = series.find((one) => one.points !== false && index < one.x.length);
  if (!line) {
    return [];
  }
  const x = scales.x(line.x[index]);
  const parts = [element("line", { class: "chart-position", x1: x, x2: x, y1: MARGIN.top, y2: HEIGHT - MARGIN.bottom })];
  series.forEach((one, i) => {
    if (one.points !== false && one.marked !== false && index < one.x.length && !Number.isNaN(one.y[index])) {
      const style = one.style ?? `tone-${i}`;
      parts.push(element("circle", { class: `chart-mark ${style}`, cx: scales.x(one.x[index]), cy: scales.y(one.y[index]), r: 5 }));
    }
  });
  return parts;
}

function ticks([low, high], log, count) {
  if (log) {
    const first = Math.round(Math.log10(low));
    const last = Math.round(Math.log10(high));
    const stride = Math.max(1, Math.ceil((last - first) / count));
    const powers = [];
    for (let power = first; power <= last; power += stride) {
      powers.push(10 ** power);
    }
    return powers;
  }
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const stride = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough);
  const values = [];
  for (let value = Math.ceil(low / stride) * stride; value <= high + stride * 1e-9; value += stride) {
    values.push(Number(value.toPrecision(12)));
  }
  return values;
}

function tickText(value, log) {
  const power = Math.round(Math.log10(value));
  if (!log || (power >= -2 && power <= 3)) {
    return formatNumber(value);
  }
  return `1e${power}`;
}

function element(name, attributes) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) {
    node.setAttribute(key, String(value));
  }
  return node;
}

function label(x, y, anchor, text) {
  const node = element("text", { class: "chart-text", x, y, "text-anchor": anchor });
  node.textContent = text;
  return node;
}
