"""The (model, task) pairs of the quality benchmark: real models, real labelled data.

    python -m benchmarks.pairs PAIR OUT        (what each takes is said in its module)

makes `OUT/PAIR/`:

    model/      a `save_pretrained` folder (safetensors, tokenizer)
    pool.csv    columns `text`, `label` and, where rows belong together, `group`: everything that
                was not trained on
    test.csv    the same columns, for pairs whose test split is fixed; no row of it is in the pool
    pair.json   metric and plain metric, longest input, sizes, sources with their licences, recipe

`splits(folder, seed)` then draws what guides a search, what certifies its outcome, and the test.
"""

from benchmarks.pairs.splits import splits

__all__ = ["splits"]
