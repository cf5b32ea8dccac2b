"""Settings of runs that take a second: small pictures and a narrow network, nothing shown or drawn."""

RUN = (
    "data.crop=16",
    "data.batch_size=2",
    "data.num_workers=0",
    "data.val_fraction=0.25",
    "model.backbone=resnet18",
    "model.width=0.02",
    "dynamic.every=2",
    "run.eval_every=2",
    "run.curves=false",
    "run.logger=none",
    "run.device=cpu",
)
