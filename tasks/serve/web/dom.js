// Elements and text. What a model, a tool or a file says enters the page as text nodes only, never as HTML.

// control, bidirectional, zero-width and tag characters; not the joiners that emoji and Indic scripts need
const CONTROLS = new RegExp("([\\u0000-\\u0008\\u000b\\u000c\\u000e-\\u001f\\u007f-\\u009f\\u00ad\\u061c\\u200b" +
  "\\u200e\\u200f\\u2028-\\u202e\\u2060-\\u2069\\ufeff\\ufff9-\\ufffb\\u{e0000}-\\u{e007f}])", "u");

// An element: el("button.quiet#x", {attribute: value, onclick}, ...children); children are nodes, texts or null.
export function el(kind, options = {}, ...children) {
  const [, tag, rest] = kind.match(/^(\w+)(.*)$/);
  const made = document.createElement(tag);
  for (const [, sign, name] of rest.matchAll(/([.#])([\w-]+)/g)) {
    if (sign === ".") made.classList.add(name); else made.id = name;
  }
  // before the attributes: under dir=auto the browser reads all of the text again for each child it gets
  made.append(...children.filter((child) => child !== null && child !== undefined));
  for (const [name, value] of Object.entries(options)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value);
  }
  return made;
}

// A text as nodes: characters that reorder or hide text are shown by their numbers.
export function safe(text) {
  const nodes = document.createDocumentFragment();
  for (const [at, part] of text.split(CONTROLS).entries()) {
    if (at % 2) {
      const code = part.codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
      nodes.append(el("span.control", {}, `U+${code}`));
    } else if (part) nodes.append(part);
  }
  return nodes;
}

// Put `text` on the clipboard; resolves to whether it is there.
export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch { // plain http from another machine has no clipboard API, only the selection
    const box = el("textarea.unseen", { "aria-hidden": "true" });
    const before = document.activeElement;
    box.value = text;
    document.body.append(box);
    box.select();
    const done = document.execCommand("copy");
    box.remove();
    before?.focus();
    return done;
  }
}

// Hand `text` to the user as a file.
export function download(name, kind, text) {
  const url = URL.createObjectURL(new Blob([text], { type: kind }));
  el("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}
