"""A search for the schedule of any program, in any language: this one does not use kdecay-search.

It reads its learning rates from a file and prints a line of JSON after every epoch. Everything else
that it prints is its log.
"""

import argparse
import csv
import json

import numpy as np
from sklearn.datasets import load_digits

BATCH = 16


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--schedule", required=True, help="CSV: step, learning_rate")
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--purpose", choices=["search", "confirmation"], required=True)
    options = parser.parse_args()
    with open(options.schedule) as file:
        rates = [float(row["learning_rate"]) for row in csv.DictReader(file)]

    images, labels, held_out = data(options.purpose)
    random = np.random.default_rng(options.seed)  # the same for every schedule
    weights, momentum = random.normal(0, 0.1, (65, 10)), np.zeros((65, 10))
    average, step, steps = weights.copy(), 0, options.epochs * (len(images) // BATCH)
    for epoch in range(1, options.epochs + 1):
        order = random.permutation(len(images))
        for start in range(0, len(order) - BATCH + 1, BATCH):
            batch = order[start : start + BATCH]
            gradient = images[batch].T @ (softmax(images[batch] @ weights) - labels[batch]) / BATCH
            momentum = 0.9 * momentum + gradient
            rate = rates[step * (len(rates) - 1) // steps]  # its last row is the end
            weights = weights - rate * momentum
            average += 0.05 * (weights - average)  # averaged weights: hopeless runs can end early
            step += 1
        result = {"error": error(weights, *held_out), "averaged_error": error(average, *held_out)}
        print(json.dumps({"epoch": epoch, **result}), flush=True)


def data(purpose: str) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Images and labels to train on, and those to measure the error on.

    A search splits the training set and does not touch the test set. A confirmation
    (`kdecay confirm`) trains on the whole training set and measures the error on the test set.
    """
    digits = load_digits()
    images = np.hstack([digits.data / 16, np.ones((len(digits.data), 1))])
    labels = np.eye(10)[digits.target]
    order = np.random.default_rng(0).permutation(len(images))
    test, held_out, rest = order[:360], order[360:1400], order[1400:]
    if purpose == "confirmation":
        rest, held_out = order[360:], test
    return images[rest], labels[rest], (images[held_out], labels[held_out])


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def error(weights: np.ndarray, images: np.ndarray, labels: np.ndarray) -> float:
    """Share of the images that are classified wrongly, in percent."""
    return 100 * float(np.mean((images @ weights).argmax(axis=1) != labels.argmax(axis=1)))


main()
