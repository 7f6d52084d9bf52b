(function () {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const touch = matchMedia("(pointer: coarse)");
  const config = {responsive: true, displaylogo: false,
    modeBarButtons: [["toImage", "resetScale2d"]]};
  function changed(tree, changes) {
    const root = {it: structuredClone(tree)};
    for (const [path, value] of changes) {
      const whole = ["it", ...path];
      whole.slice(0, -1).reduce((part, key) => part[key], root)[whole[path.length]] = value;
    }
    return root.it;
  }
  const chosen = {};  // of each gallery the place of the figure that is shown
  function entryOf(name) {
    const {others, ...first} = figures[name], at = chosen[name] || 0;
    return at ? changed(first, others[at - 1]) : first;
  }
  const dressed = (entry, inDark) => changed(entry.figure, inDark ? entry.dark : []);
  function draw(inDark, width, names = Object.keys(figures)) {
    for (const name of names) {
      const {data, layout} = dressed(entryOf(name), inDark);
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
  for (const list of document.querySelectorAll("select[data-figure]")) {
    list.addEventListener("change", () => {
      chosen[list.dataset.figure] = Number(list.value);
      draw(dark.matches, 0, [list.dataset.figure]);
    });
  }
  for (const button of document.querySelectorAll("button[data-gallery]")) {
    button.addEventListener("click", () => {
      const gallery = document.getElementById(button.dataset.gallery);
      const list = gallery.querySelector("select");
      list.value = button.dataset.choice;
      list.dispatchEvent(new Event("change"));
      gallery.scrollIntoView({block: "nearest"});
    });
  }
  for (const wide of document.querySelectorAll(".wide")) {
    const look = () => {
      const hidden = wide.scrollWidth - wide.clientWidth;
      wide.classList.toggle("scrolls", hidden > 1);
      wide.classList.toggle("more", hidden - wide.scrollLeft > 1);
      if (hidden > 1) Object.assign(wide, {tabIndex: 0, role: "region",
        ariaLabel: "table, which scrolls sideways"});
    };
    wide.addEventListener("scroll", look, {passive: true});
    new ResizeObserver(look).observe(wide);
  }
  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    const order = (a, b) =>
      (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b)));
    const keyOf = (cell) => {
      const text = cell.dataset.key ?? cell.textContent.trim().replace("\u2212", "-");
      const number = cell.classList.contains("n") ? parseFloat(text) : Number(text);
      return isNaN(number) ? text : number;
    };
    heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
      const down = head.ariaSort === "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const keyed = [...table.tBodies[0].rows].map((row) => {
        return [keyOf(row.cells[column]), row];
      });
      const missing = ([key]) => key === "\u2013";
      const known = keyed.filter((pair) => !missing(pair)), rest = keyed.filter(missing);
      known.sort(([a], [b]) => (down ? order(b, a) : order(a, b)));
      table.tBodies[0].append(...[...known, ...rest].map(([, row]) => row));
    }));
  }
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
