"""The look of the page, and the few lines of script that dress and print its figures."""

from __future__ import annotations

from etude.report.frame import SANS
from etude.report.palette import DARK, LIGHT, Theme


def _variables(theme: Theme) -> str:
    names = ("paper", "ink", "soft", "rule", "grid", "accent", "warn", "tied", "unstable")
    return "".join(f"--{name}:{getattr(theme, name)};" for name in names)


CSS = f"""
:root{{color-scheme:light dark;{_variables(LIGHT)}}}
@media screen and (prefers-color-scheme:dark){{:root{{{_variables(DARK)}}}}}
*{{box-sizing:border-box}}
html{{-webkit-text-size-adjust:100%}}
body{{margin:0;background:var(--paper);color:var(--ink);font:1rem/1.55 {SANS};
 font-variant-numeric:tabular-nums lining-nums;-webkit-font-smoothing:antialiased}}
main{{max-width:58rem;margin:0 auto;padding:3.5rem 1.5rem 4rem}}
.kind{{margin:0 0 .6rem;color:var(--soft);font-size:.875rem}}
h1{{margin:0;font-size:2.125rem;line-height:1.18;font-weight:650;letter-spacing:-.018em;
 text-wrap:balance;overflow-wrap:anywhere}}
p{{text-wrap:pretty}}
.lede{{margin:1rem 0 0;max-width:42rem;font-size:1.125rem;line-height:1.5}}
.notice{{margin:1.5rem 0 0;padding:.8rem 1.1rem;max-width:42rem;background:var(--unstable);
 border-left:3px solid var(--warn);overflow-wrap:anywhere}}
.notice b{{color:var(--warn)}}
.facts{{display:grid;grid-template-columns:repeat(auto-fit,minmax(14rem,1fr));
 gap:0 2rem;margin:2.2rem 0 0;border-bottom:1px solid var(--rule)}}
.facts div{{padding:.7rem 0 .8rem;border-top:1px solid var(--rule)}}
.facts dt{{color:var(--soft);font-size:.8125rem;overflow-wrap:anywhere}}
.facts dd{{margin:0}}
.facts .value{{font-size:1.5rem;line-height:1.35;font-weight:600;letter-spacing:-.01em;
 white-space:nowrap}}
.facts .note{{color:var(--soft);font-size:.8125rem;line-height:1.35}}
h2{{margin:3.4rem 0 1rem;font-size:1.25rem;line-height:1.3;font-weight:650;
 letter-spacing:-.008em}}
figure{{margin:1.4rem 0 2.4rem}}
.plot{{width:100%;min-width:0;overflow:hidden}}
.plot .modebar{{opacity:0;transition:opacity .2s}}
.plot:hover .modebar{{opacity:1}}
@media (pointer:coarse){{.plot .modebar{{display:none}}}}
figcaption,caption{{color:var(--soft);font-size:.875rem;line-height:1.5;max-width:46rem}}
figcaption{{margin-top:.5rem;overflow-wrap:anywhere}}
figcaption b{{color:var(--ink);font-weight:600}}
.wide{{overflow-x:auto}}
table{{border-collapse:collapse;width:100%;font-size:.9375rem}}
caption{{text-align:left;padding-bottom:.8rem}}
th,td{{padding:.42rem .9rem .42rem 0;text-align:left;vertical-align:baseline;font-weight:400;
 border-bottom:1px solid var(--grid)}}
th:last-child,td:last-child{{padding-right:0}}
thead th,thead td{{color:var(--soft);font-size:.8125rem;border-bottom-color:var(--rule);
 vertical-align:bottom}}
.n{{text-align:right;white-space:nowrap}}
.trials th,.trials td{{text-align:right;white-space:nowrap}}
.trials th:first-child,.trials th:last-child,.trials td:last-child{{text-align:left}}
.trials td:last-child,.trials th:last-child{{padding-left:1.6rem;white-space:normal;
 min-width:8.5rem}}
.trials caption{{max-width:min(46rem,calc(100vw - 2rem))}}
.trials .chosen th,.trials .chosen td{{font-weight:650;background:var(--tied)}}
.key{{float:left;width:.6rem;height:.6rem;margin:.45rem .7rem 0 0;border-radius:50%;
 background:var(--light)}}
@media screen and (prefers-color-scheme:dark){{.key{{background:var(--dark)}}}}
.cost .bar{{width:42%;padding-left:.3rem}}
.cost .bar i{{display:block;height:.6rem;background:var(--accent);min-width:1px}}
tfoot th,tfoot td{{font-weight:650;border-bottom:0}}
.environment{{width:auto}}
.environment th{{color:var(--soft);padding-right:2rem}}
.environment td{{overflow-wrap:anywhere}}
h3{{margin:1.6rem 0 .5rem;font-size:.9375rem;font-weight:600;display:flex;
 justify-content:space-between;align-items:baseline}}
pre{{margin:0;padding:.9rem 1.1rem;overflow-x:auto;background:var(--grid);border-radius:4px;
 font:.84375rem/1.6 ui-monospace,SFMono-Regular,Menlo,Consolas,'Liberation Mono',monospace;
 tab-size:4}}
button{{font:inherit;font-size:.8125rem;font-weight:400;color:var(--accent);background:none;
 border:0;padding:.2rem 0;cursor:pointer}}
button:hover{{text-decoration:underline}}
button:focus-visible{{outline:2px solid var(--accent);outline-offset:2px}}
.foot{{margin:3.5rem 0 0;color:var(--soft);font-size:.8125rem}}
@media (max-width:36rem){{main{{padding:1.8rem 1rem 3rem}}h1{{font-size:1.625rem}}
 .lede{{font-size:1.0625rem}}.facts{{grid-template-columns:1fr 1fr;gap:0 1.2rem}}
 .facts .value{{font-size:1.1875rem}}h2{{margin-top:2.6rem}}
 th,td{{padding-right:.7rem}}
 .cost .bar,.trials th:nth-child(3),.trials td:nth-child(3){{display:none}}
 .trials{{font-size:.8125rem}}
 .trials th,.trials td{{padding-right:.5rem}}.trials thead th{{white-space:normal}}
 .trials .key{{margin-right:.35rem}}
 .trials td:last-child,.trials th:last-child{{padding:.42rem 0;min-width:0}}}}
@media print{{@page{{margin:14mm 16mm}}html{{font-size:12.5px}}body{{background:none}}
 main{{max-width:none;padding:0}}h1{{font-size:2rem}}button,.modebar{{display:none}}
 .facts{{grid-template-columns:repeat(3,1fr)}}h2{{margin-top:2.2rem}}h2,h3{{break-after:avoid}}
 figure,table,pre,.facts{{break-inside:avoid}}
 pre{{white-space:pre-wrap;border:1px solid var(--rule);background:none}}
 i,.chosen *{{print-color-adjust:exact;-webkit-print-color-adjust:exact}}}}
"""

SCRIPT = """
(function () {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const touch = matchMedia("(pointer: coarse)");
  const config = {responsive: true, displaylogo: false,
    modeBarButtons: [["toImage", "resetScale2d"]]};
  function dressed(entry, inDark) {
    const figure = structuredClone(entry.figure);
    for (const [path, value] of inDark ? entry.dark : []) {
      const last = path[path.length - 1];
      path.slice(0, -1).reduce((tree, key) => tree[key], figure)[last] = value;
    }
    return figure;
  }
  function draw(inDark, width) {
    for (const [name, entry] of Object.entries(figures)) {
      const {data, layout} = dressed(entry, inDark);
      if (touch.matches) layout.dragmode = false;
      if (width) Object.assign(layout, {width: width, autosize: false});
      Plotly.react(document.getElementById(name), data, layout, config);
    }
  }
  const onScreen = () => draw(dark.matches, 0);
  onScreen();
  // A figure follows its place, whatever made that narrower: a window, a frame, a side bar.
  const follow = new ResizeObserver((entries) => {
    for (const {target, contentRect} of entries) {
      const drawn = target._fullLayout;
      if (drawn && target.layout.autosize && Math.abs(drawn.width - contentRect.width) > 1)
        Plotly.relayout(target, {autosize: true});  // at once; Plots.resize waits for a tenth
    }
  });
  for (const name of Object.keys(figures)) follow.observe(document.getElementById(name));
  dark.addEventListener("change", onScreen);
  addEventListener("beforeprint", () => draw(false, 660));
  addEventListener("afterprint", onScreen);
  for (const button of document.querySelectorAll("button[data-copy]")) {
    button.addEventListener("click", () => {
      const block = document.getElementById(button.dataset.copy);
      const done = () => {
        button.textContent = "copied";
        setTimeout(() => { button.textContent = "copy"; }, 1500);
      };
      const select = () => getSelection().selectAllChildren(block);
      if (navigator.clipboard) navigator.clipboard.writeText(block.textContent).then(done, select);
      else select();
    });
  }
})();
"""
