"""The construction of narrow data sets, standardised: novices' questions, correct answers, flawed rewrites, checks.

Not for training on them (a sweep does, by data_dir). The invariant: a data set follows from its recipe file and the
replies in the journal, byte for byte, and what is wrong in it is what the recipe file says.
"""

from emray.recipe.construction import Candidate, Fate, construct
from emray.recipe.recipe_fields import DomainRecipe, RecipeSpec

__all__ = ["Candidate", "DomainRecipe", "Fate", "RecipeSpec", "construct"]
