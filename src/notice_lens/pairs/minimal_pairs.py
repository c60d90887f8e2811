"""MinimalPairs: a data set of minimal pairs, checked, and with its manifest.

Rows of any origin take one way: `records.store` makes them plain values, `validation.check_meaning` says what is wrong
with them, and what is left becomes a `datasets.Dataset` whose images are decoded on access.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from os import PathLike
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool
from torch import Tensor

from notice_lens.errors import check_choice
from notice_lens.models.bridge import refuse_bridge
from notice_lens.models.layout import HALF, Layout, Span
from notice_lens.models.protocol import image_stream
from notice_lens.pairs import problems as reasons
from notice_lens.pairs.io.assembly import Built, assemble, check_on_error
from notice_lens.pairs.io.readers import one_dataset, read_file, rows_of_dataset, store_all, store_built
from notice_lens.pairs.io.records import PAIR_KINDS, PairKind
from notice_lens.pairs.manifest import Manifest
from notice_lens.pairs.masks import MaskLabel
from notice_lens.pairs.pair_sequence import PairSequence
from notice_lens.pairs.problems import Problem
from notice_lens.pairs.regions import BoxFormat, LostRegions, RegionFormat
from notice_lens.pairs.roles import as_mapping, token_spans
from notice_lens.pairs.tokens import as_reader
from notice_lens.pairs.validation import check_tokens

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset
    from pandas import DataFrame

    from notice_lens.models.protocol import VisionLanguageModel


class MinimalPairs(PairSequence):
    """Minimal pairs: images that differ in one meaning (SMP), questions that differ in the telling words (STR).

    `pairs[3]` is a `MinimalPair`, `pairs["clean_prompt"]` a column, `pairs[:10]` pairs again. Columns of a row:

    - `id, task, clean_image, corrupt_image, clean_prompt, correct_answer, incorrect_answer` are obligatory.
    - `kind` is `vqa` (the default), `caption` or `match`; `group` says what changes.
    - `corrupt_prompt` is the question with its telling words replaced, with as many tokens; `corrupt_answer` the answer
      to it on the clean image, where known.
    - `donor_image, donor_prompt`: a mismatched donor, to which neither option is the answer.
    - `roles`: by name, a string that occurs in the clean prompt exactly once, or a span of characters.
    - `clean_regions, corrupt_regions`: by name, a mask, an image file of one, COCO run lengths, polygons or a box.
    - Any other column is kept.

    Images are what `HookedBLIP.prepare` takes: PIL images, paths, bytes, arrays.

    Attributes:
        dataset: The `datasets.Dataset` underneath; its images are not decoded.
        manifest: Where the pairs come from and what became of the rest.
        dropped: The dropped rows: the same columns, and `reason` and `detail`.
    """

    # Where they come from

    @classmethod
    def from_rows(
        cls,
        rows: Iterable[Any],
        *,
        on_error: str = "raise",
        manifest: Manifest | None = None,
        before: Sequence[Problem] = (),
        progress: bool = True,
        label: MaskLabel | None = None,
        box_format: BoxFormat | None = None,
    ) -> "MinimalPairs":
        """Return pairs from mappings by column, or from a DataFrame.

        Args:
            rows: One mapping a pair, or a DataFrame.
            on_error: `raise`, or `drop` invalid rows; they are counted and kept in `dropped`.
            manifest: Where they come from.
            before: Why other candidates became no rows; they are counted with those that are dropped here.
            progress: Whether to show a progress bar while images are read.
            label: The value, or values, of the object in masks that hold indices; void is never taken for it.
            box_format: The meaning of the four numbers of boxes: `xywh`, `xyxy` or `cxcywh` in pixels, or the same
                with an n (`xyxyn`) as shares of the picture. None takes `xywh` where they cannot be anything else.

        Raises:
            PairsError: Rows have problems; all are in the message. A ValueError.
        """
        check_on_error(on_error)
        manifest = manifest or Manifest("from_rows", "rows in memory")
        region_format = RegionFormat(label, box_format)
        manifest = replace(manifest, options={**manifest.options, **region_format.options()})
        return cls(*assemble(store_all(rows, progress, region_format), manifest, on_error, before))

    @classmethod
    def from_built(cls, built: Built) -> "MinimalPairs":
        """Return pairs from a builder's rows; the builder has read the images, so they are not read again."""
        manifest = Manifest(built.builder, built.source, built.checksum, built.seed, options=built.options)
        return cls(*assemble(store_built(built), manifest, "drop", built.problems))

    @classmethod
    def from_csv(
        cls,
        path: str | PathLike[str],
        *,
        images: str | PathLike[str] | None = None,
        columns: Mapping[str, str] | None = None,
        task: str | None = None,
        kind: PairKind | None = None,
        confine: bool = False,
        on_error: str = "raise",
        progress: bool = True,
        label: MaskLabel | None = None,
        box_format: BoxFormat | None = None,
    ) -> "MinimalPairs":
        """Return pairs from a CSV file; `roles` and regions are JSON in their cells.

        Cells stand between commas, semicolons, tabs or bars; text is UTF-8 or UTF-16. A cell that is empty, or `NA`
        without quotes, is missing.

        Args:
            path: The file.
            images: The folder that paths of images start from and stay in; None for the file's own.
            columns: The file's names of our columns, such as `{"clean_image": "img_pos"}`.
            task: The task of rows that do not name one.
            kind: The kind of rows that do not name one.
            confine: Whether links that lead out of the folder of images are refused as well.
            on_error: As `from_rows`.
            progress: As `from_rows`.
            label: As `from_rows`.
            box_format: As `from_rows`.

        Raises:
            ValueError: The file is empty, in another encoding, or lacks columns; the message says where or which.
            PairsError: As `from_rows`.
        """
        from notice_lens.pairs.io.tables import read_csv

        rows, manifest = read_file("from_csv", read_csv, path, images, columns, _given(task, kind), confine)
        return cls.from_rows(
            rows, on_error=on_error, manifest=manifest, progress=progress, label=label, box_format=box_format
        )

    @classmethod
    def from_jsonl(
        cls,
        path: str | PathLike[str],
        *,
        images: str | PathLike[str] | None = None,
        columns: Mapping[str, str] | None = None,
        task: str | None = None,
        kind: PairKind | None = None,
        confine: bool = False,
        on_error: str = "raise",
        progress: bool = True,
        label: MaskLabel | None = None,
        box_format: BoxFormat | None = None,
    ) -> "MinimalPairs":
        """Return pairs from a file with a JSON object a line, or an array of them; arguments as of `from_csv`."""
        from notice_lens.pairs.io.tables import read_jsonl

        rows, manifest = read_file("from_jsonl", read_jsonl, path, images, columns, _given(task, kind), confine)
        return cls.from_rows(
            rows, on_error=on_error, manifest=manifest, progress=progress, label=label, box_format=box_format
        )

    @classmethod
    def from_dataset(
        cls,
        dataset: "Dataset | IterableDataset | Mapping[str, Any]",
        *,
        columns: Mapping[str, str] | None = None,
        task: str | None = None,
        kind: PairKind | None = None,
        on_error: str = "raise",
        progress: bool = True,
        label: MaskLabel | None = None,
        box_format: BoxFormat | None = None,
    ) -> "MinimalPairs":
        """Return pairs from a `datasets.Dataset`, a stream that ends, or a `DatasetDict` of one split.

        Class labels are read by their names.

        Args:
            dataset: With our columns, or others that `columns` names; formatted in any way.
            columns: The data set's names of our columns, such as `{"clean_image": "img_pos"}`.
            task: As `from_csv`.
            kind: As `from_csv`.
            on_error: As `from_rows`.
            progress: As `from_rows`.
            label: As `from_rows`.
            box_format: As `from_rows`.

        Raises:
            TypeError: It is not a data set, or it has several splits.
            ValueError: Columns are missing, or rows are changed by a transform as they are read.
            PairsError: As `from_rows`.
        """
        dataset = one_dataset(dataset)
        rows = rows_of_dataset(dataset, columns or {}, _given(task, kind))
        source = f"a data set of {len(rows)} rows"
        manifest = Manifest("from_dataset", source, str(getattr(dataset, "_fingerprint", "")))
        return cls.from_rows(
            rows, on_error=on_error, manifest=manifest, progress=progress, label=label, box_format=box_format
        )

    # To a model

    def validate(self, model: Any, *, on_error: str = "raise") -> "MinimalPairs":
        """Return the pairs that hold for this model's tokenizer.

        Checked are: prompts of equal token length, answers that have tokens and differ in the first one, words that the
        tokenizer knows, roles that begin and end with tokens; and with a model that it is of the pairs' kind, has
        positions for all tokens, and as many of them for both pictures of a pair.

        Args:
            model: A model, a tokenizer, or a hub id or folder.
            on_error: `raise`, or `drop` the pairs that do not hold.

        Raises:
            PairsError: Pairs do not hold; all problems are in the message.
        """
        check_on_error(on_error)
        refuse_bridge(model)
        found = []
        kinds = getattr(getattr(model, "cfg", None), "pair_kinds", ())
        records = self.records()
        for record in records if kinds else ():
            if record["kind"] not in kinds:
                read = " or ".join(map(repr, kinds))
                found.append(
                    Problem(record["id"], reasons.KIND, f"the pair is of kind {record['kind']!r}, the model {read}")
                )
        found += check_tokens(records, model, self.image_sizes(model))
        found += self._check_image_sizes(model)
        if not found:
            return self
        if on_error == "raise":
            raise reasons.PairsError(found, len(self), "\non_error='drop' keeps the others")
        return self.without(found, "validate")

    def _check_image_sizes(self, model: Any) -> list[Problem]:
        """Return the pairs whose pictures have unequal numbers of image positions, so that these do not correspond."""
        sizes = self.image_sizes(model)
        if sizes is None:
            return []
        found, own = [], self.layout(model)
        for which in ("corrupt", "donor"):
            others = self.image_sizes(model, which)
            if others is None or others == sizes:
                continue
            there = model.layout_of(self["clean_prompt"], sizes=others)
            stack = there.prompt_stack
            for number, name in enumerate(self["id"]):
                n, m = (len(one.positions(stack, number, "image")) for one in (own, there))
                if n != m:
                    (height, width), (other_height, other_width) = sizes[number], others[number]
                    detail = (
                        f"clean_image of {width} x {height} pixels has {n} image positions, {which}_image of "
                        f"{other_width} x {other_height} has {m}: resize them to one size"
                    )
                    found.append(Problem(name, reasons.IMAGE_POSITIONS, detail))
        return found

    def layout(self, model: "VisionLanguageModel", image: str = "clean") -> Layout:
        """Return the layout of a run over all pairs, without running it; corrupted prompts have the same lengths.

        Args:
            model: The model.
            image: `clean`, `corrupt` or `donor`.
        """
        check_choice("image", image, ("clean", "corrupt", "donor"))
        return model.layout_of(self["clean_prompt"], sizes=self.image_sizes(model, image))

    def image_sizes(self, model: Any, image: str = "clean") -> list[tuple[int, int]] | None:
        """Height and width of each image in pixels, where the model's layouts depend on it; else None.

        Args:
            model: The model.
            image: `clean`, `corrupt` or `donor`; a pair without one has its clean image there.
        """
        if not getattr(getattr(model, "cfg", None), "image_sizes_matter", False):
            return None
        pictures = (getattr(pair, f"{image}_image") or pair.clean_image for pair in self)
        return [(picture.height, picture.width) for picture in pictures]

    def token_spans(self, model: Any) -> list[dict[str, Span]]:
        """Return for each pair the positions of each role: first token and the one after the last.

        The corrupted prompt is as many tokens long and differs slot by slot, so spans hold for both. What every prompt
        of the model has is a role too: `[CLS]` (token 0), `[SEP]` and `?` in BLIP.

        Args:
            model: A model, a tokenizer, or a hub id or folder.

        Raises:
            ValueError: A role does not begin and end with tokens.
        """
        roles = [as_mapping(stored) for stored in self["roles"]]
        if hasattr(model, "layout_of"):
            layout = self.layout(model)
            return [token_spans(layout, number, own) for number, own in enumerate(roles)]
        # A tokenizer alone reads each pair as its kind wants it.
        readers = {kind: as_reader(model, kind) for kind in set(self["kind"])}
        columns = zip(self["clean_prompt"], self["kind"], roles, strict=True)
        return [token_spans(readers[kind].layout_of([prompt]), 0, own) for prompt, kind, own in columns]

    def patch_masks(
        self, model: "VisionLanguageModel", of: str = "clean", stack: str | None = None
    ) -> list[dict[str, Bool[Tensor, " pos"]]]:
        """Return for each pair which image positions belong to each region: those that it covers by half or more.

        Args:
            model: Its image grid counts.
            of: Which image's regions.
            stack: Whose positions; None takes those that the prompt's words look at.

        Returns:
            Masks [pos] over all positions of the stack, by region; positions that are not image patches, such as a
            class token at 0, belong to none. Where a region covers half of no position its mask is empty, and a warning
            names pair and region.
        """
        masks, lost = self.covered_positions(model, of, stack)
        lost.warn(stacklevel=3)
        return masks

    def covered_positions(
        self, model: "VisionLanguageModel", of: str = "clean", stack: str | None = None
    ) -> tuple[list[dict[str, Bool[Tensor, " pos"]]], LostRegions]:
        """Return what `patch_masks` does, and the regions that have no position in place of a warning."""
        check_choice("of", of, ("clean", "corrupt"))
        layout, stack = self.layout(model, of), stack or image_stream(model.cfg)
        masks, lost = [], []
        for number, pair in enumerate(self):
            own = {}
            for region, pixels in getattr(pair, f"{of}_regions").items():
                covered = layout.covered(stack, number, pixels)
                own[region] = torch.from_numpy(covered >= HALF)
                if pixels.any() and not (covered >= HALF).any():
                    lost.append((pair.id, region, float(covered.max())))
            masks.append(own)
        grids = [segment.grid for segment in layout.image_segments(stack, 0) if segment.grid] if lost else []
        return masks, LostRegions(lost, grids)

    def prepare(
        self, model: "VisionLanguageModel", image: str = "clean", prompt: str = "clean", answer: str | None = None
    ) -> Any:
        """The inputs of one run over all pairs.

        Args:
            model: The model.
            image: `clean`, `corrupt` or `donor`.
            prompt: `clean`, `corrupt` or `donor`.
            answer: The answer that the decoder reads: `correct`, `incorrect` or `corrupt`; None leaves it to the model.

        Raises:
            ValueError: A pair has no such image, prompt or answer.
        """
        refuse_bridge(model)
        columns = {"image": image, "prompt": prompt, "answer": answer}
        check_choice("image", image, ("clean", "corrupt", "donor"))
        check_choice("prompt", prompt, ("clean", "corrupt", "donor"))
        check_choice("answer", answer, ("correct", "incorrect", "corrupt", None))
        read = {}
        for what, which in columns.items():
            if which is None:
                continue
            read[what] = [getattr(pair, f"{which}_{what}") for pair in self]
            lacking = [name for name, value in zip(self["id"], read[what], strict=True) if value is None]
            if lacking:
                raise ValueError(f"{len(lacking)} of {len(self)} pairs have no {which}_{what}, such as {lacking[0]!r}")
        # Pairs may differ in their numbers of image positions; the pictures of one pair may not, see `validate`.
        unequal = {"allow_unequal": True} if getattr(model.cfg, "image_sizes_matter", False) else {}
        return model.prepare(read["image"], read["prompt"], read.get("answer"), **unequal)

    def minimality(self, model: "VisionLanguageModel", *, batch_size: int = 16, progress: bool = True) -> "DataFrame":
        """Return the distance of each pair's images in a model, and of random pairs; see `distance.minimality`."""
        from notice_lens.pairs.distance import minimality

        return minimality(model, self, batch_size, progress)


def _given(task: str | None, kind: str | None) -> dict[str, str]:
    """Return the values that hold for all rows. Raises ValueError if the kind is invalid."""
    check_choice("kind", kind, (*PAIR_KINDS, None))
    return {column: value for column, value in {"task": task, "kind": kind}.items() if value is not None}
