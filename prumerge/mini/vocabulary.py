"""The mini-LLaVA's words: one token each, lower case, split at spaces and punctuation."""

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from prumerge.mini.glyphs import COLOURS, DIGITS, SHAPES

PAD, START, UNKNOWN, END, IMAGE = SPECIAL = ("<pad>", "<s>", "<unk>", "</s>", "<image>")
_TALK = (
    "user assistant : ? . , a b c d e is there what colour the shape which digit how many".split()
)
_MORE = (
    "objects are where top-left top-right bottom-left bottom-right on sign number yes no at "
    "nothing an it of in"
).split()
_SPARE = (
    "10 11 12 answer question using single word or phrase with option letter directly given "
    "choices from"
).split()
WORDS = (*SPECIAL, *_TALK, *_MORE, *COLOURS, *SHAPES, *DIGITS, *_SPARE)
IDS = {word: index for index, word in enumerate(WORDS)}


def token_ids(text: str) -> list[int]:
    """Return the tokens of a text whose words stand between single spaces.

    Raises:
        KeyError: For a word outside of the vocabulary; the tokenizer would call it unknown.
    """
    return [IDS[word] for word in text.split()]


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Return the tokenizer: a word-level vocabulary, start token in front, padding on the left."""
    if len(IDS) != len(WORDS):
        raise ValueError("a word stands twice in the vocabulary")
    tokenizer = Tokenizer(models.WordLevel(IDS, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase()
    # Hyphened words stay whole, other punctuation stands alone.
    words = Regex(r"[\w-]+|[^\w\s]")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(words, behavior="removed", invert=True)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A", special_tokens=[(START, IDS[START])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=START,
        unk_token=UNKNOWN,
        eos_token=END,
        additional_special_tokens=[IMAGE],
        padding_side="left",
    )
