"""The training state on disk, independent of strategy and world size.

    checkpoints/step-000123/
        tensors-00000-of-00002.safetensors   `param/NAME`, `exp_avg/NAME`, `exp_avg_sq/NAME`, fp32, and
                                             `buffer/NAME`; each tensor in one file only
        state.json                           step, batch position, loss scale, early stopping
        manifest.json                        size and sha256 of every other file, the model's fingerprint

A folder of that name is complete: it is written under another name, and renamed once its manifest
exists. Dropout and shuffling are functions of (seed, step, rank), so that no generator state is kept.
"""
