"use strict";
const stage = document.getElementById("stage"), reason = document.getElementById("reason");
const words = document.getElementById("words"), shown = document.getElementById("shown");
const groups = [...document.querySelectorAll("section.group")];

function reasons() {  // only those of the chosen stage
  const chosen = reason.value, known = new Set(groups
    .filter((group) => !stage.value || group.dataset.stage === stage.value).map((group) => group.dataset.reason));
  reason.replaceChildren(new Option("every reason", ""), ...[...known].sort().map((name) => new Option(name, name)));
  reason.value = known.has(chosen) ? chosen : "";
}

function filter() {
  const wanted = words.value.trim().toLowerCase();
  let count = 0;
  for (const group of groups) {
    const right = (!stage.value || group.dataset.stage === stage.value) &&
      (!reason.value || group.dataset.reason === reason.value);
    let inside = 0;
    for (const sample of group.querySelectorAll("article")) {
      sample.hidden = !right || (wanted !== "" && !sample.textContent.toLowerCase().includes(wanted));
      inside += !sample.hidden;
    }
    group.hidden = inside === 0;
    count += inside;
  }
  shown.textContent = `${count} samples shown`;
  history.replaceState(null, "", "#" + new URLSearchParams({stage: stage.value, reason: reason.value}));
}

function follow() {  // #stage=filter&reason=too_short
  const asked = new URLSearchParams(location.hash.slice(1));
  stage.value = asked.get("stage") ?? "";
  if (stage.selectedIndex < 0) stage.value = "";
  reasons();
  reason.value = asked.get("reason") ?? "";
  if (reason.selectedIndex < 0) reason.value = "";
  filter();
}

document.getElementById("filters").hidden = false;
stage.addEventListener("change", () => { reasons(); filter(); });
reason.addEventListener("change", filter);
words.addEventListener("input", filter);
addEventListener("hashchange", follow);
follow();
