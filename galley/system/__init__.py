"""This machine: its processes, cores, disks, networks and libraries."""
