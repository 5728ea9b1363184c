/** Protobuf by hand, so that the reader is not tested with itself: field number, then the bytes behind its tag. */
export function text(field: number, value: string): Buffer {
  return bytes(field, Buffer.from(value))
}

export function bytes(field: number, ...parts: readonly Uint8Array[]): Buffer {
  const content = Buffer.concat(parts)
  return Buffer.concat([varint((field << 3) | 2), varint(content.length), content])
}

export function number(field: number, value: number | bigint): Buffer {
  return Buffer.concat([varint(field << 3), varint(value)])
}

export function double(field: number, value: number): Buffer {
  const content = Buffer.alloc(8)
  content.writeDoubleLE(value)
  return Buffer.concat([varint((field << 3) | 1), content])
}

export function fixed64(field: number, value: bigint): Buffer {
  const content = Buffer.alloc(8)
  content.writeBigUInt64LE(BigInt.asUintN(64, value))
  return Buffer.concat([varint((field << 3) | 1), content])
}

export function varint(value: number | bigint): Buffer {
  const parts: number[] = []
  let rest = BigInt.asUintN(64, BigInt(value))
  for (; rest > 127n; rest >>= 7n) parts.push(Number(rest & 127n) | 128)
  return Buffer.from([...parts, Number(rest)])
}
