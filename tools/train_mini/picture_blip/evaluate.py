"""Measure a BLIP of the picture world: `PYTHONPATH=tools python -m train_mini.picture_blip.evaluate --model DIR`.

An answer is right where the most likely of all word pieces is the right word, and `[SEP]` the most likely to follow.
`train_mini.measure` tells what is measured.
"""

from functools import partial

from train_mini.blip.evaluate import ask as ask_in
from train_mini.measure import measuring_command
from train_mini.picture_blip.vocabulary import tokens

ask = partial(ask_in, tokens=tokens)

main = measuring_command("BlipForQuestionAnswering", ask, "pictures")

if __name__ == "__main__":
    main()
