# The learning rate and the seed of kdecay for nanoGPT, whose train.py reads this file by its
# configurator, before the options that follow it:
#
#     python train.py kdecay.py --kdecay_csv={schedule_csv} --kdecay_seed={seed}

import csv

from torch.optim.optimizer import register_optimizer_step_pre_hook

kdecay_csv = ""
kdecay_seed = 0
kdecay_rates = []


def set_rate(optimizer, *_):
    """Set the learning rate of update iter_num, in place of the one that train.py has set."""
    if not kdecay_rates:
        with open(kdecay_csv) as file:
            kdecay_rates.extend(float(row["learning_rate"]) for row in csv.DictReader(file))
    for group in optimizer.param_groups:
        group["lr"] = kdecay_rates[iter_num]


register_optimizer_step_pre_hook(set_rate)
torch.manual_seed = lambda number, seed=torch.manual_seed: seed(number + kdecay_seed)
