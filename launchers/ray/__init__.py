"""Ray: a run as a Ray job, whose nodes are the bundles of one placement group.

launcher     the launcher seam
client       the Job API of a cluster, over HTTP; nothing here needs Ray
driver       the job itself, on the cluster: a torchrun agent on each bundle
"""
