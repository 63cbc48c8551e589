"""What rules judge: facts about a repository, read without running any of it.

repository      the files, builds and metadata of a repository on disk
hub             a repository on the Hub, downloaded for as long as it is checked
build_names     the backends that the names of builds mean
python_files    Python source, parsed; from its tree:
python_walk (what Python 3.9 runs of it), imports, syntax, unions, new_names
operators       all Python of a build, and the operators in it; constants evaluates their names
layer_classes   the layers of a build
native          the values that the readers in `native/` return
observation     the values that `run/` returns
"""
