// Tables: a click on a column's head sorts by it, numbers by their first number, again the other way round.
const number = (text) => {
  const found = text.match(/[-+]?\d+(\.\d+)?(e[-+]?\d+)?/i);
  return found ? parseFloat(found[0]) : NaN;
};
const compare = (a, b) => {
  const [x, y] = [number(a), number(b)];
  if (!Number.isNaN(x) && !Number.isNaN(y)) return x - y;
  if (Number.isNaN(x) !== Number.isNaN(y)) return Number.isNaN(x) ? 1 : -1;
  return a.localeCompare(b);
};
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, place) => head.querySelector("button").addEventListener("click", () => {
    const up = head.getAttribute("aria-sort") !== "ascending";
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const words = place < 2 && [...table.tBodies[0].rows].some((row) => Number.isNaN(number(row.cells[place].innerText)));
    const order = words ? (a, b) => a.localeCompare(b) : compare;
    const rows = [...table.tBodies[0].rows].sort((a, b) => order(a.cells[place].innerText, b.cells[place].innerText));
    if (!up) rows.reverse();
    table.tBodies[0].append(...rows);
  }));
}
// Panels: two networks' pictures of the same image lie above each other, the slider moves the border between them.
for (const panels of document.querySelectorAll(".panels")) {
  const [left, right, image] = panels.querySelectorAll("select");
  const [under, over] = panels.querySelectorAll("img");
  const border = panels.querySelector("input[type=range]");
  const pictures = JSON.parse(panels.querySelector("script").textContent);
  const show = () => {
    under.src = pictures[left.value][image.value];
    over.src = pictures[right.value][image.value];
    under.alt = `image ${image.value}, ${left.value}`;
    over.alt = `image ${image.value}, ${right.value}`;
    over.style.clipPath = `inset(0 0 0 ${border.value}%)`;
  };
  for (const control of [left, right, image, border]) control.addEventListener("input", show);
  show();
}
// Charts follow the width of the window, and the page when it is printed.
const fit = () => document.querySelectorAll(".plotly-graph-div").forEach((chart) => Plotly.Plots.resize(chart));
window.addEventListener("resize", fit);
window.addEventListener("beforeprint", fit);
