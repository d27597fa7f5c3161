// What the first page does: draws a figure when it comes into view, filters the table of all runs.
// Values come from models and repositories: they reach the page as text only, never as markup.
"use strict";

(() => {
  const dark = matchMedia("(prefers-color-scheme: dark)");

  // --- figures -------------------------------------------------------------------------------

  const PAPER = 680; // pixels: what a page of A4 or Letter has room for
  const MANY = 2000; // marks above which a figure is a picture on the screen
  let vega = null; // loaded when the first figure is looked at, or when there is nothing to do
  let printing = false;
  const drawn = new Map(); // place -> its view

  const load = (source) =>
    new Promise((done, failed) => {
      const script = document.createElement("script");
      script.src = source;
      script.onload = done;
      script.onerror = () => failed(new Error(`${source} cannot be loaded`));
      document.head.append(script);
    });

  const themed = () => {
    const style = getComputedStyle(document.body);
    const light = printing || !dark.matches;
    const ink = light ? "#1c1e21" : "#e4e5e7";
    const soft = light ? "#e3e2dd" : "#34383e";
    const text = { labelColor: ink, titleColor: ink, labelFontSize: 11, titleFontSize: 11 };
    return {
      background: "transparent",
      font: style.fontFamily,
      title: { color: ink, fontSize: 12, fontWeight: "normal" },
      view: { stroke: null },
      axis: { ...text, titleFontWeight: "normal", gridColor: soft, domainColor: soft, tickColor: soft },
      legend: { ...text, titleFontWeight: "normal", orient: "top", labelLimit: 400 },
    };
  };

  // The width of the labels of a panel's rows, or of its numbers and their title.
  const margin = (spec) => {
    const rows = spec.concat.flatMap((one) =>
      one.layer.flatMap((layer) => layer.encoding.y?.scale?.domain ?? []),
    );
    const names = rows.filter((row) => typeof row === "string");
    return names.length ? 15 + 6.5 * Math.max(...names.map((name) => name.length)) : 50;
  };

  // The specification for a width: panels are one below the other.
  const sized = (spec, width) => {
    const axis = { labelLimit: Math.max(90, 0.55 * width) };
    const made = { ...spec, config: { ...themed(), axis: { ...themed().axis, ...axis } } };
    const legend = width < 640 ? { columns: 2 } : {};
    made.config.legend = { ...made.config.legend, ...legend };
    if (spec.concat) {
      // The width of a panel is that of its marks: labels at its left and half a label at its right
      // are outside of it.
      const inner = Math.max(width - margin(spec) - 25, 120);
      return { ...made, columns: 1, concat: spec.concat.map((one) => ({ ...one, width: inner })) };
    }
    return { ...made, width, autosize: { type: "fit-x", contains: "padding" } };
  };

  const library = () => (vega ??= load("assets/vega.min.js"));

  const draw = async (place) => {
    const figure = window.cooperflowFigures.find((one) => one.name === place.dataset.figure);
    await library();
    const width = printing ? PAPER : place.clientWidth;
    if (!width) return; // in a part that is closed again
    const rows = figure.spec.data?.values.length ?? 0;
    drawn.get(place)?.finalize();
    // Expressions are interpreted (ast), not compiled: the page may not evaluate text as script.
    const { view } = await window.vegaEmbed(place, sized(figure.spec, width), {
      actions: false,
      ast: true,
      renderer: rows > MANY && !printing ? "canvas" : "svg",
    });
    drawn.set(place, view);
  };

  const figures = () => {
    const places = document.querySelectorAll(".plot");
    const seen = new IntersectionObserver(
      (entries) => {
        for (const { isIntersecting, target } of entries) {
          if (!isIntersecting) continue;
          seen.unobserve(target);
          draw(target);
        }
      },
      { rootMargin: "300px" },
    );
    for (const place of places) {
      place.style.minHeight = `${place.dataset.height}px`;
      seen.observe(place);
    }
    const again = () => [...drawn.keys()].forEach(draw);
    dark.addEventListener("change", again);
    let waiting = 0;
    let wide = innerWidth;
    addEventListener("resize", () => {
      if (printing || innerWidth === wide) return;
      wide = innerWidth;
      clearTimeout(waiting);
      waiting = setTimeout(again, 200);
    });
    // Paper is light, has a width of its own and cannot be scrolled. What is printed is what is
    // there when the event has been handled: the library must have been loaded by then.
    const print = (on) => {
      printing = on;
      (on ? [...places] : [...drawn.keys()]).forEach(draw);
    };
    addEventListener("beforeprint", () => print(true));
    addEventListener("afterprint", () => print(false));
    const idle = window.requestIdleCallback ?? setTimeout;
    addEventListener("load", () => idle(library));
  };

  // --- the table of all runs -----------------------------------------------------------------

  const OUTCOMES = new Set(["pass", "fail", "infra_error"]);

  const text = (value) => document.createTextNode(value);

  const link = (url, label) => {
    const made = document.createElement("a");
    made.href = url;
    made.textContent = label;
    return made;
  };

  // Cells are made as nodes: DataTables would take a string for markup.
  const cell = (runs, column) => (value, type, row) => {
    const figure = typeof value === "number" && column.digits != null;
    const full = figure ? value.toFixed(column.digits) : String(value);
    const shown = value === null || value === "" ? (column.number ? "–" : "") : full;
    if (type !== "display") return value === null ? "" : value;
    if (column.key === "outcome") {
      const made = document.createElement("span");
      made.className = `outcome ${OUTCOMES.has(value) ? value : "unfinished"}`;
      const page = runs.pages[row[row.length - 1]];
      made.append(page ? link(page, shown) : text(shown));
      return made;
    }
    if (column.key === "features" && runs.pairs[row[row.length - 1]]) {
      return link(runs.pairs[row[row.length - 1]], shown);
    }
    const made = document.createElement("bdi");
    made.textContent = shown;
    made.title = shown;
    return made;
  };

  const unfold = () => {
    const made = document.createElement("button");
    made.type = "button";
    made.className = "unfold";
    made.textContent = "more";
    made.setAttribute("aria-expanded", "false");
    return made;
  };

  const details = (runs, row) => {
    const made = document.createElement("dl");
    made.className = "more";
    runs.columns.forEach((column, number) => {
      if (!column.folded || row[number] === null || row[number] === "") return;
      const pair = document.createElement("div");
      const name = document.createElement("dt");
      const value = document.createElement("dd");
      name.textContent = column.title;
      value.textContent = String(row[number]);
      pair.append(name, value);
      made.append(pair);
    });
    return made;
  };

  const choice = (label, values) => {
    const wrapper = document.createElement("label");
    const select = document.createElement("select");
    select.append(new Option("all", ""), ...values.map((v) => new Option(v || "(none)", v || "\0")));
    wrapper.append(text(label), select);
    return [wrapper, select];
  };

  const table = () => {
    const runs = window.cooperflowRuns;
    const rows = runs.rows.map((row, number) => [...row, number]);
    const made = new window.DataTable("#table", {
      data: rows,
      columns: [
        ...runs.columns.map((column) => ({
          title: column.title,
          className: column.number ? "n" : "",
          type: column.number ? "num" : "string",
          visible: !column.folded,
          render: cell(runs, column),
        })),
        { title: "", orderable: false, searchable: false, render: () => unfold() },
      ],
      order: [],
      deferRender: true,
      pageLength: 50,
      lengthMenu: [25, 50, 100, 500],
      autoWidth: false,
      orderMulti: true,
      layout: { topStart: "info", topEnd: null, bottomStart: "pageLength", bottomEnd: "paging" },
      language: { info: "_TOTAL_ runs", infoFiltered: "of _MAX_", infoEmpty: "No run" },
    });

    // Folded columns: a row of details below the row, and plain columns on paper.
    made.on("click", "button.unfold", (event) => {
      const button = event.currentTarget;
      const row = made.row(button.closest("tr"));
      const open = !row.child.isShown();
      if (open) row.child(details(runs, row.data()), "more").show();
      else row.child.hide();
      button.setAttribute("aria-expanded", String(open));
    });
    const paper = (on) => {
      runs.columns.forEach((column, number) => {
        if (column.folded) made.column(number).visible(on, false);
      });
    };
    addEventListener("beforeprint", () => paper(true));
    addEventListener("afterprint", () => paper(false));

    const form = document.getElementById("filters");
    const box = document.createElement("label");
    const field = Object.assign(document.createElement("input"), { type: "search", name: "q" });
    box.append(text("Search"), field);
    form.append(box);
    const selects = new Map();
    runs.columns.forEach((column, number) => {
      if (!column.filter) return;
      const values = [...new Set(runs.rows.map((row) => row[number]))].sort();
      if (values.length < 2) return;
      const [wrapper, select] = choice(column.title, values);
      select.name = column.key;
      selects.set(select, number);
      form.append(wrapper);
    });
    const clear = Object.assign(document.createElement("button"), { type: "reset" });
    clear.textContent = "Clear";
    form.append(clear);

    const apply = (note) => {
      made.search(field.value);
      for (const [select, number] of selects) {
        const wanted = select.value === "\0" ? "" : select.value;
        made.column(number).search(select.value ? (value) => value === wanted : "");
      }
      made.draw();
      if (!note) return;
      const asked = new URLSearchParams();
      for (const one of [field, ...selects.keys()]) if (one.value) asked.set(one.name, one.value);
      history.replaceState(null, "", `#runs${asked.size ? `?${asked}` : ""}`);
    };
    // Going back, or a link that was passed on, brings the same filters.
    const recall = () => {
      const [, asked] = location.hash.split("?");
      if (!asked) return;
      const values = new URLSearchParams(asked);
      for (const one of [field, ...selects.keys()]) one.value = values.get(one.name) || "";
      apply(false);
      document.getElementById("runs").scrollIntoView();
    };
    // Not `change` of the field: it comes when the field is left, by a click on a row that the
    // new drawing would take away.
    field.addEventListener("input", () => apply(true));
    for (const select of selects.keys()) select.addEventListener("change", () => apply(true));
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("reset", () => setTimeout(() => apply(true)));
    recall();
    addEventListener("hashchange", recall);
    document.documentElement.dataset.ready = "yes";
  };

  figures();
  table();
})();
