"""How few heads of a bundled model carry its answers: restoration curves, minimal circuits, their graphs, shared heads.

python benchmarks/restoration.py                    # the BLIP, those of 60 pairs that it answers, some minutes
python benchmarks/restoration.py --model llava      # the LLaVA, a quarter of an hour
python benchmarks/restoration.py --model drawn      # the BLIP of drawn shapes
python benchmarks/restoration.py --pairs 200
"""

from typing import Any

import click
import numpy as np

from notice_lens import HookedBLIP, HookedVLM, circuits
from notice_lens.pairs import behaviour_filter, mini_world
from notice_lens.viz.circuit_figures import headline

TASKS = ("states", "scenes", "faces")


def with_ends(result, name, **where) -> str:
    """Return a share with its interval, in percent."""
    mean, low, high = (100 * float(result[name + end].sel(**where)) for end in ("", "_low", "_high"))
    return f"{mean:.0f} [{low:.0f}, {high:.0f}]"


def short(name: str) -> str:
    """Return the name of a head without its module."""
    return ".".join(name.split(".")[2:]) if name.count(".") > 2 else name


def clear_edges(graph, least: float = 0.02) -> str:
    """Return the largest edges whose interval does not hold 0."""
    clear = (np.abs(graph.effect) >= least) & ((graph.effect_low > 0) | (graph.effect_high < 0))
    edges = graph.isel(edge=np.flatnonzero(clear.values))
    edges = edges.isel(edge=np.argsort(-np.abs(edges.effect.values))[:12])
    said = []
    for number in range(edges.sizes["edge"]):
        one = edges.isel(edge=number)
        via = f" ({one.via.item()})" if one.via.item() else ""
        ends = f"{short(str(one.source.item()))} → {short(str(one.target.item()))}{via}"
        said.append(f"{ends} {with_ends(one, 'effect')}")
    return "; ".join(said)


@click.command()
@click.option("--model", "which", type=click.Choice(["blip", "llava", "drawn"]), default="blip", show_default=True)
@click.option("--pairs", "n", default=60, show_default=True, help="Pairs of each task; half of them choose.")
@click.option("--seed", default=0, show_default=True, help="Of pairs, halves, random sets and resamples.")
def main(which: str, n: int, seed: int) -> None:
    """Print what the best heads of each task carry together."""
    world = "drawn" if which == "drawn" else "pictures"
    model: Any = HookedVLM.mini() if which == "llava" else HookedBLIP.mini(world)
    found, graphs = {}, {}
    print("| task | heads | restored, % | lost, % | answers turned, % | random heads, % | from a mismatched donor, % |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    told = []
    for task in TASKS:
        pairs = mini_world(task, n=n, seed=seed, world=world)
        if which != "drawn":
            pairs = behaviour_filter(model, pairs, progress=False)
        curve = circuits.restoration_curve(model, pairs, seed=seed)
        told.append(f"{task}: {headline(curve)}")
        for size in (1, 2, 4, 8, 12):
            at = {"direction": "denoise", "size": size}
            chance = curve.sel(**at)
            print(
                f"| `{task}` | {size} | {with_ends(curve, 'share', **at)} "
                f"| {with_ends(curve, 'share', **{**at, 'direction': 'noise'})} | {with_ends(curve, 'turned', **at)} "
                f"| {100 * float(chance['random']):.0f} (p = {float(chance['random_p']):.3f}) "
                f"| {with_ends(curve, 'mismatched', size=size)} |",
                flush=True,
            )
        found[task] = circuits.minimal_circuit(model, pairs, seed=seed)
        graphs[task] = circuits.circuit_graph(model, pairs, found[task], seed=seed)
    print(*told, sep="\n")
    print("\n| task | circuit | faithfulness, % | completeness, % | random, % | stable in 19 of 20 resamples |")
    print("| --- | --- | --- | --- | --- | --- |")
    for task, circuit in found.items():
        names = [short(name) for name in circuit.attrs["circuit"]]
        stable = int((circuit.stability.where(circuit.in_circuit, 0) >= 0.95).sum())
        print(
            f"| `{task}` | {len(names)}: {', '.join(names)} | {with_ends(circuit, 'faithfulness')} "
            f"| {with_ends(circuit, 'completeness')} | {100 * float(circuit.random_faithfulness.mean()):.0f} "
            f"| {stable} |"
        )
    print("\n| task | edges of 2 % and more, % |\n| --- | --- |")
    for task, graph in graphs.items():
        print(f"| `{task}` | {clear_edges(graph)} |")
    shared = circuits.shared_nodes(found, seed=seed)
    print("\n| tasks | Jaccard | expected | p |")
    print("| --- | --- | --- | --- |")
    for one, other in (("states", "scenes"), ("states", "faces"), ("scenes", "faces")):
        at = shared.sel(one=one, other=other)
        expected, p = float(at.jaccard_expected), float(at.jaccard_p)
        print(f"| `{one}`, `{other}` | {float(at.jaccard):.2f} | {expected:.2f} | {p:.3f} |")
    expected, p = float(shared.in_all_expected), float(shared.in_all_p)
    print(f"in all three: {int(shared.in_all)}, expected {expected:.2f}, p {p:.3f}")


if __name__ == "__main__":
    main()
