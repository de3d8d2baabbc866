from dataclasses import dataclass

from ldmref.families import TextConfig, TextEncoder, load_tokenizer


@dataclass(frozen=True)
class TableConfig(TextConfig):
    model_type: str = "table"
    scale: float = 2.0


def table(ops, p, config, ids, skip=0):  # (n, l) int64 -> (n, l, hidden_size)
    return config.scale * ops.embedding(p.table.weight, ids)


TABLE = TextEncoder(
    name="table",
    title="Table",
    config=TableConfig,
    spec=lambda config: {"table": {"weight": (config.vocab_size, config.hidden_size)}},
    function=table,
    tokenizer=lambda config, source, pad: load_tokenizer(source, config.max_position_embeddings),
)
