for (const chart of document.querySelectorAll("div.vega-chart")) {
  const spec = JSON.parse(chart.querySelector("script").text);
  new vega.View(vega.parse(spec), { renderer: "svg", container: chart }).runAsync();
}
