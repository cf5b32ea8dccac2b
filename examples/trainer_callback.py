"""A sparse BERT in Hugging Face's Trainer (pip install transformers accelerate)."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from transformers import BertConfig, BertForQuestionAnswering, Trainer, TrainingArguments

import prune_utils as pu
from prune_utils.integrations.transformers import SparsityCallback

generator = torch.Generator().manual_seed(0)
rows = []
for _ in range(64):  # the answer is where 1 stands, and one further
    start = int(torch.randint(2, 14, (), generator=generator))
    words = torch.randint(5, 100, (16,), generator=generator)
    words[start] = 1
    rows.append({"input_ids": words, "start_positions": start, "end_positions": start + 1})
batches = [torch.utils.data.default_collate(rows[:8])]

sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
model = BertForQuestionAnswering(BertConfig(vocab_size=100, **sizes))
error = torch.nn.functional.cross_entropy
losses = {
    "start": lambda out, batch: error(out.start_logits, batch["start_positions"]),
    "end": lambda out, batch: error(out.end_logits, batch["end_positions"]),
}
sparsity = pu.sparsify(model, losses, batches, ratio=80, forward=lambda model, batch: model(**batch))

arguments = TrainingArguments("outputs/trainer", max_steps=20, save_steps=10, report_to=[], use_cpu=True)
Trainer(model, arguments, train_dataset=rows, callbacks=[SparsityCallback(sparsity)]).train()
print(pu.format_certificate(sparsity.certificate))
print(sparsity.verify())
