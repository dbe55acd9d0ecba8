"""What the objective of a population holds: its student's lineage, checkpoint and values."""

from optuna_hypergrad.members.member import Keep, Member, begin

__all__ = ["Keep", "Member", "begin"]
