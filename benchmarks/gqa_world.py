"""The picture world as a folder of GQA, for the preset `cross-modal-flow` on the bundled LLaVA.

python benchmarks/gqa_world.py gqa-world                     # 60 questions "is the apple yellow or green?"
notice-lens replicate cross-modal-flow --data gqa-world --model mini-llava --out flow-world

A folder with the layout of the tables that the authors of arXiv 2411.18620 publish: pictures by id, and a table with
questions, options and the box of the thing that is asked about.
"""

import csv
from pathlib import Path
from typing import Any

import click
import numpy as np

from notice_lens.pairs import mini_world


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--questions", "n", default=60, show_default=True)
@click.option("--seed", default=0, show_default=True, help="Of the pictures.")
def main(folder: Path, n: int, seed: int) -> None:
    """Write pictures and the table."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for number, pair in enumerate(mini_world("states", n=n, seed=seed, world="pictures")):
        pair.clean_image.save(folder / "images" / f"{number}.jpg", quality=95)
        y, x = np.nonzero(pair.clean_regions["object"])
        box = {"x": x.min(), "y": y.min(), "w": np.ptp(x) + 1, "h": np.ptp(y) + 1}
        rows.append({
            "question_id": number, "img_id": number, "question": pair.clean_prompt, "answer": pair.correct_answer,
            "false option": pair.incorrect_answer, "type_detailed": "chooseAttr",
            **{f"central object {side}": int(at) for side, at in box.items()},
        })  # fmt: skip
    with open(folder / "world_ChooseAttr.csv", "w", newline="", encoding="utf-8") as opened:
        writer = csv.DictWriter(opened, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    print(f"{len(rows)} questions in {folder}")


if __name__ == "__main__":
    main()
