// A word in a section's title leads to that section; the package's reference comes after the pages.
var Scorer = {
  score: ([docname, title, anchor, descr, score]) =>
    score + (docname.endsWith("reference_api") ? -20 : anchor ? 10 : 0),
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: {0: 15, 1: 5, 2: -5},
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
