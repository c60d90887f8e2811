"""Pairs of the task `faces`: the emotion of one face changes."""

from notice_lens.mini import faces
from notice_lens.mini.pair import Pair, without_answer
from notice_lens.mini.stream import RandomStream
from notice_lens.mini.things import background


def make_pair(stream: RandomStream, group: str, swap: bool) -> Pair:
    """Return a pair (the only group is `emotion`); `swap` puts the right answer second in the question."""
    correct, incorrect, third, fourth, fifth, sixth = stream.sample(faces.EMOTIONS, 6)
    behind, person = background(stream), faces.face(stream)
    clean, corrupt, donor = (person.feeling(word).picture(behind) for word in (correct, incorrect, third))
    parts = {
        "object": faces.FACE_PARTS,
        **{name: (name,) for name in faces.FACE_PARTS},
        "distractor": ("distractor",),
        "background": ("background",),
    }
    return Pair(
        task="faces",
        group=group,
        clean=clean,
        corrupt=corrupt,
        donor=donor,
        question=faces.ask(correct, incorrect, swap),
        incorrect=incorrect,
        corrupt_question=without_answer(faces.ask(fifth, sixth, swap)),
        donor_question=faces.ask(third, fourth, swap),
        clean_parts=parts,
    )
