"use strict";
// Tables: a click on a heading sorts, another turns it round; what has no value stays at the end.
for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => heading.firstElementChild.addEventListener("click", () => {
    const sign = heading.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    headings.forEach(other => other.removeAttribute("aria-sort"));
    heading.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
    const key = row => row.cells[column].dataset.key;
    const rows = [...table.tBodies[0].rows];
    const numbers = rows.every(row => key(row) === "" || !Number.isNaN(Number(key(row))));
    rows.sort((a, b) => {
      const [x, y] = [key(a), key(b)];
      if (x === "" || y === "") return (x === "") - (y === "");
      if (!numbers) return sign * x.localeCompare(y);
      return x === y ? 0 : sign * (Number(x) < Number(y) ? -1 : 1);
    });
    table.tBodies[0].append(...rows);
  }));
}
// Tips: at once, where a <title> of the SVG would take a second, and never on a touch screen.
const tip = document.getElementById("tip");
for (const shape of document.querySelectorAll(".tip")) {
  const title = shape.querySelector("title");
  const words = title.textContent;
  shape.setAttribute("aria-label", words);
  title.remove();
  const show = () => {
    tip.textContent = words;
    tip.hidden = false;
    const at = shape.getBoundingClientRect();
    const left = at.left + Math.min(at.width / 2, 160) - tip.offsetWidth / 2;
    tip.style.left = `${Math.max(8, Math.min(left, innerWidth - tip.offsetWidth - 8))}px`;
    tip.style.top = `${at.top - tip.offsetHeight - 6 > 4 ? at.top - tip.offsetHeight - 6 : at.bottom + 6}px`;
  };
  const hide = () => { tip.hidden = true; };
  shape.addEventListener("pointerenter", show);
  shape.addEventListener("pointerleave", hide);
  shape.addEventListener("focus", show);
  shape.addEventListener("blur", hide);
}
addEventListener("scroll", () => { tip.hidden = true; }, {passive: true});
