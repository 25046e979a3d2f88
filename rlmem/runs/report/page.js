"use strict";
// The values of the lines under the pointer.
for (const figure of document.querySelectorAll("figure.chart")) {
  const source = figure.querySelector("script");
  if (!source) continue;
  const plot = figure.querySelector(".plot");
  const cursor = document.createElement("div");
  const tip = document.createElement("div");
  cursor.className = "cursor";
  tip.className = "tip";
  cursor.hidden = tip.hidden = true;
  plot.append(cursor, tip);
  let data = null;

  // The index of the value of an ascending list that is nearest to x.
  function nearest(list, x) {
    let low = 0, high = list.length - 1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (list[middle] < x) low = middle; else high = middle;
    }
    return Math.abs(list[low] - x) <= Math.abs(list[high] - x) ? low : high;
  }

  function show(event) {
    data ??= JSON.parse(source.textContent);
    const box = plot.getBoundingClientRect();
    const share = Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
    const [from, to] = data.x;
    const x = from + share * (to - from);
    const rows = data.lines.map((line) => {
      const i = nearest(line.x, x);
      return { line, at: line.x[i], y: line.y[i], low: line.low[i], high: line.high[i] };
    });
    rows.sort((a, b) => b.y - a.y);
    const head = document.createElement("span");
    head.textContent = `${data.label.split(",")[0]} ${Math.round(rows[0].at).toLocaleString("en")}`;
    tip.replaceChildren(head, ...rows.map((row) => {
      const item = document.createElement("div");
      item.className = row.line.look.split(" ")[0];
      item.textContent = `${row.line.name}: ${row.y} [${row.low}, ${row.high}]`;
      return item;
    }));
    cursor.style.left = `${100 * share}%`;
    tip.style.left = share < 0.5 ? `calc(${100 * share}% + 8px)` : "";
    tip.style.right = share < 0.5 ? "" : `calc(${100 * (1 - share)}% + 8px)`;
    cursor.hidden = tip.hidden = false;
  }

  plot.addEventListener("pointermove", show);
  plot.addEventListener("pointerdown", show);
  plot.addEventListener("pointerleave", () => { cursor.hidden = tip.hidden = true; });
}
