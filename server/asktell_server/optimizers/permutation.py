"""A random order of 0, ..., size - 1 that is computed, not stored: element by element, for any size.

A Feistel network [1]_ permutes the pairs of numbers of some bits, that is the numbers below a power of 4; its round function is
a hash keyed by the seed. Results that fall outside the range are permuted again until they fall inside ("cycle walking" [2]_),
which takes less than 4 rounds on average and keeps the map one-to-one.

.. [1] M. Luby, C. Rackoff. How to construct pseudorandom permutations from pseudorandom functions. SIAM J. Comput. 17 (1988).
.. [2] J. Black, P. Rogaway. Ciphers with arbitrary finite domains. CT-RSA 2002.
"""

from __future__ import annotations

from hashlib import shake_128

ROUNDS = 4


class Permutation:
    """A permutation of range(size), chosen by `key`; size is at least 1."""

    def __init__(self, size: int, key: bytes) -> None:
        self.size = size
        self._key = key
        self._bits = ((size - 1).bit_length() + 1) // 2
        self._bytes = (self._bits + 7) // 8
        self._mask = (1 << self._bits) - 1

    def __call__(self, i: int) -> int:
        """Where `i` goes."""
        i = self._mixed(i)
        while i >= self.size:
            i = self._mixed(i)
        return i

    def _mixed(self, i: int) -> int:
        left, right = i >> self._bits, i & self._mask
        for round_ in range(ROUNDS):
            data = self._key + bytes([round_]) + right.to_bytes(self._bytes, "little")
            noise = int.from_bytes(shake_128(data).digest(self._bytes), "little") & self._mask
            left, right = right, left ^ noise
        return left << self._bits | right
