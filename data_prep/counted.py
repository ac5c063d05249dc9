"""Numbers with what they count, for messages: "3 spots are scored", "1 spot is scored"."""

_VERBS = {"are": "is", "were": "was", "have": "has", "hold": "holds", "lie": "lies", "cover": "covers", "do": "does"}
_NOUNS = {"nuclei": "nucleus", "patches": "patch"}


def counted(number: int, text: str) -> str:
    """The number and `text`, which is of many: "spots have no patch and were left out".

    Of one, its first word that ends in s loses that, and its verbs follow: "1 spot has no patch and was left out".
    """
    words = text.split(" ")
    if number == 1:
        noun = next(place for place, word in enumerate(words) if word in _NOUNS or word.endswith("s"))
        words[noun] = _NOUNS.get(words[noun], words[noun].removesuffix("s"))
        words[noun + 1 :] = [_VERBS.get(word, word) for word in words[noun + 1 :]]
    return " ".join([f"{number}", *words])
