"use strict";
// Show one step at a time. Without this script, and on paper, all of them are shown.
const steps = [...document.querySelectorAll(".step")];
const [back, next, at, said] = ["back", "next", "at", "said"].map((id) => document.getElementById(id));

function show(number) {
  const to = Math.min(Math.max(number, 1), steps.length);
  steps.forEach((step, place) => { step.hidden = place !== to - 1; });
  at.value = String(to);
  const step = steps[to - 1];
  const title = step.querySelector("h2").textContent;
  at.setAttribute("aria-valuetext", title);
  back.disabled = to === 1;
  next.disabled = to === steps.length;
  const panels = [...step.querySelectorAll(".panel")].map(
    (panel) => `${panel.querySelector("h3").textContent}: ${panel.querySelector(".said").textContent}`);
  said.textContent = [title, ...panels].join(". ");
  history.replaceState(null, "", `#step-${to}`);
}

const current = () => Number(at.value);
const fromAddress = () => Number((location.hash.match(/^#step-(\d+)$/) || [0, 1])[1]);
const KEYS = {
  ArrowRight: () => current() + 1, PageDown: () => current() + 1,
  ArrowLeft: () => current() - 1, PageUp: () => current() - 1,
  Home: () => 1, End: () => steps.length,
};

back.addEventListener("click", () => show(current() - 1));
next.addEventListener("click", () => show(current() + 1));
at.addEventListener("input", () => show(current()));
addEventListener("hashchange", () => show(fromAddress()));
addEventListener("keydown", (event) => {
  const to = KEYS[event.key];
  if (!to || event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  show(to());
});
document.getElementById("controls").hidden = false;
show(fromAddress());
