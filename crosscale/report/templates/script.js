"use strict";
// The page is whole without this script. It adds: the values under a cursor, filters, a look into large matrices,
// and a switch between light and dark.
(() => {
  const root = document.documentElement;
  const toggle = document.getElementById("theme");
  if (toggle) {
    toggle.hidden = false;
    toggle.addEventListener("click", () => {
      const shown = root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
      root.dataset.theme = shown === "dark" ? "light" : "dark";
    });
  }

  for (const chart of document.querySelectorAll("[data-chart]")) {
    const { x: [low, high, start, end], series, x_label } = JSON.parse(chart.dataset.chart);
    const svg = chart.querySelector("svg[viewBox]:not(.sample)");
    const cursor = chart.querySelector(".cursor");
    const readout = chart.querySelector(".readout");
    const stops = [...new Set(series.flatMap((s) => s.points.map((p) => p[0])))].sort((a, b) => a - b);
    let at = stops.length - 1;
    const show = () => {
      const px = start + ((stops[at] - low) / (high - low)) * (end - start);
      cursor.setAttribute("x1", px);
      cursor.setAttribute("x2", px);
      cursor.setAttribute("visibility", "visible");
      const values = series.map((s) => {
        const nearest = s.points.reduce((a, b) => (Math.abs(b[0] - stops[at]) < Math.abs(a[0] - stops[at]) ? b : a));
        return (series.length > 1 ? s.name + " " : "") + nearest[2];
      });
      readout.textContent = x_label + " " + Number(stops[at].toFixed(2)) + ": " + values.join(", ");
    };
    svg.addEventListener("pointermove", (event) => {
      const box = svg.getBoundingClientRect();
      const value = low + (((event.clientX - box.left) * (svg.viewBox.baseVal.width / box.width) - start) /
        (end - start)) * (high - low);
      at = stops.reduce((best, stop, i) => (Math.abs(stop - value) < Math.abs(stops[best] - value) ? i : best), 0);
      show();
    });
    chart.addEventListener("keydown", (event) => {
      const move = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
      if (move === undefined || event.target !== chart) return;
      event.preventDefault();
      at = Math.max(0, Math.min(stops.length - 1, at + move));
      show();
    });
  }

  for (const input of document.querySelectorAll("input[data-filter]")) {
    const rows = document.querySelectorAll("#" + input.dataset.filter + " tbody tr");
    input.addEventListener("input", () => {
      const wanted = input.value.trim().toLowerCase();
      for (const row of rows) row.hidden = !row.textContent.toLowerCase().includes(wanted);
    });
  }

  const source = document.getElementById("confusion-data");
  if (source) {
    const { classes, cells } = JSON.parse(source.textContent);
    const image = document.querySelector(".matrix");
    const readout = document.getElementById("matrix-readout");
    const count = new Map(cells.map(([t, p, n]) => [t * classes.length + p, n]));
    if (image) {
      image.addEventListener("pointermove", (event) => {
        const box = image.getBoundingClientRect();
        const t = Math.floor(((event.clientY - box.top) / box.height) * classes.length);
        const p = Math.floor(((event.clientX - box.left) / box.width) * classes.length);
        if (classes[t] === undefined || classes[p] === undefined) return;
        readout.textContent = `${classes[t]} taken for ${classes[p]}: ${count.get(t * classes.length + p) || 0}`;
      });
    }
    const input = document.getElementById("matrix-class");
    const answer = document.getElementById("matrix-answer");
    input.addEventListener("input", () => {
      const k = classes.indexOf(input.value);
      answer.textContent = "";
      if (k < 0) return;
      const list = (title, found) => {
        const p = document.createElement("p");
        const text = found.sort((a, b) => b[1] - a[1]).map(([i, n]) => `${classes[i]} (${n})`).join(", ");
        p.textContent = title + ": " + (text || "nothing");
        answer.append(p);
      };
      list("taken for", cells.filter(([t, p]) => t === k && p !== k).map(([, p, n]) => [p, n]));
      list("others taken for it", cells.filter(([t, p]) => p === k && t !== k).map(([t, , n]) => [t, n]));
      list("right", cells.filter(([t, p]) => t === k && p === k).map(([t, , n]) => [t, n]));
    });
  }
})();
