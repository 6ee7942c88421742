"""The machines that the memory manager runs on: worker processes as CPUs, workloads, runs and their reports.

`python -m shmm.cluster --help` says what there is; launch.run_point is the same from Python.
"""
