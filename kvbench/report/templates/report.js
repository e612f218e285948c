"use strict";
const table = document.querySelector("#cases");
const heads = [...table.tHead.rows[0].cells];
const body = table.tBodies[0];

// Sort.
for (const [index, head] of heads.entries()) {
  head.querySelector("button").addEventListener("click", () => {
    const up = head.getAttribute("aria-sort") !== "ascending";
    for (const other of heads) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const key = (row) => row.cells[index].dataset.sort;
    const compare = (a, b) => {
      const [x, y] = [key(a), key(b)];
      // What is not known stands last, whichever way.
      if (x === "" || y === "") return (x === "") - (y === "");
      const order = head.classList.contains("number") ? x - y : x.localeCompare(y);
      return up ? order : -order;
    };
    body.append(...[...body.rows].sort(compare));
    table.classList.add("sorted");
  });
}

// Filter the rows, and dim the panels and lines of charts that name only other values.
const names = (text, value) => text.split(/[^\w.:=/-]+/).some((word) => word.replace(/:$/, "") === value);
function isAboutOthers(part, select) {
  const text = part.dataset.name || [...part.querySelectorAll("text")].map((one) => one.textContent).join(" ");
  const others = [...select.options].map((one) => one.value).filter((value) => value && value !== select.value);
  return !names(text, select.value) && others.some((value) => names(text, value));
}
const selects = [...document.querySelectorAll("select")];
for (const select of selects) select.addEventListener("change", () => {
  const wanted = selects.map((one) =>
    [heads.findIndex((head) => head.textContent === one.dataset.head), one.value]);
  for (const row of body.rows) {
    row.hidden = wanted.some(([at, value]) => value && row.cells[at].textContent !== value);
  }
  for (const part of document.querySelectorAll(".chart [data-panel], .chart [data-name]")) {
    part.classList.toggle("aside", selects.some((one) => one.value && isAboutOthers(part, one)));
  }
  const shown = [...body.rows].filter((row) => !row.hidden).length;
  document.querySelector("#count").value = `${shown} of ${body.rows.length} cases`;
});

// The first columns stay where they are, as long as they leave room for the others.
const stick = () => {
  const room = table.parentNode.clientWidth * 0.45;
  let left = 0;
  for (const [index, head] of heads.entries()) {
    if (!head.classList.contains("key")) break;
    const width = head.getBoundingClientRect().width;
    const fits = index === 0 || left + width < room;
    for (const row of table.rows) {
      row.cells[index].style.left = `${left}px`;
      row.cells[index].style.position = fits ? "" : "static";
    }
    // A head stays at the top all the same, below those that stay at the left.
    if (!fits) Object.assign(head.style, { position: "", left: "auto" });
    head.style.zIndex = fits ? "" : 2;
    left += width;
  }
};
const all = document.querySelector("#all-columns");
if (all) all.addEventListener("change", () => { table.classList.toggle("all", all.checked); stick(); });
addEventListener("resize", stick);
stick();

// Enlarge a chart.
const dialog = document.querySelector("#large");
const [close, room] = dialog.children;
let home = null;
// Small, a chart says what its marks mean; large, also what was measured and how.
const swap = (caption) => { for (const part of caption.children) part.hidden = !part.hidden; };
const enlarge = (figure) => {
  home = figure;
  dialog.setAttribute("aria-label", figure.querySelector("h3").textContent);
  room.append(...figure.querySelectorAll(".chart > svg, figcaption"));
  swap(room.querySelector("figcaption"));
  dialog.showModal();
  room.focus();
};
for (const figure of document.querySelectorAll("figure")) {
  figure.querySelector(".enlarge").addEventListener("click", () => enlarge(figure));
  figure.querySelector(".chart").addEventListener("click", () => enlarge(figure));
}
close.addEventListener("click", () => dialog.close());
dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
dialog.addEventListener("close", () => {
  point(null);
  swap(room.querySelector("figcaption"));
  home.querySelector(".chart").append(room.querySelector("svg"));
  home.append(room.querySelector("figcaption"));
});

// Values: of the mark next to the pointer; in a large chart, with the arrow keys.
const tip = document.querySelector("#tip");
let near = null;
const center = (mark) => {
  const box = mark.getBoundingClientRect();
  return [box.x + box.width / 2, box.y + box.height / 2];
};
const point = (mark) => {
  if (near) near.classList.remove("near");
  near = mark;
  tip.hidden = !mark;
  if (!mark) return;
  mark.classList.add("near");
  const { name, x, y } = mark.closest("[data-name]").dataset;
  const [a, b] = mark.dataset.v.split("|");
  (mark.closest("dialog") || document.body).append(tip);
  tip.value = `${name}\n${x}: ${a}\n${y}: ${b}`;
  const [left, top] = center(mark);
  const size = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(4, Math.min(left + 12, innerWidth - size.width - 4))}px`;
  tip.style.top = `${Math.max(4, top - size.height - 12)}px`;
};
document.addEventListener("pointermove", (event) => {
  const chart = event.target.closest(".chart, dialog > div");
  const far = (mark) => {
    const [x, y] = center(mark);
    return Math.hypot(x - event.clientX, y - event.clientY);
  };
  let [best, least] = [null, 30];
  for (const mark of chart ? chart.querySelectorAll("[data-v]") : []) {
    const distance = far(mark);
    if (distance < least) [best, least] = [mark, distance];
  }
  point(best);
});
room.addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  const marks = [...room.querySelectorAll("[data-v]")];
  if (!step || !marks.length) return;
  event.preventDefault();
  const at = near ? marks.indexOf(near) + step : step > 0 ? 0 : -1;
  point(marks.at(at % marks.length));
});
addEventListener("scroll", () => point(null), { passive: true });

// On paper everything is open.
let closed = [];
addEventListener("beforeprint", () => {
  closed = [...document.querySelectorAll("details:not([open])")];
  for (const one of closed) one.open = true;
});
addEventListener("afterprint", () => { for (const one of closed) one.open = false; });
