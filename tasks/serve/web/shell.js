// What surrounds the conversation: theme, language, the side panel, notices, copy buttons.
import { copy, el } from "./dom.js";
import { speak, t } from "./words.js";

export const $ = (id) => document.getElementById(id);
const THEMES = ["auto", "light", "dark"];
const NARROW = matchMedia("(max-width: 48rem)");

// localStorage, where it may be used; a setting that cannot be kept is not worth an error.
const kept = (name) => { try { return localStorage.getItem(name); } catch { return null; } };
const hold = (name, value) => { try { localStorage.setItem(name, value); } catch { /* storage is full */ } };

let theme = THEMES.includes(kept("catena-theme")) ? kept("catena-theme") : "auto";
let language = speak(kept("catena-language"));

export function nextTheme() {
  theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
  hold("catena-theme", theme);
  dress();
}

export function nextLanguage() {
  language = speak(language === "en" ? "zh" : "en");
  hold("catena-language", language);
  dress();
}

// Put theme and words on the page's fixed parts.
export function dress() {
  document.documentElement.dataset.theme = theme;
  for (const node of document.querySelectorAll("[data-text]")) node.textContent = t(node.dataset.text);
  for (const node of document.querySelectorAll("[data-label]")) node.setAttribute("aria-label", t(node.dataset.label));
  for (const node of document.querySelectorAll("[data-placeholder]")) node.placeholder = t(node.dataset.placeholder);
  $("theme").textContent = t("theme", { name: t(theme) });
  document.title = t("title");
}

export const narrow = () => NARROW.matches;

export function side(open) {
  $("side").hidden = !open;
  $("menu").setAttribute("aria-expanded", String(open));
}

NARROW.addEventListener("change", () => side(!NARROW.matches));

// A line over the message field, with one thing to do about it where there is one; nothing hides it.
export function say(text = "", name = null, act = null) {
  const button = name && el("button.small", { type: "button", onclick: () => { say(); act(); } }, t(name));
  $("notice").replaceChildren(text, ...(button ? [" ", button] : []));
  $("notice").hidden = !text;
}

// A line that only a screen reader tells.
export const announce = (text) => { $("status").textContent = text; };

export function copyButton(text) {
  const button = el("button.small.copy", { type: "button", onclick: async () => {
    if (!await copy(text())) {
      say(t("notCopied"));
      return;
    }
    button.textContent = t("copied");
    announce(t("copied"));
    setTimeout(() => { button.textContent = t("copy"); }, 1500);
  } }, t("copy"));
  return button;
}

// As high as its text, up to the limit of the style sheet.
export function fit(area) {
  area.style.height = "auto";
  area.style.height = `${area.scrollHeight + 2}px`;
}
