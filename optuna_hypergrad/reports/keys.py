"""The attribute keys, all of them."""

# What the objective reports: {"trial": number, …}, so that what a retried or copied trial only
# inherited can be told from its own. System attributes, since as columns of optuna-dashboard they
# would bury the numbers below.
GRADIENT = "hg:gradient"  # "values": {name: float or mark}
# With ":" and the name of the constraint behind it; the same fields.
CONSTRAINT_GRADIENT = "hg:constraint_gradient"
REFINED = "hg:refined"  # "values": {name: float or mark}
CHECKPOINT = "hg:checkpoint"  # the fields of a Checkpoint
SCHEDULES = "hg:schedules"  # "schedules": {name: the fields of a Shape}
TANGENTS = "hg:tangents"  # "norms": {step: float or mark}

# System attributes, too, which samplers and pruners decide.
CLAIM = "hg:claim"  # the fields of a Claim
DRAWN = "hg:drawn"  # {name: internal value} that replicates are to repeat
SEGMENT = "hg:segment"  # the fields of a Segment
TEACHER = "hg:teacher"  # the fields of a Taught
SUPERFLUOUS = "hg:superfluous"  # "trial": number, of a replicate that can change nothing
REMOVED = "hg:removed"  # numbers of the trials whose checkpoints this one has removed

# Numbers for all to see: user attributes, one column each in optuna-dashboard.
GRADIENT_NORM = "hg:gradient_norm"
CHAIN, STEP, AGREEMENT, WINDOWS = "hg:chain", "hg:step", "hg:agreement", "hg:windows"
MEMBER, GENERATION, PARENT = "hg:member", "hg:generation", "hg:parent"
RESTORED = "hg:restored"  # the trial whose checkpoint was restored, where it is not the parent's

# Optuna's own: the system attribute that marks a retried trial, with the number of the failed one.
RETRIED = "failed_trial"
# … and its constraints: a list, of ``constraints_func``; or, of ``Trial.set_constraint``, a number
# each with ":" and the name behind the key.
CONSTRAINTS = "constraints"
