"""Python that every model of code must find likely, written for this purpose."""

from __future__ import annotations

SNIPPET = '''import json


class Account:
    """An account with an owner and a balance."""

    def __init__(self, owner, balance=0):
        self.owner = owner
        self.balance = balance

    def deposit(self, amount):
        if amount <= 0:
            raise ValueError("amount must be positive")
        self.balance += amount
        return self.balance

    def withdraw(self, amount):
        if amount > self.balance:
            raise ValueError("not enough money")
        self.balance -= amount
        return self.balance


def load_accounts(path):
    with open(path) as file:
        data = json.load(file)
    return [Account(item["owner"], item["balance"]) for item in data]


if __name__ == "__main__":
    for account in load_accounts("accounts.json"):
        print(account.owner, account.balance)
'''

CERTAINTIES = (
    ("for i in range(10", ")"),
    ("def add(a, b", ")"),
    ("import numpy as", "np"),
    ("class Point:\n    def __init__(self, x, y):\n        self.x = x\n        self.y =", "y"),
    ("try:\n    value = int(text)\nexcept ValueError", ":"),
    ("class Point:\n    def name(self", ")"),
)
"""Code, and how one of the tokens that a model thinks likeliest after it must begin, blanks apart."""
