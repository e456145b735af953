"""Where media are decoded: on this machine, by Apache Beam, by Dask."""
