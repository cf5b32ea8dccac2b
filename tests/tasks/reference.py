"""The same metrics written plainly in float64 numpy, from full-size predictions and all pixels at once."""

from __future__ import annotations

import numpy as np
from torch.nn import functional

PROTOCOLS = ("paper", "metric")


def flat(prediction, target):
    """Resizes by nearest: prediction [M, C] and target [M, K] of all pixels, valid [M], float64."""
    value, valid = target
    large = functional.interpolate(prediction.double(), size=value.shape[-2:])
    columns = [tensor.movedim(1, -1).flatten(0, 2).numpy() for tensor in (large, value, valid)]
    return columns[0], columns[1].astype(np.float64), columns[2][:, 0]


def averages(batches, per_pixel):
    """per_pixel(prediction, target) -> (values, weights) of the pixels that count; both protocols' means."""
    means, sizes, values, weights = [], [], [], []
    for prediction, target in batches:
        value, weight = per_pixel(prediction, target)
        if weight.sum() > 0:
            means.append(np.average(value, weights=weight))
            sizes.append(len(prediction))
            values.append(value)
            weights.append(weight)
    return {
        "paper": np.average(means, weights=sizes),
        "metric": np.average(np.concatenate(values), weights=np.concatenate(weights)),
    }


def segmentation(batches, classes, ignored_is_error=False, class_weights=None):
    class_weights = np.ones(classes) if class_weights is None else np.asarray(class_weights, np.float64)

    def hit(prediction, target, keep_ignored=False):
        logits, label, valid = flat(prediction, target)
        right = (logits.argmax(1) == label[:, 0]) & valid
        counted = np.full_like(valid, valid.any()) if keep_ignored else valid
        return right[counted].astype(float), np.ones(counted.sum())

    def surprise(prediction, target):
        logits, label, valid = flat(prediction, target)
        logits, label = logits[valid], label[valid][:, 0].astype(int)
        log_sum = np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1)) + logits.max(1)
        return log_sum - logits[np.arange(len(label)), label], class_weights[label]

    pairs = []
    for prediction, target in batches:
        logits, label, valid = flat(prediction, target)
        pairs.append(np.stack([label[valid, 0].astype(int), logits[valid].argmax(1)]))
    label, guess = np.concatenate(pairs, 1)
    overlaps = {"paper": [], "metric": []}
    for each in range(classes):
        both, either = ((label == each) & (guess == each)).sum(), ((label == each) | (guess == each)).sum()
        if both:
            overlaps["paper"].append(both / either)
        if either:
            overlaps["metric"].append(both / either)
    accuracy, cross_entropy = averages(batches, hit), averages(batches, surprise)
    if ignored_is_error:
        accuracy["paper"] = averages(batches, lambda *pair: hit(*pair, keep_ignored=True))["paper"]
    return {
        protocol: {
            "mIoU": 100 * np.mean(overlaps[protocol]),
            "pixel_acc": 100 * accuracy[protocol],
            "err": cross_entropy[protocol],
        }
        for protocol in PROTOCOLS
    }


def normals(batches):
    angles = []
    for prediction, target in batches:
        guess, truth, valid = flat(prediction, target)
        guess, truth = guess[valid], truth[valid]
        cosine = (guess * truth).sum(1) / np.linalg.norm(guess, axis=1) / np.linalg.norm(truth, axis=1)
        angles.append(np.degrees(np.arccos(np.clip(cosine, -1, 1))))
    angles = np.concatenate(angles)
    scores = {"mean": angles.mean(), "median": np.median(angles)}
    scores.update({f"{limit:g}": 100 * (angles <= limit).mean() for limit in (11.25, 22.5, 30, 45)})
    return {protocol: scores for protocol in PROTOCOLS}


def depth(batches):
    def error(prediction, target):
        guess, truth, valid = flat(prediction, target)
        return np.abs(guess - truth)[valid, 0], np.ones(valid.sum())

    def relative(prediction, target):
        guess, truth, valid = flat(prediction, target)
        valid = valid & (truth[:, 0] > 0)
        return (np.abs(guess - truth)[valid] / truth[valid])[:, 0], np.ones(valid.sum())

    absolute, relative = averages(batches, error), averages(batches, relative)
    scores = {}
    for protocol in PROTOCOLS:
        ratios = []
        for prediction, target in batches:
            guess, truth, valid = flat(prediction, target)
            guess, truth = guess[valid], truth[valid]
            if protocol == "metric":
                guess, truth = np.maximum(guess, 1e-6)[truth > 0], truth[truth > 0]
            ratios.append(np.maximum(guess / truth, truth / guess).ravel())
        ratios = np.concatenate(ratios)
        scores[protocol] = {"abs": absolute[protocol], "rel": relative[protocol]}
        for name, limit in (("d1.25", 1.25), ("d1.25^2", 1.25**2), ("d1.25^3", 1.25**3)):
            scores[protocol][name] = 100 * (ratios <= limit).mean()
    return scores


def regression(batches):
    def error(prediction, target):
        guess, truth, valid = flat(prediction, target)
        return np.abs(guess - truth)[valid, 0], np.ones(valid.sum())

    scores = averages(batches, error)
    return {protocol: {"err": scores[protocol]} for protocol in PROTOCOLS}
