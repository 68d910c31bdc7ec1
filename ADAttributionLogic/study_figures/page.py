"""One HTML page that leads through a study: no scripts, no requests, pictures inside."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ADAttributionLogic import __version__
from ADAttributionLogic.errors import OutputError
from ADAttributionLogic.provenance import NOTICE
from ADAttributionLogic.study_figures.style import StudyFigure
from ADAttributionLogic.study_figures.tables import Table

#: Rows of a table that the page shows; all are in its file.
SHOWN_ROWS = 12
#: Wider tables are only linked.
SHOWN_COLUMNS = 14


@dataclass(frozen=True, eq=False)
class Section:
    """A part of the page."""

    title: str
    about: str
    tables: tuple[Table, ...]
    figures: tuple[StudyFigure, ...]


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; color: #1c1e21; margin: 0 auto; max-width: 62rem;
  padding: 1rem 1.5rem 4rem; }
h1 { font-size: 1.6rem; margin: .6rem 0; }
h2 { font-size: 1.25rem; margin: 2.4rem 0 .4rem; border-top: 1px solid #d5d8dc; padding-top: 1rem; }
.notice { background: #fff4e5; border-left: 4px solid #e17012; padding: .5rem .9rem; }
nav a { margin-right: 1rem; white-space: nowrap; }
figure { margin: 1.2rem 0; }
figure img { max-width: 100%; height: auto; }
figcaption, .about, .files { color: #555b63; font-size: .9rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .82rem; font-variant-numeric: tabular-nums; margin: .4rem 0; }
caption { text-align: left; font-weight: 600; padding: .3rem 0; }
th, td { padding: .15rem .6rem .15rem 0; text-align: right; white-space: nowrap; }
th { border-bottom: 1px solid #b9bec5; font-weight: 600; }
th.text, td.text { text-align: left; }
</style>
</head>
<body>
<h1>{{ title }}</h1>
<p class="notice">{{ notice }}</p>
<nav>{% for section in sections %}<a href="#part-{{ loop.index }}">{{ section.title }}</a> {% endfor %}</nav>
{% if notes %}<ul>{% for note in notes %}<li>{{ note }}</li>{% endfor %}</ul>{% endif %}
{% for section in sections %}
<h2 id="part-{{ loop.index }}">{{ section.title }}</h2>
{% if section.about %}<p class="about">{{ section.about }}</p>{% endif %}
{% for figure in section.figures %}
<figure><img src="{{ figure.picture }}" alt="{{ figure.caption }}">
<figcaption>{{ figure.caption }}
<a href="figures/{{ figure.name }}.svg">SVG</a> ·
<a href="figures/{{ figure.name }}.tsv">numbers</a></figcaption></figure>
{% endfor %}
{% for table in section.shown %}
<div class="scroll"><table><caption>{{ table.title }}</caption>
<thead><tr>
{% for name, is_text in table.head %}<th{% if is_text %} class="text"{% endif %}>{{ name }}</th>{% endfor %}
</tr></thead>
<tbody>
{% for row in table.rows %}
<tr>{% for text, is_text in row %}<td{% if is_text %} class="text"{% endif %}>{{ text }}</td>{% endfor %}</tr>
{% endfor %}
</tbody></table></div>
{% if table.more %}
<p class="files">{{ table.more }} more rows in <a href="tables/{{ table.name }}.tsv">{{ table.name }}.tsv</a></p>
{% endif %}
{% endfor %}
<p class="files">Tables:
{% for name in section.files %}<a href="tables/{{ name }}.tsv">{{ name }}.tsv</a> {% endfor %}</p>
{% endfor %}
<p class="files">ADAttribution {{ version }}. How it was computed is in study.json.</p>
</body>
</html>
"""


def build_page(title: str, notes: Sequence[str], sections: Sequence[Section], figures: Path) -> str:
    """The page as text.

    Parameters
    ----------
    title : str
    notes : sequence of str
    sections : sequence of Section
    figures : Path
        Folder with each figure's PNG.

    Raises
    ------
    OutputError
        jinja2 is not installed.
    """
    try:
        from jinja2 import Environment, StrictUndefined
    except ImportError as cause:
        raise OutputError("The page needs jinja2: pip install ad-attribution[report].") from cause
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    shown = [_section(section, figures) for section in sections]
    page = environment.from_string(_PAGE)
    return page.render(title=title, notice=NOTICE, notes=notes, sections=shown, version=__version__)


def _section(section: Section, figures: Path) -> dict[str, Any]:
    return {
        "title": section.title,
        "about": section.about,
        "figures": [
            {"name": f.name, "caption": f.caption, "picture": _data_uri(figures / f"{f.name}.png")}
            for f in section.figures
        ],
        "shown": [_table(table) for table in section.tables if len(table.columns) <= SHOWN_COLUMNS],
        "files": [table.name for table in section.tables],
    }


def _table(table: Table) -> dict[str, Any]:
    rows = table.rows()
    is_text = [any(isinstance(row[n], str) for row in rows) for n in range(len(table.columns))]
    return {
        "name": table.name,
        "title": table.title,
        "head": list(zip(table.columns, is_text, strict=True)),
        "rows": [list(zip(map(_shown, row), is_text, strict=True)) for row in rows[:SHOWN_ROWS]],
        "more": max(len(rows) - SHOWN_ROWS, 0),
    }


def _shown(value: Any) -> str:
    """A number as people read it."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.0f}" if value.is_integer() and abs(value) < 1e6 else f"{value:.3g}"
    return str(value).replace("_", " ")


def _data_uri(path: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"
