// The last five minutes: hit rate, memory and tokens per second. Time runs from -300 s to now, so that the
// axis stands still while the lines move.

import { FONT, at, colours, count, dark, percent, rate } from "./text.js";

const SPAN = 300; // seconds
const STEP = 1; // seconds between samples, or a little more
const NAMES = ["hit", "memory", "speed"];

// Samples: [time, hit rate or null, slots in use, cached slots, prompt tokens/s, output tokens/s]; a sample
// of nulls is a gap.
let samples = [];
let total = 0;
let charts = {};

export function start() {
  for (const name of NAMES) {
    const box = at(`chart-${name}`);
    charts[name] = window.echarts.init(box, null, { renderer: "canvas" });
    new ResizeObserver(() => charts[name].resize()).observe(box);
  }
  style();
  scales();
  dark.addEventListener("change", () => {
    style();
    draw(samples.length ? samples[samples.length - 1][0] : 0);
  });
}

export function setTotal(slots) {
  if (slots === total) return;
  total = slots;
  charts.memory.setOption({ yAxis: scale(total || 1) });
}

export function last() {
  return samples.length ? samples[samples.length - 1][0] : 0;
}

export function add(sample) {
  if (sample[0] >= last() + STEP * 0.9 || sample[2] === null) samples.push(sample);
}

// Samples of the server's own memory. What lies between two lives of the connection stays a gap.
export function addAll(found) {
  const known = new Set(samples.map((sample) => Math.round(sample[0])));
  samples.push(...found.filter((sample) => !known.has(Math.round(sample[0]))));
  samples.sort((a, b) => a[0] - b[0]);
}

export function gap(time) {
  if (samples.length && samples[samples.length - 1][2] !== null) add([time, null, null, null, null, null]);
}

export function sampleOf(state) {
  const { slots, rates } = state;
  const cached = slots.tree - slots.pinned;
  const used = slots.total - slots.free - cached;
  return [state.time, rates.hit_rate, used, cached, rates.prompt_tokens_per_s, rates.output_tokens_per_s];
}

export function draw(now) {
  samples = samples.filter((sample) => sample[0] >= now - SPAN - 5);
  const line = (column) => samples.map((sample) => [sample[0] - now, sample[column]]);
  charts.hit.setOption({ series: [{ id: "hit", data: line(1) }] });
  charts.memory.setOption({
    series: [
      { id: "used", data: line(2) },
      { id: "cached", data: line(3) },
      { id: "free", data: samples.map((s) => [s[0] - now, s[2] === null ? null : total - s[2] - s[3]]) },
    ],
  });
  const most = Math.max(0, ...samples.map((sample) => Math.max(sample[4] ?? 0, sample[5] ?? 0)));
  charts.speed.setOption({
    yAxis: scale(round(most)),
    series: [
      { id: "prompt", data: line(4) },
      { id: "output", data: line(5) },
    ],
  });
}

// Three labels: 0, half and all.
const scale = (max) => ({ max, interval: max / 2 });

// The next of 10, 20, 40, 60, 80, 100, 200, ...
function round(value) {
  let power = 10;
  while (value > power * 10) power *= 10;
  return [1, 2, 4, 6, 8, 10].map((step) => step * power).find((top) => top >= value);
}

function style() {
  const colour = colours();
  const series = (id, name, tone, extra = {}) => ({
    id,
    name,
    type: "line",
    showSymbol: false,
    data: [],
    lineStyle: { width: 1.75, color: colour(tone) },
    itemStyle: { color: colour(tone) },
    emphasis: { disabled: true },
    ...extra,
  });
  const stacked = (id, name, tone, opacity) =>
    series(id, name, tone, {
      stack: "slots",
      lineStyle: { width: 0 },
      areaStyle: { color: colour(tone), opacity },
    });
  const area = { areaStyle: { color: colour("used"), opacity: 0.12 } };
  charts.hit.setOption(
    frame(colour, { form: percent, lines: [series("hit", "Hit rate", "used", area)] }),
  );
  charts.memory.setOption(
    frame(colour, {
      form: (slots) => (total ? count(slots) : ""),
      lines: [
        stacked("used", "In use", "used", 0.9),
        stacked("cached", "Cached", "cached-line", 0.75),
        stacked("free", "Free", "line", 0.45),
      ],
    }),
  );
  charts.speed.setOption(
    frame(colour, {
      form: rate,
      lines: [series("prompt", "Prompt", "prompt-line"), series("output", "Output", "used")],
    }),
  );
}

function scales() {
  charts.hit.setOption({ yAxis: scale(1) });
  charts.memory.setOption({ yAxis: scale(total || 1) });
  charts.speed.setOption({ yAxis: scale(10) });
}

function frame(colour, { form, lines }) {
  const letters = { color: colour("dim"), fontFamily: FONT, fontSize: 11 };
  const ago = (s) => (s > -1 ? "now" : s > -60 ? `${Math.round(-s)} s ago` : `${(-s / 60).toFixed(1)} min ago`);
  return {
    animation: false,
    grid: { left: 46, right: 14, top: 10, bottom: 24 },
    tooltip: {
      trigger: "axis",
      renderMode: "richText", // drawn, so no text becomes HTML
      confine: true,
      backgroundColor: colour("panel"),
      borderColor: colour("line"),
      borderWidth: 1,
      padding: [6, 9],
      textStyle: { color: colour("text"), fontFamily: FONT, fontSize: 12 },
      axisPointer: { lineStyle: { color: colour("dim"), type: "dashed" } },
      formatter: (points) =>
        [ago(points[0].value[0]), ...points.map((p) => `${p.seriesName}: ${form(p.value[1])}`)].join("\n"),
    },
    xAxis: {
      type: "value",
      min: -SPAN,
      max: 0,
      interval: 60,
      axisLabel: { ...letters, formatter: (s) => (s === 0 ? "now" : `${s / 60} min`), hideOverlap: true },
      axisLine: { lineStyle: { color: colour("line") } },
      axisTick: { show: false },
      splitLine: { show: false },
    },
    yAxis: {
      type: "value",
      min: 0,
      axisLine: { show: false },
      axisTick: { show: false },
      axisLabel: { ...letters, formatter: form, hideOverlap: true },
      splitLine: { lineStyle: { color: colour("line") } },
    },
    series: lines,
  };
}
