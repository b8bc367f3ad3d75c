"""Small, cited statistics for seed sweeps: numbers in, NamedTuples out.

For: every interval, test, rank and power figure that a summary shows. Not for: reading files, choosing what to
test, or wording. Invariant: the functions are pure; randomness comes in as a `numpy.random.Generator`, and what is
undefined comes out as NaN, never as 0.

    intervals.py     intervals for means and rates on seeds, on questions, on both
    runs.py          the headline interval: runs as random effects on a bounded scale, spread shared by places
    contrasts.py     paired and two-sample tests, permutation, effect sizes, equivalence
    multiplicity.py  Holm and Benjamini-Hochberg that keep NaN in place
    resampling.py    cluster and seed x question bootstrap on sufficient statistics
    ranking.py       ranks with intervals, P(rank = k), tiers and their stability
    variance.py      variance components, design effect, mixed model
    power.py         minimum detectable effect, seeds needed, which cells an adaptive sweep adds next
    agreement.py     judge reliability and error correction
    association.py   correlations of a few domains: exact permutation p, leave one out, partial, what could be seen
    roc.py           how well a score tells members from others
    sufficient.py    101 x 101 score histograms and the rules evaluated on them

Axes of arrays, everywhere: S seed, Q question, K sample, D domain, B bootstrap draw.
scipy and statsmodels are imported inside the functions that call them, so importing a module here costs numpy alone.
"""
