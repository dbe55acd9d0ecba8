collect_ignore = ["tensorboard_program.py"]  # whose libraries are for a process of its own
