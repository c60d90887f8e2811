// Numbers and elements, as the whole page says and makes them.

"use strict";

const STEPS = 8; // shades of a heat map, each way; page.css has a class for each

const signed = (value, digits = 1) => {
  const text = (100 * value).toFixed(digits);
  return Number(text) === 0 ? text.replace("-", "") : (value > 0 ? "+" : "") + text.replace("-", "\u2212");
};
const percent = (value, digits = 1) => value == null ? "none" : signed(value, digits) + "\u00a0%";
const share = (value) => (100 * value).toFixed(value < .0995 ? 1 : 0) + "\u00a0%";
const small = (value) => value == null ? "not tested" : value < .001 ? "< .001" : value.toFixed(3).replace(/^0/, "");

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text != null) element.textContent = text;
  return element;
}

function shade(value, limit) {
  if (value == null) return "none";
  const step = Math.round(STEPS * Math.min(1, Math.abs(value) / limit));
  return step === 0 ? "z" : (value > 0 ? "p" : "n") + step;
}
