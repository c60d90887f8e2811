"""SVO-Probes as its owners publish it, made up: a CSV and a folder of pictures by id."""

import csv
import hashlib
import io
from collections import Counter

from PIL import Image

from notice_lens.pairs.builders.grammar import SLOTS
from notice_lens.pairs.builders.svo import build_svo
from notice_lens.pairs.near_synonyms import NearSynonyms

HEADER = "sentence,pos_triplet,neg_triplet,pos_url,neg_url,pos_image_id,neg_image_id,subj_neg,verb_neg,obj_neg".split(
    ","
)
NEAR = NearSynonyms.load()
SUBJECTS = "girl boy dog horse teacher soldier elephant snowboarder firefighter".split()
VERBS = "sit run jump sleep read lie squat snorkel paddle".split()
OBJECTS = "beach grass street sofa bridge umbrella snowboard".split()


class Probes:
    """A folder in the layout of the download."""

    def __init__(self, folder):
        self.folder, self.rows = folder, []
        self.csv, self.images = folder / "svo_probes.csv", folder / "images"
        self.images.mkdir(parents=True)

    def image(self, name, colour=None, ending="jpg"):
        colour = colour or hashlib.sha256(str(name).encode()).digest()[:3]
        Image.new("RGB", (16, 16), tuple(colour)).save(self.images / f"{name}.{ending}", lossless=True, quality=95)

    def row(self, positive, negative, slot, ids, sentence="A girl is sitting on the beach.", listed=False, flags=None):
        flags = flags or ["True" if slot == name else "False" for name in SLOTS]
        triplets = [f"['{triplet}']" if listed else triplet for triplet in (positive, negative)]
        self.rows.append([sentence, *triplets, "http://a/1.jpg", "http://b/2.jpg", *map(str, ids), *flags])

    def write(self, header=HEADER, encoding="utf-8"):
        text = io.StringIO(newline="")
        csv.writer(text).writerows([header, *self.rows])
        self.csv.write_bytes(text.getvalue().encode(encoding))

    def build(self, bert, **options):
        self.write()
        return build_svo(self.csv, self.images, bert, progress=False, **options)


def counted(built):
    return Counter(problem.reason for problem in built.problems)
