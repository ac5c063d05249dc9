"""A page taken apart as a browser would, strictly."""

import base64
import html.parser
import json
import re
import zlib

import numpy as np

VOID = {"meta", "link", "input", "br", "img", "hr"}


class Page(html.parser.HTMLParser):
    """Elements in order with their attributes, and the text of scripts and styles.

    Raises:
        AssertionError: a tag closed that is not open, or left open.
    """

    def __init__(self, text):
        super().__init__()
        self.text, self.elements, self.raw, self._open = text, [], [], []
        self.words = []
        self.feed(text)
        self.close()
        assert self._open == [], f"left open: {self._open}"

    def handle_starttag(self, tag, attrs):
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"<{tag}> has an attribute twice"
        self.elements.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self.raw.append((tag, dict(attrs), ""))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open, f"</{tag}> closes nothing"
        assert self._open.pop() == tag, f"</{tag}> is out of order"

    def handle_data(self, data):
        if self._open and self._open[-1] in ("script", "style"):
            tag, attributes, text = self.raw[-1]
            self.raw[-1] = tag, attributes, text + data
        else:
            self.words.append(data)

    @property
    def visible(self):
        return re.sub(r"\s+", " ", "".join(self.words))

    def find(self, tag, **attributes):
        return [a for t, a in self.elements if t == tag and all(a.get(k) == v for k, v in attributes.items())]

    def script(self, key):
        return next(text for tag, attributes, text in self.raw if tag == "script" and attributes.get("id") == key)

    @property
    def data(self):
        return json.loads(self.script("data"))

    def layer(self, layer, spots):
        """[S, G] values of a layer, by the rule that the page states."""
        bits = self.data["bits"]
        codes = np.frombuffer(
            zlib.decompress(base64.b64decode(self.script(f"blob-{layer['codes']}"))), {16: "<u2", 8: "u1"}[bits]
        ).reshape(-1, spots)
        low, high = (np.array(layer[key], float)[:, None] for key in ("low", "high"))
        return np.where(codes > 0, low + (codes - 1.0) / (2**bits - 2) * (high - low), np.nan).T
