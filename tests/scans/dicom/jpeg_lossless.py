"""A small encoder of lossless JPEG (ISO 10918-1, process 14), for tests: no decoder of ours takes part in it."""

import struct

CODE_BITS = 5  # every one of the 17 categories of differences has a code of this length


def encode(frame, precision: int, selection: int = 1) -> bytes:
    """Unsigned numbers (rows, columns) below 2**precision as one codestream.

    Args:
        frame: the numbers.
        precision: bits of a number, 2 to 16.
        selection: the predictor, 1 to 7 (table H.1).
    """
    rows, columns = frame.shape
    huffman = bytes([0] * (CODE_BITS - 1) + [17] + [0] * (16 - CODE_BITS)) + bytes(range(17))
    out = b"\xff\xd8"
    out += _segment(0xC3, struct.pack(">BHHB", precision, rows, columns, 1) + b"\1\x11\0")
    out += _segment(0xC4, b"\0" + huffman)
    out += _segment(0xDA, b"\1\1\0" + bytes([selection, 0, 0]))
    bits = []
    for y in range(rows):
        for x in range(columns):
            guess = _guess(frame, y, x, precision, selection)
            difference = (int(frame[y, x]) - guess) & 0xFFFF
            difference -= 0x10000 if difference > 0x8000 else 0
            category = abs(difference).bit_length() if difference != 0x8000 else 16
            bits.append(f"{category:0{CODE_BITS}b}")
            if 0 < category < 16:
                amount = difference if difference > 0 else difference + 2**category - 1
                bits.append(f"{amount:0{category}b}")
    text = "".join(bits)
    text += "1" * (-len(text) % 8)
    data = int(text, 2).to_bytes(len(text) // 8, "big")
    return out + data.replace(b"\xff", b"\xff\0") + b"\xff\xd9"


def _guess(frame, y: int, x: int, precision: int, selection: int) -> int:
    if y == 0:
        return 2 ** (precision - 1) if x == 0 else int(frame[0, x - 1])
    if x == 0:
        return int(frame[y - 1, 0])
    a, b, c = int(frame[y, x - 1]), int(frame[y - 1, x]), int(frame[y - 1, x - 1])
    return (a, b, c, a + b - c, a + (b - c) // 2, b + (a - c) // 2, (a + b) // 2)[selection - 1]


def _segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body
