"use strict";

// ---- figures ----
// Colours in the figures are names of CSS variables ("@law", "@law/29" with an opacity): they follow the theme.
const places = [...document.querySelectorAll(".plot")];
const AXES = ["xaxis", "yaxis"];

async function loadPlotly() {
  const packed = Uint8Array.from(atob(document.getElementById("plotly").textContent), (c) => c.charCodeAt(0));
  const unpacked = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = document.createElement("script");
  script.textContent = await new Response(unpacked).text();
  document.head.append(script);
}

function figureOf(place) {
  const style = getComputedStyle(document.documentElement);
  const resolve = (key, value) => {
    const name = typeof value === "string" && /^@([a-z0-9]+)(?:[/]([0-9a-f]{2}))?$/.exec(value);
    return name ? style.getPropertyValue("--" + name[1]).trim() + (name[2] || "") : value;
  };
  const figure = JSON.parse(place.nextElementSibling.textContent, resolve);
  figure.layout.font.family = getComputedStyle(document.body).fontFamily;
  if (window.innerWidth < 640) {
    figure.layout.dragmode = false;  // a finger scrolls the page
    figure.layout.font.size = 11;
  }
  return figure;
}

async function draw() {
  for (const place of places) {
    const { data, layout } = figureOf(place);
    place.parentElement.querySelector(".reset").hidden = true;
    await Plotly.react(place, data, layout, { responsive: true, displayModeBar: false, doubleClick: "reset" });
    await new Promise((next) => setTimeout(next));  // the page answers between two figures
  }
  performance.mark("drawn");
}

function addTools(place) {
  const [reset, png] = place.parentElement.querySelectorAll(".tools button");
  place.on("plotly_relayout", (change) => {
    const zoomed = Object.keys(change).some((key) => key.includes("range["));  // a drag, not the button below
    if (!zoomed || !reset.hidden) return;
    reset.hidden = false;
    // the ticks of the whole figure are few in a part of it
    Plotly.relayout(place, Object.fromEntries(AXES.map((axis) => [axis + ".tickmode", "auto"])));
  });
  const whole = () => {
    reset.hidden = true;
    const { layout } = figureOf(place);
    const parts = (key) => AXES.map((axis) => [`${axis}.${key}`, layout[axis][key]]);
    Plotly.relayout(place, Object.fromEntries([...parts("range"), ...parts("tickmode")]));
  };
  reset.addEventListener("click", whole);
  place.on("plotly_doubleclick", whole);
  png.addEventListener("click", () => {
    const { data, layout } = figureOf(place);
    const shown = AXES.map((axis) => [axis, { ...layout[axis], range: place.layout[axis].range,
      tickmode: place.layout[axis].tickmode }]);
    const title = { text: place.dataset.title, x: 0.02, font: { size: 15 } };
    const named = { ...layout, ...Object.fromEntries(shown), title, showlegend: true,
      margin: { l: 8, r: 14, t: 48, b: 8 }, legend: { orientation: "h", y: -0.2 } };
    Plotly.downloadImage({ data, layout: named }, { format: "png", width: 900, height: 600, scale: 2,
      filename: place.dataset.name });
  });
}

if (places.length) {
  loadPlotly().then(draw).then(() => {
    places.forEach(addTools);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  });
}

// ---- tables ----
function sortBy(heading) {
  const table = heading.closest("table");
  const column = heading.cellIndex;
  const sign = heading.ariaSort === "ascending" ? -1 : 1;
  table.querySelectorAll("th[aria-sort]").forEach((other) => other.removeAttribute("aria-sort"));
  heading.ariaSort = sign > 0 ? "ascending" : "descending";
  const value = (row) => row.cells[column].dataset.value;
  const rows = [...table.tBodies[0].rows].sort((a, b) => {
    const [x, y] = [value(a), value(b)];
    if (x === "" || y === "") return (x === "") - (y === "");  // what is not known stays at the end
    return sign * (heading.classList.contains("num") ? x - y : x.localeCompare(y));
  });
  table.tBodies[0].append(...rows);
}

function csvOf(table) {
  const quoted = (text) => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  const head = [...table.tHead.rows[0].cells].map((cell) => cell.dataset.key);
  const rows = [...table.tBodies[0].rows].filter((row) => !row.hidden);
  const lines = [head, ...rows.map((row) => [...row.cells].map((cell) => cell.dataset.value))];
  return lines.map((line) => line.map(quoted).join(",") + "\n").join("");
}

document.querySelectorAll(".runs").forEach((section) => {
  const table = section.querySelector("table");
  const [filter, count, save] = section.querySelectorAll("input, output, .csv");
  table.querySelectorAll("th button").forEach((button) => {
    button.addEventListener("click", () => sortBy(button.parentElement));
  });
  filter.addEventListener("input", () => {
    const words = filter.value.toLowerCase().split(/\s+/);
    const rows = [...table.tBodies[0].rows];
    rows.forEach((row) => {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
    });
    count.value = filter.value ? `${rows.filter((row) => !row.hidden).length} of ${rows.length}` : "";
  });
  save.addEventListener("click", () => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([csvOf(table)], { type: "text/csv" }));
    link.download = save.dataset.name;
    link.click();
    URL.revokeObjectURL(link.href);
  });
});
