"""Chaos: a tiny study is hit by random faults, run again, and must end as if nothing had happened.

    python -m tests.chaos [--faults 50] [--seed N]      make chaos

Not for what one fault does in detail (the tests of each part). The invariant: everything that is drawn comes from the
seed, and only processes that a round's own command started are killed.
"""
