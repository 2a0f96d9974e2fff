"""Two folders of scans to one data set of TFRecords.

Everything that can be known from names and headers is settled before Apache Beam starts: which scans are sound, the
working grid, the split, and which scans make up which shard. A task of the Beam pipeline is one shard, whose scans are
read, prepared and written one after the other: a worker holds one volume at a time, and the bytes do not depend on the
number of workers nor on the runner. Shards that are there from an earlier run are not made again, and the data set
takes its place in one step when all is done (`workspace.py`).
"""

from data_prep.build.command import add_arguments, run
from data_prep.build.pipeline import build, build_request
from data_prep.build.request import BuildRequest

__all__ = ["BuildRequest", "add_arguments", "build", "build_request", "run"]
