"""The tables of a model of a few kilobytes, for recipes of trainings that take a moment."""

SMALL_MODEL = {
    "preset": "tiny",
    "unet": {"block_out_channels": [8, 8], "norm_num_groups": 2, "cross_attention_dim": 8},
    "vae": {"block_out_channels": [4, 4], "norm_num_groups": 2},
    "text_encoder": {"vocab_size": 16, "hidden_size": 8, "intermediate_size": 8},
}
