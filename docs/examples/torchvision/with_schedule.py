"""Runs a script with the learning rates of a file: with_schedule.py RATES.csv SEED SCRIPT ..."""

import csv
import runpy
import sys

import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

_, rates_csv, seed, *sys.argv = sys.argv
with open(rates_csv) as file:
    rates = [float(row["learning_rate"]) for row in csv.DictReader(file)]
update = 0


def set_rate(optimizer, *arguments):
    global update
    for group in optimizer.param_groups:
        group["lr"] = rates[update]
    update += 1


register_optimizer_step_pre_hook(set_rate)
torch.manual_seed(int(seed))
runpy.run_path(sys.argv[0], run_name="__main__")
