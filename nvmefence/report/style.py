"""How a report looks, in light and in dark; without a picture, a font or a script from elsewhere."""

from __future__ import annotations

from typing import Final

SHEET: Final = """
:root {
  color-scheme: light dark;
  --ground: #ffffff; --raised: #f6f8fa; --line: #d8dee4; --ink: #1f2328; --soft: #59636e; --link: #0969da;
  --good: #1a7f37; --good-ground: #dafbe1; --bad: #b3261e; --bad-ground: #ffe3e0;
  --warn: #7d4e00; --warn-ground: #fff3c9; --cut: #0b57a4; --cut-ground: #dcecff;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #0d1117; --raised: #161b22; --line: #30363d; --ink: #e6edf3; --soft: #9198a1; --link: #58a6ff;
    --good: #56d364; --good-ground: #12331b; --bad: #ff8a80; --bad-ground: #4a1512;
    --warn: #e3b341; --warn-ground: #3b2e08; --cut: #79b8ff; --cut-ground: #0f2d4d;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0 auto; padding: 1.5rem 1.25rem 4rem; max-width: 90rem; background: var(--ground); color: var(--ink);
  font: 15px/1.5 system-ui, "Segoe UI", Helvetica, Arial, sans-serif;
}
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 .25rem; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .75rem; padding-bottom: .3rem; border-bottom: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.25rem 0 .5rem; }
p { margin: .4rem 0; max-width: 75rem; overflow-wrap: anywhere; }
ul { margin: .4rem 0; padding-left: 1.25rem; }
li { overflow-wrap: anywhere; }
a { color: var(--link); }
code { font: .9em ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; }
nav { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; margin: 1rem 0 0; }
.soft { color: var(--soft); }
.banner { max-width: none; padding: .7rem 1rem; border-radius: 8px; margin: 1rem 0; font-weight: 600; }
.good { color: var(--good); } .bad { color: var(--bad); } .warn { color: var(--warn); } .cut { color: var(--cut); }
.banner.good, .badge.good, td.good { background: var(--good-ground); }
.banner.bad, .badge.bad, td.bad { background: var(--bad-ground); }
.banner.warn, .badge.warn, td.warn { background: var(--warn-ground); }
.banner.cut, .badge.cut, td.cut { background: var(--cut-ground); }
.badge { display: inline-block; padding: 0 .55em; border-radius: 1em; font-weight: 600; white-space: nowrap; }
.tiles { display: grid; gap: .75rem; margin: 1.25rem 0; }
.tiles { grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); }
.tile { background: var(--raised); border: 1px solid var(--line); border-radius: 8px; padding: .7rem .9rem; }
.tile b { display: block; font-size: 1.6rem; line-height: 1.2; font-variant-numeric: tabular-nums; }
.tile span { color: var(--soft); font-size: .85rem; }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 8px; margin: .5rem 0; }
.scroll:focus-visible { outline: 2px solid var(--link); }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .7rem; text-align: left; border-bottom: 1px solid var(--line); vertical-align: top; }
tbody tr:last-child td, tbody tr:last-child th { border-bottom: 0; }
th { font-weight: 600; white-space: nowrap; background: var(--raised); }
table.tight th, table.tight td { padding: .25rem .5rem; }
td.num, th.num { text-align: right; white-space: nowrap; }
td.keep { white-space: nowrap; }
td.long { min-width: 18rem; overflow-wrap: anywhere; }
.scroll:has(table.fleet) { width: fit-content; max-width: 100%; }
table.fleet { width: auto; }
table.fleet th, table.fleet td { text-align: center; padding: .25rem .45rem; border-right: 1px solid var(--line); }
table.fleet tbody th { position: sticky; left: 0; }
table.fleet tbody th, table.fleet td.keep { text-align: left; }
table.fleet thead th { vertical-align: bottom; }
table.fleet .up { writing-mode: vertical-rl; transform: rotate(180deg); font-weight: 400; max-height: 16rem; }
table.fleet td.mark { font-weight: 700; min-width: 2rem; }
details { border: 1px solid var(--line); border-radius: 8px; margin: .5rem 0; background: var(--ground); }
summary { padding: .55rem .9rem; cursor: pointer; background: var(--raised); border-radius: 8px; }
summary { overflow-wrap: anywhere; }
details[open] > summary { border-bottom: 1px solid var(--line); border-radius: 8px 8px 0 0; }
details > div { padding: .5rem .9rem 1rem; }
summary .badge { margin: 0 .4em; }
.picture { overflow-x: auto; }
.picture svg { display: block; min-width: 46rem; max-width: 100%; height: auto; }
svg .axis { stroke: var(--line); } svg .label { fill: var(--soft); font-size: 12px; }
svg .dot-good { fill: var(--good); } svg .dot-bad { fill: var(--bad); }
@media (max-width: 40rem) { body { padding: 1rem .75rem 3rem; } .tiles { grid-template-columns: repeat(2, 1fr); } }
@media print { body { max-width: none; } .scroll, .picture { overflow: visible; } }
"""
