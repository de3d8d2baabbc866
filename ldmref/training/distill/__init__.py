"""Distillation: a flow map that jumps along the guided runs of a model, its teacher.

trajectories.py  the runs of the teacher, all of their states, on disk
student.py       the teacher's networks with a second time, and the model that is written
regression.py    what the student must predict for a step between two states, and its loss
"""
