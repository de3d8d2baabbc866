"""The judge of what is between the networks is the run itself.

The plan of a recorded run is run again, on a backend whose networks return what was recorded of
them. Everything that this run computes is compared with what was recorded, and the run continues
with the recorded array, so a fault stays where it is.

| module         | what it has                                                            |
|----------------|------------------------------------------------------------------------|
| `request`      | the request of a recorded run, from its parameters or its arrays       |
| `calls`        | the recorded calls, with which those of the run are compared           |
| `networks`     | the backend whose networks return what was recorded                    |
| `follow`       | follows a run of ldmref, or the view of another program's              |
| `repeated`     | the run that is made again, and what of it was compared                |
| `unrecorded`   | its scale, sampler and levels, where the recording does not say them   |
| `views`        | the run of another program, under the names of a run of ldmref         |
| `levels`       | the levels on which it went, where they are others than its request's  |
| `noises`       | noise that was not recorded, from what depends on it                   |
| `branches`     | a recorded branch, as runs that share their first steps                |
| `visits`       | guidance alone, of a recording that is no run                          |
| `rows`         | the rows of a report, with the noise of each computation               |
| `causes`       | the causes of wrong arrays: one change of what they are computed from  |
| `other_arrays` | other arrays that may be in the place of one                           |
| `changes`      | changes of the request and the configuration                           |
| `steps`        | the steps, taken again with another setting                            |
| `pieces`       | what rows call the groups of channels and the inputs of networks       |
"""

from ldmref.locate.run.follow import follow_run as follow_run
from ldmref.locate.run.follow import follow_view as follow_view
from ldmref.locate.run.rows import RunComparison as RunComparison
from ldmref.locate.run.views import ArrayPart as ArrayPart
from ldmref.locate.run.views import RunView as RunView
