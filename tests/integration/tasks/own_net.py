"""A model of a user's own, as it lies in a folder of plugins."""

from __future__ import annotations

import torch


class Net(torch.nn.Module):
    """The mean of the tokens, through two layers."""

    def __init__(self, vocab_size: int, num_labels: int, width: int = 8, dropout: float = 0.0) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(vocab_size, width)
        self.layers = torch.nn.ModuleList(torch.nn.Linear(width, width) for _ in range(2))
        self.dropout = torch.nn.Dropout(dropout)
        self.head = torch.nn.Linear(width, num_labels)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        mask = attention_mask.unsqueeze(-1)
        hidden = (self.embedding(input_ids) * mask).sum(1) / mask.sum(1)
        for layer in self.layers:
            hidden = hidden + self.dropout(torch.tanh(layer(hidden)))
        logits: torch.Tensor = self.head(hidden)
        return logits


class Odd(Net):
    """Returns what no engine can look into."""

    def forward(self, *args: torch.Tensor, **inputs: torch.Tensor) -> torch.Tensor:
        return {super().forward(*args, **inputs)}  # type: ignore[return-value]
