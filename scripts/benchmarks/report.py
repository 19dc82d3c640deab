"""What becomes of figures: a table with ratios, how they compare with those in docs/, JSON and charts."""

import json

from . import charts

COLUMNS = [
    ("per_s", "per second", lambda v: f"{v:,.0f}" if v >= 100 else f"{v:,.2f}"),
    ("wall_s", "wall s", lambda v: f"{v:.2f}" if v >= 1 else f"{v:.4f}"),
    ("cpu_s", "CPU s", lambda v: f"{v:.2f}"),
    ("rss_bytes", "peak RSS MiB", lambda v: f"{v / 2**20:.0f}"),
    ("output_bytes", "output MB", lambda v: f"{v / 1e6:.1f}"),
    ("files", "files", lambda v: f"{v:,.0f}"),
    ("read_bytes", "read MB", lambda v: f"{v / 1e6:.2f}"),
    ("per_s_less_idle", "per second, idle time left out", lambda v: f"{v:,.0f}"),
    ("cpu_s_per_million", "CPU s per million", lambda v: f"{v:.2f}"),
    ("per_cpu_s", "per CPU second", lambda v: f"{v:,.0f}"),
    ("latency_p50", "half within s", lambda v: f"{v:.2f}"),
    ("latency_p99", "99 of 100 within s", lambda v: f"{v:.2f}"),
    ("latency_max", "all within s", lambda v: f"{v:.2f}"),
    ("program_bytes", "program MiB", lambda v: f"{v / 2**20:.1f}"),
    ("stripped_bytes", "without line tables MiB", lambda v: f"{v / 2**20:.1f}"),
]


def ratios(figures):
    """Ours to the other's, by number; medians."""
    ours = figures["peers"][figures["ours"]]
    other = figures["peers"].get(figures["against"] or "")
    if other is None:
        return {}
    both = [key for key, *_ in COLUMNS if key in ours and key in other and other[key]["median"]]
    return {key: ours[key]["median"] / other[key]["median"] for key in both}


def table(figures):
    """A subject as Markdown: median (min to max) for each number and peer."""
    peers = figures["peers"]
    shown = [column for column in COLUMNS if any(column[0] in numbers for numbers in peers.values())]
    lines = ["| | " + " | ".join(label for _, label, _ in shown) + " |", "|---" * (len(shown) + 1) + "|"]
    for name, numbers in peers.items():
        cells = [cell(numbers.get(key), write) for key, _, write in shown]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    found = ratios(figures)
    if found:
        cells = [f"**{found[key]:.2f}**" if key in found else "" for key, *_ in shown]
        lines.append(f"| **{figures['ours']} ÷ {figures['against']}** | " + " | ".join(cells) + " |")
    rounds = "one run" if figures["rounds"] == 1 else f"{figures['rounds']} runs each, in turns"
    notes = [rounds, *figures["notes"]]
    return f"### {figures['title']}\n\n" + "\n".join(lines) + "\n\n" + "; ".join(notes) + ".\n"


def cell(numbers, write):
    if numbers is None:
        return ""
    low, middle, high = (write(numbers[key]) for key in ("min", "median", "max"))
    return middle if low == high else f"{middle} ({low}–{high})"


def tables(results):
    parts = [machine(results["machine"])]
    parts += [table(figures) for figures in results["subjects"].values()]
    return "\n".join(parts)


def machine(facts):
    memory = facts["memory_bytes"] / 2**30
    return (
        f"{facts['cores']} cores ({facts['cpu']}), {memory:.0f} GiB, Linux {facts['kernel']}; {facts['lakehead']}, "
        f"{facts['rustc']}; DuckDB {facts['duckdb']}.\n"
    )


def compare(old, new):
    """Lines that hold new ratios (or, without a peer, throughputs and times) against the stored ones."""
    lines = []
    for name, figures in new["subjects"].items():
        before = old.get("subjects", {}).get(name)
        if before is None:
            lines.append(f"{name}: not in docs/ yet")
            continue
        was, now = ratios(before), ratios(figures)
        kind = "ratio"
        if not now:
            was, now = (medians(f) for f in (before, figures))
            kind = "figure"
        for key in (key for key in now if key in was and was[key]):
            change = now[key] / was[key]
            lines.append(f"{name}: {kind} of {key} {was[key]:.3f} then, {now[key]:.3f} now: {change:.2f} times")
    return lines


def medians(figures):
    return {key: numbers["median"] for key, numbers in figures["peers"][figures["ours"]].items()}


def read(path):
    return json.loads(path.read_text()) if path.exists() else {}


def write(path, results):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")


def draw(folder, results):
    """One chart for each subject that has a throughput, or seconds."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, figures in results["subjects"].items():
        key = "per_s" if figures["count"] and figures["unit"] != "queries" else "wall_s"
        peers = figures["peers"].items()
        bars = [(peer, numbers[key], peer == figures["ours"]) for peer, numbers in peers if key in numbers]
        unit = f"{figures['unit']} per second" if key == "per_s" else "seconds"
        (folder / f"{name}.svg").write_text(charts.bars(figures["title"], unit, bars))
