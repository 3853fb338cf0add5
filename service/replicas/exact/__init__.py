"""Replicas that agree to the last bit, however many there are.

Two things make a sum depend on the number of replicas: the order in which it is taken, and kernels whose result for
a row depends on how many rows they are given. So the global batch is split into *cells*, fixed runs of its rows, of
which a replica holds some, whole; every sum over rows is taken within a cell, and then over cells in one binary tree
(`tree`); and a kernel is given all rows at once only where that has been seen to give the bits that it gives cell by
cell (`kernels`).

Values are of two kinds. *Rows* are of this replica's rows alone; their gradient is the loss's. What is *whole* (a
statistic, a weight, the whole batch's logits) is the same on every replica, and so is its gradient, which is that of
the loss through all rows, wherever they are. Four maps lead from one to the other, and each is the other's adjoint:
sum over rows and spread to rows, gather and take (`batch`). Weights are spread to rows by the products they are in
(`service.replicas.products`); their gradients are summed for many at once (`gradients`).
"""
