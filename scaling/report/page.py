"""Style and script of the report's page. Nothing in it is loaded from elsewhere."""

CSS = """
:root { color-scheme: light dark; }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, "DejaVu Sans", sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 28px 20px 64px; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 4px; letter-spacing: -.01em; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; line-height: 1.3; margin: 0 0 4px; }
h3 { font-size: .95rem; line-height: 1.3; margin: 0 0 2px; }
p { margin: 0 0 8px; max-width: 78ch; }
.card > p:last-child { margin-bottom: 0; }
.caption { max-width: 130ch; margin-top: 8px; color: var(--muted); font-size: .84rem; }
a { color: var(--law); }
code, pre, .num { font-variant-numeric: tabular-nums; }
code, pre {
  font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace;
  font-size: .86em;
}
code { overflow-wrap: anywhere; }
pre { margin: 0; padding: 12px 14px; background: var(--page); border-radius: 8px; overflow-x: auto; }
.muted { color: var(--muted); }
.small { font-size: .86rem; }
.card {
  background: var(--paper); border: 1px solid var(--grid); border-radius: 12px;
  padding: 18px 20px; margin: 18px 0 0;
}
.facts {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr));
  gap: 14px 26px; margin: 10px 0 4px;
}
.fact b { display: block; font-size: 1.75rem; line-height: 1.2; font-weight: 650; letter-spacing: -.01em; }
.fact span { display: block; color: var(--muted); font-size: .86rem; line-height: 1.35; }
.verdict { font-size: 1.1rem; font-weight: 600; margin: 0 0 2px; }
.good { color: var(--actual); }
.bad { color: var(--bad); }
.panels {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 440px), 1fr));
  gap: 10px 26px; margin-top: 8px;
}
.panel { min-width: 0; }
.plot { height: 400px; width: 100%; }
.legend {
  list-style: none; display: flex; flex-wrap: wrap; gap: 1px 16px;
  margin: 3px 0 0; padding: 0; font-size: .84rem;
}
.legend li { display: flex; align-items: center; gap: 6px; }
.legend svg { flex: none; }
.scroll { overflow-x: auto; margin: 8px -20px 0; padding: 0 20px; -webkit-overflow-scrolling: touch; }
table { border-collapse: collapse; font-size: .86rem; min-width: 100%; }
th, td { padding: 5px 10px 5px 0; text-align: left; white-space: nowrap; border-bottom: 1px solid var(--grid); }
th { color: var(--muted); font-weight: 600; }
td.num, th.num { text-align: right; }
td.text { white-space: normal; min-width: 220px; }
tr.out td { color: var(--muted); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 3px 18px; margin: 6px 0 0; font-size: .92rem; }
dt { color: var(--muted); }
dd { margin: 0; min-width: 0; overflow-wrap: anywhere; }
@media (max-width: 640px) {
  main { padding: 18px 12px 48px; }
  h1 { font-size: 1.35rem; }
  .card { padding: 14px 14px; }
  .scroll { margin: 8px -14px 0; padding: 0 14px; }
  .facts { grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 12px 16px; }
  .fact b { font-size: 1.35rem; }
  .plot { height: 340px; }
  dl { grid-template-columns: 1fr; gap: 0; }
  dd { margin-bottom: 6px; }
}
"""

SCRIPT = """
"use strict";
// Colours in the figures are names of CSS variables ("@law", "@law/29" with an opacity): they follow the theme.
function draw() {
  const style = getComputedStyle(document.documentElement);
  const narrow = window.innerWidth < 640;
  const resolve = (key, value) => {
    const name = typeof value === "string" && /^@([a-z0-9]+)(?:[/]([0-9a-f]{2}))?$/.exec(value);
    return name ? style.getPropertyValue("--" + name[1]).trim() + (name[2] || "") : value;
  };
  document.querySelectorAll(".plot").forEach((place) => {
    const figure = JSON.parse(place.nextElementSibling.textContent, resolve);
    figure.layout.font.family = getComputedStyle(document.body).fontFamily;
    if (narrow) {
      figure.layout.dragmode = false;  // a finger scrolls the page
      figure.layout.font.size = 11;
    }
    Plotly.react(place, figure.data, figure.layout, {responsive: true, displaylogo: false, displayModeBar: false});
  });
}
draw();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
"""
