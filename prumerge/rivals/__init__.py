"""Other ways to reduce visual tokens, each from its definition, behind one signature.

================ ===================================================== ========== ==================
name             what it sends                                         tokens     reads
================ ===================================================== ========== ==================
all              every patch                                           all        --
random           patches drawn by a seed                               exact      --
uniform          patches on a lattice                                  exact      grid
down_sampled     means of equal rectangles of the picture              exact      grid
small_picture    the patches of a smaller picture                      at most    picture
enlarged_picture the patches of a smaller picture enlarged again       all        picture
top_k            the best-scored patches                               exact      scores
fastervlm        the same by the head mean of the block before         exact      scores
evit             the best-scored patches and the sum of the others     exact      scores
ats              a sample from the distribution of the scores          at most    scores, values
ats_mean         the same, as many points as the mean number allows    on average scores, values
tome             means of patches with alike keys                      exact      keys
tome_in_encoder  the same, merged block by block on the way            exact      picture, keys
visionzip        class token, best-scored patches, means of the rest   exact      scores, keys
vispruner        best-scored patches and the least alike of the rest   exact      scores, features
divprune         patches as far from each other as can be              exact      features
dpp              patches whose features span the largest volume        exact      features
cdpruner         the same, weighed by the question                     exact      features, question
scope            scored patches that cover what others do not          exact      scores, features
holov            the best-scored patches of each part of the picture   exact      scores, features
hiprune          a middle block's choice with neighbours, a deep one's exact      scores, picture
================ ===================================================== ========== ==================

``exact`` and ``at most`` are meant with a budget. Without one, each picture has the budget that
PruMerge's fence would give it on the method's own scores: the same number of tokens as PruMerge
where the method reads PruMerge's scores, and a number that depends on the picture in any case.

In signatures ``images`` are the pictures of a batch, ``patches`` the visual tokens of one full
picture, row after row without class token, ``picks`` and ``kept`` the tokens of the picture that
sends most; shorter pictures are padded. ``depth`` is that of the averaged keys.

All but ``tome_in_encoder`` run behind the encoder. Those that their authors place inside it (EViT,
ATS, ToMe) are the same rule applied to the features that LLaVA uses: fair to compare, but not the
published model; each module says what is lost. All but VisionZip, whose token order is part of its
definition, send tokens in raster order. Most authors score by the mean attention of the heads in
the block that *made* the features (the second to last); PruMerge reads the block after it.

FastV, PyramidDrop and SparseVLM drop visual tokens *inside* the language model, by the attention
that its own layers pay to them, and so cannot stand behind this signature: the prompt stays as
long, and each layer after a stage reads less. They are in :mod:`prumerge.models.inside`, by masks
per layer, which give the answers of really dropping the tokens but save no time. Their budget is
the mean number of visual tokens over the layers: a count kept after layer K alone would leave out
what the layers before it read, and could not be compared with a budget here.
"""

from prumerge.rivals import (
    ats,
    baselines,
    divprune,
    dpp,
    evit,
    hiprune,
    holov,
    scope,
    small_picture,
    tome,
    visionzip,
    vispruner,
)
