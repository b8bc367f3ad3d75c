"""A base model as training, generation and probes share it.

    weights.py     where it is: its pinned location, its fingerprint, its folder on this machine
    facts.py       what its configuration says: context, packability, shape
    rendering.py   how its chat template is used, and which part of that keys hash
    chat.py        chat messages -> token ids and the trained span, and back: the one renderer
    probe.py       what its chat template does with a study's chats, tried when planning
    rows.py        chat examples as rows of token ids, cut to a length
    packing.py     which rows share a pass                     micro_batch.py  rows as one pass, and its logits
    attention.py   attention over packed rows                  loaded.py       its weights here, one adapter on them
    residual.py    its residual stream, read and pushed        direction_files.py  directions in it, in the store

Not for training or sampling. The invariant: whoever renders a chat renders it here, so that what is trained on and what
is asked are the same tokens. Importing this package imports neither transformers nor torch.
"""
