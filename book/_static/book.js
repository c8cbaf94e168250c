// Excerpts of the pages found are fetched from the server, and from a file path no browser fetches.
if (location.protocol === "file:") {
  DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;
}
