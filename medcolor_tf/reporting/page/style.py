"""How a report's HTML page looks, and its few lines of script."""

LIGHT = {
    "paper": "#ffffff",
    "panel": "#f3f5f8",
    "ink": "#1a2330",
    "soft": "#4d5a68",
    "rule": "#cfd6de",
    "link": "#0a58a6",
    "warning": "#fff3dc",
    "warning-ink": "#5a3a00",
    "info": "#e8f1fa",
    "info-ink": "#123a63",
}
DARK = {
    "paper": "#12171d",
    "panel": "#1c232b",
    "ink": "#e6ebf0",
    "soft": "#a9b4bf",
    "rule": "#3a4653",
    "link": "#8fc4f8",
    "warning": "#3b2b10",
    "warning-ink": "#ffe0b0",
    "info": "#152b40",
    "info-ink": "#cfe5fa",
}
# (text, background) that occur together; their contrast is tested.
PAIRS = (
    ("ink", "paper"),
    ("ink", "panel"),
    ("soft", "paper"),
    ("soft", "panel"),
    ("link", "paper"),
    ("link", "panel"),
    ("warning-ink", "warning"),
    ("info-ink", "info"),
)

_RULES = """
*, *::before, *::after { box-sizing: border-box; }
html { scroll-padding-top: 1rem; -webkit-text-size-adjust: 100%; }
body { margin: 0 auto; padding: 0 1rem 4rem; max-width: 80rem; background: var(--paper);
  color: var(--ink); font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto,
  "Helvetica Neue", "Noto Sans", Arial, sans-serif; overflow-wrap: break-word; }
h1, h2, h3 { line-height: 1.25; text-wrap: balance; }
h1 { font-size: clamp(1.6rem, 1.2rem + 2vw, 2.3rem); font-weight: 650; margin: 2.5rem 0 .5rem; }
h2 { font-size: 1.45rem; font-weight: 650; margin: 3rem 0 1rem; padding-top: 1rem;
  border-top: 1px solid var(--rule); }
h3 { font-size: 1.05rem; font-weight: 650; margin: 0; }
p { margin: 0 0 1rem; }
p, .note { max-width: 46rem; }
a { color: var(--link); text-underline-offset: .15em; }
:focus-visible { outline: 3px solid var(--link); outline-offset: 2px; }
.lead { color: var(--soft); font-size: 1.1rem; }
.skip { position: absolute; left: -999rem; }
.skip:focus { left: 1rem; top: .5rem; padding: .5rem 1rem; background: var(--paper); z-index: 2; }
nav ul { list-style: none; margin: 0; padding: 0; }
nav a { display: block; padding: .3rem 0; text-decoration: none; }
nav a:hover { text-decoration: underline; }
td a, th a { color: inherit; text-decoration: underline dotted var(--soft); }
td a:hover, th a:hover { color: var(--link); text-decoration-style: solid; }
main:focus { outline: none; }
@media (min-width: 70rem) {
  .columns { display: grid; grid-template-columns: 12rem minmax(0, 1fr); column-gap: 3rem; }
  nav { position: sticky; top: 0; align-self: start; max-height: 100vh; overflow-y: auto;
    padding: 1.6rem .25rem; margin-left: -.25rem; }
  main > section:first-child h2 { border-top: 0; margin-top: 0; }
}
figure, .table { margin: 0 0 2.25rem; }
figcaption, caption { text-align: left; }
figcaption p, caption p { color: var(--soft); font-size: .95rem; margin: .15rem 0 0; }
figcaption { margin-bottom: .6rem; }
/* The caption stays as wide as what one sees of the table, and in place when it scrolls. */
caption > div { position: sticky; left: 0; width: fit-content; max-width: 100cqi;
  padding-bottom: .6rem; }
.scroll { overflow-x: auto; }
.table > .scroll { container-type: inline-size; }
.scroll img { display: block; height: auto; max-width: 100%;
  min-width: min(.8 * var(--width), 44rem); }
/* Figures are drawn for white, in the dark too. */
.picture { width: fit-content; max-width: 100%; background: #fff; padding: .75rem;
  border: 1px solid var(--rule); border-radius: .4rem; }
table { border-collapse: collapse; min-width: min(100%, 30rem); font-size: .95rem;
  font-variant-numeric: tabular-nums; border-bottom: 2px solid var(--ink); }
thead th { border-top: 2px solid var(--ink); border-bottom: 1px solid var(--ink);
  vertical-align: bottom; font-weight: 650; }
th, td { padding: .38rem .8rem; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--rule); overflow-wrap: normal; }
tbody th { font-weight: 450; }
th.number, td.number { text-align: right; }
td.number { white-space: nowrap; }
th[scope=rowgroup] { background: var(--panel); font-weight: 650; }
th[scope=rowgroup] > span { position: sticky; left: .8rem; }
tbody tr:hover > * { background: var(--panel); }
.note { border-left: .3rem solid; border-radius: .2rem; padding: .6rem .9rem; margin: 0 0 1rem; }
.warning { background: var(--warning); color: var(--warning-ink); }
.info { background: var(--info); color: var(--info-ink); }
pre { background: var(--panel); border: 1px solid var(--rule); border-radius: .4rem;
  padding: .7rem .9rem; margin: 0 0 1rem; font-size: .875rem; line-height: 1.5;
  white-space: pre-wrap; overflow-wrap: anywhere; }
code { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
details { border: 1px solid var(--rule); border-radius: .4rem; margin: 0 0 .75rem; }
summary { cursor: pointer; padding: .55rem .9rem; font-weight: 600; overflow-wrap: anywhere; }
details[open] > summary { border-bottom: 1px solid var(--rule); }
.inside { padding: 1rem .9rem .25rem; }
:target { scroll-margin-top: 1rem; }
details:target > summary { background: var(--panel); }
@media (max-width: 40rem) {
  th, td { padding: .35rem .5rem; }
  th[scope=rowgroup] > span { left: .5rem; }
}
@media print {
  body { max-width: none; padding: 0; font-size: 10pt; }
  nav, .skip { display: none; }
  .columns { display: block; }
  .scroll, .table > .scroll { overflow: visible; container-type: normal; }
  .scroll img { min-width: 0; }
  caption > div { position: static; max-width: none; }
  h2, h3, figcaption, caption, summary { break-after: avoid; }
  figure, tr, .note { break-inside: avoid; }
  .picture { border: 0; padding: 0; }
  a { color: inherit; }
}
"""

# Opens what a link leads into; without scripts one opens it by hand. Listens to clicks too, since
# following the same link twice changes no hash.
SCRIPT = """
function reveal(hash) {
  const target = document.getElementById(hash.slice(1));
  let opened = false;
  for (let at = target; at; at = at.parentElement) {
    if (at.tagName === "DETAILS" && !at.open) { at.open = opened = true; }
  }
  return opened && target;
}
function arrive() {
  const target = reveal(location.hash);
  if (target) { target.scrollIntoView(); }
}
addEventListener("hashchange", arrive);
addEventListener("click", (event) => {
  const link = event.target.closest("a[href^='#']");
  if (link) { reveal(link.getAttribute("href")); }
});
arrive();
"""


def style() -> str:
    """The page's style sheet."""
    light, dark = _variables(LIGHT), _variables(DARK)
    return (
        f":root {{ color-scheme: light dark; {light} }}\n"
        f"@media screen and (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}{_RULES}"
    )


def _variables(colours: dict[str, str]) -> str:
    return " ".join(f"--{name}: {value};" for name, value in colours.items())
