"""Formulas as MathML, which browsers draw without a script."""

import re

from latex2mathml.converter import convert

_PROSE = re.compile(r"(```.*?```|`[^`\n]*`)", re.DOTALL)  # code, which holds no formulas
_FORMULA = re.compile(r"\$\$(.+?)\$\$|(?<![\\$\w])\$(?!\s)([^$\n]+?)(?<!\s)\$(?![\d$])", re.DOTALL)


def formulas_to_mathml(text: str) -> str:
    """Replace ``$...$`` and ``$$...$$`` by MathML, code left alone.

    Args:
        text: Markdown.

    Returns:
        Markdown with HTML.

    Raises:
        ValueError: If a formula cannot be read.

    Example:
        >>> formulas_to_mathml("`$x$` is $x$")[:20]
        '`$x$` is <math xmlns'
    """
    parts = _PROSE.split(text)
    parts[::2] = [_FORMULA.sub(_mathml, part) for part in parts[::2]]
    return "".join(parts)


def _mathml(found: re.Match) -> str:
    latex, display = found[1] or found[2], "block" if found[1] else "inline"
    try:
        return convert(latex.strip(), display=display)
    except Exception as error:  # the converter has a class of its own for each mistake
        raise ValueError(f"no formula that MathML can show: {found[0]} ({error})") from error
