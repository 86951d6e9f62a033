// Numbers as people read them, and elements whose content is text, never HTML.

const whole = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });

export function count(n) {
  if (n === null || n === undefined) return "–";
  if (n >= 9_999_500) return `${(n / 1e6).toFixed(1)}M`;
  if (n >= 99_950) return `${(n / 1e3).toFixed(0)}k`;
  return whole.format(n);
}

export function percent(share) {
  if (share === null || share === undefined || Number.isNaN(share)) return "–";
  return `${Math.round(share * 100)} %`;
}

export function rate(perSecond) {
  if (perSecond === null || perSecond === undefined) return "–";
  return perSecond > 0 && perSecond < 10 ? perSecond.toFixed(1) : count(Math.round(perSecond));
}

export function seconds(s) {
  if (s === null || s === undefined) return "–";
  if (s < 0.0995) return `${Math.round(s * 1000)} ms`;
  if (s < 9.95) return `${s.toFixed(1)} s`;
  if (s < 99.5) return `${Math.round(s)} s`;
  if (s < 5970) return `${Math.round(s / 60)} min`;
  return `${(s / 3600).toFixed(1)} h`;
}

export function plural(n, one, many = `${one}s`) {
  return `${count(n)} ${n === 1 ? one : many}`;
}

export const FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif'; // in canvases

export const at = (id) => document.getElementById(id);

export function el(tag, className = "", text = "") {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text) element.textContent = text;
  return element;
}

// Leaves the node alone where nothing changed, so that readers and selections are not disturbed.
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function colours() {
  const style = getComputedStyle(document.documentElement);
  return (name) => style.getPropertyValue(`--${name}`).trim();
}

export const calm = window.matchMedia("(prefers-reduced-motion: reduce)");
export const dark = window.matchMedia("(prefers-color-scheme: dark)");
