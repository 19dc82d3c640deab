"""Charts as SVG: horizontal bars with the median, and a line from the smallest to the largest run."""

from xml.sax.saxutils import escape

WIDTH, LEFT, RIGHT, TOP, ROW = 720, 190, 110, 64, 40
OURS, OTHERS, INK, FAINT, PAPER = "#1f6f8b", "#b8bfc6", "#1c2430", "#6b7480", "#ffffff"
FONT = "font-family='Helvetica, Arial, sans-serif'"


def number(value):
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.2f}" if value >= 0.1 else f"{value:.4f}"


def ceiling(value):
    """A round number not below `value`."""
    step = 10.0 ** (len(str(int(value))) - 1) if value >= 1 else 10.0 ** -len(f"{1 / value:.0f}")
    for factor in (1, 1.5, 2, 3, 4, 5, 7.5, 10):
        if step * factor >= value:
            return step * factor
    return value


def text(x, y, words, size=13, anchor="start", fill=INK, weight="normal"):
    style = f"font-size='{size}' text-anchor='{anchor}' fill='{fill}' font-weight='{weight}'"
    return f"<text x='{x:.1f}' y='{y:.1f}' {FONT} {style}>{escape(words)}</text>"


def bars(title, unit, rows):
    """A chart of `rows`: label, {min, median, max}, whether it is ours."""
    height = TOP + ROW * len(rows) + 36
    span = WIDTH - LEFT - RIGHT
    top = ceiling(max(numbers["max"] for _, numbers, _ in rows))
    place = lambda value: LEFT + span * value / top  # noqa: E731
    out = [
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {height}' role='img'>",
        f"<title>{escape(title)}</title>",
        f"<rect width='{WIDTH}' height='{height}' fill='{PAPER}'/>",
        text(16, 28, title, 16, weight="bold"),
        text(16, 47, f"{unit}: median, and a line from the smallest to the largest run", 12, fill=FAINT),
    ]
    for tick in range(5):
        x = place(top * tick / 4)
        out.append(f"<line x1='{x:.1f}' y1='{TOP}' x2='{x:.1f}' y2='{height - 30}' stroke='#e3e7eb'/>")
        out.append(text(x, height - 12, number(top * tick / 4) if tick else "0", 11, "middle", FAINT))
    for index, (label, numbers, ours) in enumerate(rows):
        y = TOP + ROW * index + 8
        middle = y + 12
        low, median, high = (place(numbers[key]) for key in ("min", "median", "max"))
        fill = OURS if ours else OTHERS
        out.append(text(LEFT - 10, middle + 4, label, 13, "end", weight="bold" if ours else "normal"))
        out.append(f"<rect x='{LEFT}' y='{y}' width='{median - LEFT:.1f}' height='24' rx='2' fill='{fill}'/>")
        line = f"x1='{low:.1f}' y1='{middle}' x2='{high:.1f}' y2='{middle}'"
        out.append(f"<line {line} stroke='{INK}' stroke-width='2'/>")
        out.append(text(max(high, median) + 8, middle + 4, number(numbers["median"]), 13))
    out.append("</svg>")
    return "\n".join(out) + "\n"
