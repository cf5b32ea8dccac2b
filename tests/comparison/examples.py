"""Result files as evaluation writes them, with figures of our choice."""

import json

from common.names import ratio_text

DIRECTIONS = {
    "seg": {
        "mIoU": {"unit": "%", "larger_is_better": True},
        "err": {"unit": "", "larger_is_better": False},
    },
    "edge": {"err": {"unit": "", "larger_is_better": False}},
}


def write(folder, method, seed, figures, **fields):
    """{name}.json in folder/seed{seed}; figures: (mIoU, seg err, edge err), mIoU is 1 higher in `paper`.

    fields: ratio, variant, constant = (mIoU, edge err) in both protocols, and any field of the file.
    """
    ratio = fields.pop("ratio", 90)
    variant = fields.pop("variant", "")
    dataset = fields.setdefault("dataset", "nyuv2")
    dense = method == "baseline"
    name = f"{dataset}_{method}{variant}" + ("" if dense else f"_{ratio_text(ratio)}")
    miou, seg, edge = figures
    constant = fields.pop("constant", None)

    def both(metric, paper=None):
        return {"metric": metric, "paper": paper or metric}

    content = {
        "name": name,
        "method": method,
        "protocol": "metric",
        "split": "test",
        "seed": seed,
        "metrics": {
            "seg": both({"mIoU": miou, "err": seg}, {"mIoU": miou + 1, "err": seg}),
            "edge": both({"err": edge}),
        },
        "directions": DIRECTIONS,
        "certificate": None if dense else {"density": 1 - ratio / 100},
        "config": {
            "prune": {"ratio": ratio, "shuffle": bool(variant)},
            "optim": {"iterations": fields.pop("iterations", 100)},
            "run": {"seed": seed, "device": "cpu"},
        },
    } | fields
    if constant:
        content["constant"] = {"seg": both({"mIoU": constant[0]}), "edge": both({"err": constant[1]})}
    path = folder / f"seed{seed}" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path
