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
