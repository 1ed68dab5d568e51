"""The page and the Markdown: what they say, and that a model's names cannot change them."""

import dataclasses
import html
import html.parser
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsecc.passes.base import Refusal
from sparsecc.report import Report
from sparsecc.report.document import document
from sparsecc.report.markdown import escaped, to_markdown
from sparsecc.report.page import to_html
from tests.sparsecc.report.searched import searched

HOSTILE = "</script><img src=x onerror=alert(1)>\"'|`&{{7*7}}\x1b\n# *x*"


class Page(html.parser.HTMLParser):
    """Elements and texts of a page, as a browser's parser would find them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(data)


@pytest.fixture(scope="module")
def report(pruned_mlp) -> Report:
    return dataclasses.replace(pruned_mlp.report, title="mlp")


def renamed(report: Report, name: str) -> Report:
    """The report with every name that comes from a model changed."""
    rows = [dataclasses.replace(row, name=f"{name}{row.name}", why=name) for row in report.rows]
    manifest = report.manifest.model_copy(
        update={
            "nodes_before": [
                node.model_copy(update={"name": name}) for node in report.manifest.nodes_before
            ],
            "nodes_after": [
                node.model_copy(update={"name": name, "op": name})
                for node in report.manifest.nodes_after
            ],
        }
    )
    layers = tuple(
        layer.model_copy(update={"name": f"{name}{layer.name}"}) for layer in report.plan.layers
    )
    return dataclasses.replace(
        report,
        rows=rows,
        title=name,
        refusals=[Refusal("form-regions", name, name), Refusal("fuse", name, f"{name} too")],
        plan=report.plan.model_copy(update={"layers": layers, "spec": name}),
        manifest=manifest,
    )


def test_a_page_has_all_sections_and_loads_nothing(report):
    text = to_html(document(searched(report)))
    page = Page(text)
    titles = " ".join(page.texts)
    for said in (
        "Speed and quality",
        "Sensitivity",
        "Roofline",
        "before and after",
        "What made it",
    ):
        assert said in titles
    for name, attributes in page.tags:
        assert name not in ("link", "img", "iframe", "object", "base", "form")
        assert not {"src", "href", "style"} & attributes.keys()
        assert not [key for key in attributes if key.startswith("on")]
    policy = next(a["content"] for _, a in page.tags if a.get("http-equiv"))
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy


def test_without_a_search_the_page_says_so(report):
    text = to_html(document(report))
    assert "Nothing was searched" in text
    assert "no other option of a layer was tried" in text
    assert '<polyline class="front"' not in text
    bare = to_html(document(Report([], "nowhere")))
    for said in ("no layer that could be pruned", "no target or no layer", "Nothing was written"):
        assert said in bare


def test_the_same_report_is_the_same_page(report):
    made = searched(report)
    assert to_html(document(made)) == to_html(document(made))
    assert to_markdown(document(made)) == to_markdown(document(made))


@pytest.mark.parametrize("name", [HOSTILE, "a" * 300, "\u202eevil", "]]><svg onload=x>"])
def test_names_are_text_and_nothing_else(report, name):
    honest, hostile = (
        Page(to_html(document(searched(renamed(report, each))))) for each in ("plain", name)
    )
    assert [tag for tag, _ in hostile.tags] == [tag for tag, _ in honest.tags]
    assert [set(a) for _, a in hostile.tags] == [set(a) for _, a in honest.tags]


@given(st.text(max_size=40))
def test_markdown_keeps_any_name_on_its_line_and_in_its_cell(name):
    text = escaped(name)
    assert "\n" not in text
    assert not re.search(r"(?<!\\)(?:\\\\)*[|<`*\[]", text)


def test_markdown_has_a_row_for_each_layer(report):
    text = to_markdown(document(searched(renamed(report, "a|b"))))
    rows = [
        line for line in text.splitlines() if line.startswith(r"| a\|bfc") or r"\|bhead" in line
    ]
    assert len(rows) == 3
    header = next(line for line in text.splitlines() if line.startswith("| layer"))
    for row in rows:
        assert len(re.findall(r"(?<!\\)\|", row)) == header.count("|")
    assert "searched 6" in text


def test_a_long_model_makes_a_page_under_a_megabyte(report):
    long = searched(report)
    layers, rows = [], []
    for at in range(200):
        row, layer = report.rows[0], long.plan.layers[0]
        name = f"/bert/encoder/layer.{at}/attention/self/query/MatMul"
        rows.append(dataclasses.replace(row, name=name))
        layers.append(layer.model_copy(update={"name": name}))
    nodes = [report.manifest.nodes_before[0].model_copy(update={"name": r.name}) for r in rows * 5]
    big = dataclasses.replace(
        long,
        rows=rows,
        plan=long.plan.model_copy(update={"layers": tuple(layers)}),
        manifest=report.manifest.model_copy(update={"nodes_before": nodes, "nodes_after": nodes}),
    )
    text = to_html(document(big))
    assert html.escape(rows[-1].name) in text
    assert len(text.encode()) < 1 << 20
