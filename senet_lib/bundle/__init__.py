"""A study on a machine without internet access: a folder with all that its runs need, and its finished runs back.

write.py     `make bundle`: writes the folder, in parts of a limited size
wheels.py    which packages the other machine lacks, and their download
images.py    a data set as a few lossless pictures, and back
run.sh       goes along: joins the parts, installs, starts there.py
needed.py    on the other machine: whether all needed packages are installed
there.py     on the other machine: executes the runs within a time limit and packs the finished ones
packs.py     finished runs as files of at most 16 MiB, and `make unpack`
__main__.py  the commands
"""
