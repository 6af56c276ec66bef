"""Makes the benchmark's model and data: MiniLM-L6 fully fine-tuned on Rotten Tomatoes.

    python benchmarks/train_minilm.py OUT        (about ten minutes on one core)

Writes OUT/model (a `save_pretrained` folder), OUT/search.csv (1,746 snippets that guide the
search) and OUT/held_out.csv (1,900 snippets of other films), and prints the accuracy on both.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from headsearch.demo import fetch, reviews, train


def accuracy(model: torch.nn.Module, tokenizer: object, rows: object) -> float:
    """Share of rows whose argmax is right, by the plain forward."""
    correct = 0
    texts, labels = list(rows["text"]), [reviews.LABELS.index(n) for n in rows["label"]]
    for start in range(0, len(texts), 64):
        inputs = tokenizer(
            texts[start : start + 64],
            truncation=True,
            max_length=reviews.MAX_TOKENS,
            padding=True,
            return_tensors="pt",
        )
        with torch.inference_mode():
            logits = model(**inputs).logits
        correct += int((logits.argmax(-1) == torch.tensor(labels[start : start + 64])).sum())
    return correct / len(texts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    args.out.mkdir(parents=True)
    torch.set_num_threads(args.threads)
    cache = fetch.cache_folder()
    splits = reviews.load(fetch.fetch(fetch.REVIEWS, cache))
    model, tokenizer = train.train(
        fetch.fetch(fetch.MINILM, cache), splits.train, train.FULL, lambda s: print(s, flush=True)
    )
    model.save_pretrained(args.out / "model")
    tokenizer.save_pretrained(args.out / "model")
    for name in ("search", "held_out"):
        rows = getattr(splits, name)
        rows[["text", "label"]].to_csv(args.out / f"{name}.csv", index=False)
        print(f"{name}: {len(rows)} snippets, accuracy {accuracy(model, tokenizer, rows):.4f}")


if __name__ == "__main__":
    main()
