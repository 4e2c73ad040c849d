"""Runs that start without importing anything: forked from processes that hold the libraries.

server   one process that has torch, the model's module, tokenizer, data and weights in memory
 └ leader     forked for a run: meets the ranks, waits for them, reports the first that fails
    └ ranks   forked from the leader; each enters `trainer.worker.main`, like a cold one
"""
