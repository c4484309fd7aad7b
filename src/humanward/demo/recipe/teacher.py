"""A linear teacher over word and character n-grams, and word vectors from co-occurrence: what small data teaches well.

Both see only the texts of the detector that they are made for.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.sparse
from scipy.sparse.linalg import svds

from humanward.demo.recipe.corpus import Labelled
from humanward.errors import InputError


def teach(rows: Sequence[Labelled], unlabelled: Sequence[str], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(P(toxic) of every row by a model that did not see it, P(toxic) of the unlabelled texts).

    Two folds of logistic regression on TF-IDF of words (1-2) and characters (2-5). InputError without scikit-learn.
    """
    try:
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
    except ImportError:
        raise InputError(
            "scikit-learn is not installed, but the detectors' teacher needs it; pip install 'humanward[recipe]'"
        ) from None
    texts = [row.text for row in rows]
    common = {"min_df": 1 if len(texts) < 1000 else 2, "sublinear_tf": True}
    vectorizers = [
        TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"\w+|[!?]", **common),
        TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), max_features=100_000, **common),
    ]
    features = scipy.sparse.hstack([v.fit_transform(texts) for v in vectorizers]).tocsr()
    others = scipy.sparse.hstack([v.transform(unlabelled) for v in vectorizers]).tocsr() if unlabelled else None
    target = np.array([row.target for row in rows])
    weight = np.array([row.weight for row in rows])
    fold = np.random.default_rng(seed).integers(0, 2, len(rows))
    held_out, of_others = np.zeros(len(rows)), np.zeros(len(unlabelled))
    for k in (0, 1):
        seen, unseen = np.flatnonzero(fold == k), np.flatnonzero(fold != k)
        # a soft target is the same text twice, once a class, weighted by the probability
        model = LogisticRegression(C=2.0, solver="liblinear", max_iter=100).fit(
            scipy.sparse.vstack([features[seen], features[seen]]),
            np.r_[np.ones(len(seen)), np.zeros(len(seen))],
            sample_weight=np.r_[target[seen] * weight[seen], (1 - target[seen]) * weight[seen]] + 1e-9,
        )
        held_out[unseen] = model.predict_proba(features[unseen])[:, 1]
        if others is not None:
            of_others += model.predict_proba(others)[:, 1] / 2
    return held_out, of_others


def word_vectors(
    token_ids: Sequence[Sequence[int]], vocabulary: int, size: int, seed: int, window: int = 6
) -> np.ndarray:
    """(vocabulary, size) unit vectors whose angles follow co-occurrence.

    The truncated SVD of positive pointwise mutual information, counts weighted by 1/distance within ``window`` tokens
    and contexts smoothed by the power 3/4 (Levy, Goldberg and Dagan 2015, sections 3.1 and 3.2). A random rotation
    spreads the leading directions over all coordinates. Tokens that never occur are zero.
    """
    stream = np.concatenate([np.r_[np.asarray(ids, dtype=np.int64), -1] for ids in token_ids])
    counts = scipy.sparse.csr_matrix((vocabulary, vocabulary))
    for distance in range(1, window + 1):
        left, right = stream[:-distance], stream[distance:]
        inside = np.all([stream[k : len(stream) - distance + k] >= 0 for k in range(distance + 1)], axis=0)
        pairs = (left[inside], right[inside])
        weights = np.full(len(pairs[0]), 1 / distance)
        counts = counts + scipy.sparse.coo_matrix((weights, pairs), shape=counts.shape).tocsr()
    table = (counts + counts.T).tocoo()
    total = table.sum()
    of_token = np.asarray(table.sum(axis=1)).ravel()
    of_context = of_token**0.75
    of_context *= total / of_context.sum()
    information = np.log(table.data * total / (of_token[table.row] * of_context[table.col]))
    kept = information > 0
    positive = scipy.sparse.coo_matrix(
        (information[kept], (table.row[kept], table.col[kept])), shape=counts.shape
    ).tocsr()
    rank = min(size, vocabulary - 2)
    left_vectors, values, _ = svds(positive, k=rank, v0=np.random.default_rng(seed).standard_normal(vocabulary))
    vectors = np.zeros((vocabulary, size))
    vectors[:, :rank] = left_vectors * np.sqrt(values)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True) + 1e-3
    rotation = np.linalg.qr(np.random.default_rng(seed).standard_normal((size, size)))[0]
    return vectors @ rotation
