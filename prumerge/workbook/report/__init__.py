"""All notebooks as one static site, to read without a kernel, a server or a network.

    pages    a notebook or document -> its page, pictures and searchable text; formulas as MathML
    site     pages -> folder with start page, pictures, glossary and search

Shell: ``python -m prumerge.report NOTEBOOK... --to FOLDER`` (``make report``). Nothing is executed.
"""

from prumerge.models.checks import needs

with needs("notebooks"):
    from prumerge.workbook.report.pages import Page, Picture, Section, read_page
    from prumerge.workbook.report.site import write_site

__all__ = ["Page", "Picture", "Section", "read_page", "write_site"]
