(() => {
  "use strict";
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const narrow = matchMedia("(max-width: 40rem)");
  const touch = matchMedia("(pointer: coarse)");
  const drawn = new Set();
  const PAPER = 670; // pixels that fit on A4 and on Letter
  let printing = false;

  const colours = () => dark.matches && !printing
    ? { ink: "#c3cad3", label: "#1c2128", line: "#3a414c", page: "#101318" }
    : { ink: "#454c56", label: "#ffffff", line: "#c9ced6", page: "#ffffff" };

  // The inset covers the lines behind it.
  const covers = (place, page) => Object.fromEntries(
    (place.layout.shapes || []).map((shape, i) => [shape.name, `shapes[${i}].fillcolor`])
      .filter(([name]) => name === "cover")
      .map(([, key]) => [key, page]));

  const theme = (place) => {
    const { ink, label, line, page } = colours();
    return {
      "font.color": ink, "hoverlabel.bgcolor": label, "hoverlabel.bordercolor": line,
      "hoverlabel.font.color": ink, ...covers(place, page),
      width: printing ? Math.min(place.clientWidth, PAPER) : null,
    };
  };

  const size = (layout) => {
    if (!narrow.matches) return layout;
    const small = { ...layout, margin: { ...layout.margin, l: 44, r: 6, t: 8 } };
    small.font = { ...layout.font, size: 11 };
    small.legend = { ...layout.legend, font: { size: 11 } };
    if (layout.legend2) small.legend2 = { ...layout.legend2, font: { size: 11 } };
    small.height = Math.max(140, Math.round(layout.height * 0.9));
    return small;
  };

  const draw = (place) => {
    if (drawn.has(place)) return;
    drawn.add(place);
    const { data, layout } = figures[Number(place.id.split("-")[1]) - 1];
    const sized = size(layout);
    // On a touch screen a drag scrolls the page; a tap still shows the values.
    if (touch.matches) sized.dragmode = false;
    place.style.minHeight = "";
    Plotly.newPlot(place, data, sized, { responsive: true, displayModeBar: false })
      .then(() => Plotly.relayout(place, theme(place)));
  };

  const places = [...document.querySelectorAll(".plot")];
  const near = new IntersectionObserver((entries) => {
    for (const entry of entries) if (entry.isIntersecting) { near.unobserve(entry.target); draw(entry.target); }
  }, { rootMargin: "600px" });
  places.forEach((place) => near.observe(place));

  const repaint = () => drawn.forEach((place) => Plotly.relayout(place, theme(place)));
  dark.addEventListener("change", repaint);
  addEventListener("beforeprint", () => {
    printing = true;
    document.querySelectorAll("details").forEach((each) => { each.open = true; });
    places.forEach(draw);
    repaint();
  });
  addEventListener("afterprint", () => { printing = false; repaint(); });
})();
