"""The search: American spellings find British words."""

import re

from sphinx.search.en import SearchEnglish

AMERICAN = (
    (r"is(e[ds]?|ers?|ing|ations?)$", r"iz\1"),
    (r"our(s|ed|ing|ful|ite)?$", r"or\1"),
    (r"gre(y)", r"gra\1"),
    (r"entre(s|d)?$", r"enter\1"),
    (r"ll(ed|ing)$", r"l\1"),
)


def american(word: str) -> str:
    """The word as it is spelled in America, or as some other word is: that one is not asked for."""
    for british, spelling in AMERICAN:
        word = re.sub(british, spelling, word)
    return word


class BothSpellings(SearchEnglish):
    def split(self, text):
        words = super().split(text)
        return words + [american(word) for word in words if american(word) != word]


def setup(app):
    app.add_search_language(BothSpellings)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
