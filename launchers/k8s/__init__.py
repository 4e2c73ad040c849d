"""Kubernetes: a run as a PyTorchJob (Kubeflow Training Operator v1) or a TrainJob (Kubeflow Trainer v2).

names, pod, manifests     RunSpec -> objects, as plain mappings; pure
checks, fields            what is wrong with objects, before a server is asked
text                      objects -> YAML
launcher                  the launcher seam, over `client` (kubectl) or `pyclient`
unpack, node              what runs in a pod: verify the sealed run, then the ranks of one node
collect, relay            files and logs of a run, out of the logs of its pods
"""
