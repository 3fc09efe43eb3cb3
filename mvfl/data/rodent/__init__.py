"""Embedded renderer of an articulated, furred rodent: the default data set."""
