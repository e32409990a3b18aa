"""Launching on clusters through FireWorks: the same flows as on one machine, each job on the workers of its route.

`routes` says which job goes where and what it asks for; `project` writes the folder that a cluster's workers need and
`check` tries it; `flows` makes the flows that the local commands would run; `submit` hands them to the LaunchPad;
`worker` runs FireWorks' launchers so that a database that is away, a full disk or the end of a wall time cost nothing;
`progress` tells what became of jobs and `control` runs again, cancels and shows logs.
"""
