/** `id` is bytes shown in hex. A name in the tables is a message; `[]` behind a type means that it repeats. */
export type Scalar = 'string' | 'bytes' | 'id' | 'bool' | 'double' | 'int32' | 'int64' | 'fixed64' | 'sfixed64'

/** Messages by name: field number to name and type. What they do not name is skipped. */
export type MessageTables = Readonly<Record<string, Readonly<Record<number, readonly [name: string, type: string]>>>>

/** A field that did not come is not there, not even as an empty list. 64 bits are a bigint. */
export interface Message {
  readonly [field: string]: Value
}

export type Value = undefined | string | boolean | number | bigint | Uint8Array | Message | readonly Value[]

/** As deep as a message may lie in others: the same limit as in Google's readers. */
export const maxDepth = 100

const wireTypes: Readonly<Record<Scalar, number>> = {
  bool: 0,
  int32: 0,
  int64: 0,
  double: 1,
  fixed64: 1,
  sfixed64: 1,
  string: 2,
  bytes: 2,
  id: 2
}

/**
 * Reads one protobuf message.
 *
 * @throws {Error} for bytes that are no such message, with the field
 *
 * @example
 * readProtobuf(Buffer.from([0x0a, 1, 0x61]), { Key: { 1: ['name', 'string'] } }, 'Key') // { name: 'a' }
 */
export function readProtobuf(bytes: Uint8Array, tables: MessageTables, name: string, depth: number = 0): Message {
  if (depth > maxDepth) throw new Error('messages lie too deep in each other')
  const fields = fieldsOf(tables, name)
  const message: Record<string, Value> = {}
  const wire = openWire(bytes)
  while (!wire.atEnd()) {
    const tag = wire.length()
    const field = fields[tag >>> 3]
    if (tag >>> 3 === 0) throw new Error(`${name}: field 0`)
    if (field === undefined) wire.skip(tag & 7)
    else {
      try {
        readField(field, tag & 7)
      } catch (error) {
        throw new Error(`${name}.${field[0]}: ${(error as Error).message}`, { cause: error })
      }
    }
  }
  return message

  function readField([key, type]: readonly [string, string], wireType: number): void {
    const item = type.replace('[]', '')
    const expected = wireTypes[item as Scalar] ?? 2
    if (item === type) {
      if (wireType !== expected) throw new Error(`wire type ${wireType} in place of ${expected}`)
      message[key] = readValue(item, wire)
      return
    }
    message[key] ??= []
    const list = message[key] as Value[]
    if (wireType === expected) list.push(readValue(item, wire))
    else if (wireType === 2) {
      // Packed: numbers one behind the other.
      const packed = openWire(wire.bytes())
      while (!packed.atEnd()) list.push(readValue(item, packed))
    } else throw new Error(`wire type ${wireType} in place of ${expected}`)
  }

  function readValue(type: string, from: Wire): Value {
    if (type in tables) return readProtobuf(from.bytes(), tables, type, depth + 1)
    return scalars[type as Scalar](from)
  }
}

export function fieldsOf(tables: MessageTables, name: string): MessageTables[string] {
  const fields = tables[name]
  if (fields === undefined) throw new TypeError(`there is no table of ${name}`)
  return fields
}

type Wire = ReturnType<typeof openWire>

const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

/** @throws {TypeError} for what is no UTF-8 */
export function readText(bytes: Uint8Array): string {
  return utf8.decode(bytes)
}

const scalars: Readonly<Record<Scalar, (wire: Wire) => Value>> = {
  bool: (wire) => wire.varint() !== 0n,
  int32: (wire) => Number(BigInt.asIntN(32, wire.varint())),
  int64: (wire) => BigInt.asIntN(64, wire.varint()),
  double: (wire) => wire.eight().getFloat64(0, true),
  fixed64: (wire) => wire.eight().getBigUint64(0, true),
  sfixed64: (wire) => wire.eight().getBigInt64(0, true),
  string: (wire) => readText(wire.bytes()),
  bytes: (wire) => wire.bytes(),
  id: (wire) => Buffer.from(wire.bytes()).toString('hex')
}

function openWire(bytes: Uint8Array): {
  atEnd(): boolean
  varint(): bigint
  /** A varint that is small: a tag or a length. */
  length(): number
  eight(): DataView
  bytes(): Uint8Array
  skip(wireType: number): void
} {
  let offset = 0

  /** Steps over so many bytes and gives where they begin. */
  function step(length: number): number {
    if (length > bytes.length - offset) throw new Error('cut off')
    const start = offset
    offset += length
    return start
  }

  const wire: Wire = {
    atEnd: () => offset === bytes.length,
    varint() {
      let value = 0n
      for (let shift = 0n; shift < 70n; shift += 7n) {
        const byte = bytes[step(1)] as number
        value |= BigInt(byte & 127) << shift
        if (byte < 128) return BigInt.asUintN(64, value)
      }
      throw new Error('a number of more than ten bytes')
    },
    length() {
      // Nearly all are of one byte, and a bigint is slow.
      const byte = bytes[offset] ?? 128
      if (byte >= 128) return Number(wire.varint())
      offset++
      return byte
    },
    eight: () => new DataView(bytes.buffer, bytes.byteOffset + step(8), 8),
    bytes() {
      const length = wire.length()
      const start = step(length)
      return bytes.subarray(start, start + length)
    },
    skip(wireType) {
      if (wireType === 0) wire.varint()
      else if (wireType === 1) step(8)
      else if (wireType === 2) wire.bytes()
      else if (wireType === 5) step(4)
      else throw new Error(`wire type ${wireType}`)
    }
  }
  return wire
}
