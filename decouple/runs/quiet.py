"""Imported for its effect: Gym's notice is dropped. For a process that is told by their names what to import first."""

from decouple.runs.notices import drop_gym_notice

drop_gym_notice()
