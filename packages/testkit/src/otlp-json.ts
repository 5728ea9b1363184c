import { fieldsOf, type Message, type MessageTables, maxDepth, type Scalar, type Value } from './protobuf.ts'

/**
 * Reads a message from protobuf's JSON, with what OTLP changes in it: ids are hex and enums are numbers. Unknown fields are
 * skipped, as OTLP asks.
 *
 * @throws {Error} for a value that is no such message, with the field
 *
 * @example
 * readOtlpJson({ name: 'a' }, { Key: { 1: ['name', 'string'] } }, 'Key') // { name: 'a' }
 */
export function readOtlpJson(value: unknown, tables: MessageTables, name: string, depth: number = 0): Message {
  if (depth > maxDepth) throw new Error('messages lie too deep in each other')
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw new Error(`${name} is no object`)
  const message: Record<string, Value> = {}
  for (const [key, type] of Object.values(fieldsOf(tables, name))) {
    const field = (value as Readonly<Record<string, unknown>>)[key]
    // In protobuf's JSON null is a field that was not sent.
    if (field === undefined || field === null) continue
    message[key] = readField(`${name}.${key}`, field, type)
  }
  return message

  function readField(path: string, field: unknown, type: string): Value {
    if (!type.endsWith('[]')) return readValue(path, field, type)
    if (!Array.isArray(field)) throw new Error(`${path} is no list`)
    return field.map((item) => readValue(path, item, type.slice(0, -2)))
  }

  function readValue(path: string, item: unknown, type: string): Value {
    if (type in tables) return readOtlpJson(item, tables, type, depth + 1)
    const read = scalars[type as Scalar](item)
    if (read === undefined) throw new Error(`${path} is no ${type === 'string' ? 'string of whole characters' : type}`)
    return read
  }
}

/** `undefined` for what is none. */
const scalars: Readonly<Record<Scalar, (value: unknown) => Value>> = {
  // Half of a surrogate pair, escaped, is JSON but no text: UTF-8 cannot hold it.
  string: (value) => (typeof value === 'string' && value.isWellFormed() ? value : undefined),
  bool: (value) => (typeof value === 'boolean' ? value : undefined),
  id: (value) => (typeof value === 'string' && /^([\da-f]{2})*$/i.test(value) ? value.toLowerCase() : undefined),
  bytes: (value) => (typeof value === 'string' ? Buffer.from(value, 'base64') : undefined),
  int32: (value) => (typeof value === 'number' && value === value >> 0 ? value : undefined),
  int64: readSigned,
  fixed64: readUnsigned,
  sfixed64: readSigned,
  double: (value) => {
    if (typeof value === 'number') return value
    return value === 'NaN' || value === 'Infinity' || value === '-Infinity' ? Number(value) : undefined
  }
}

function readSigned(value: unknown): bigint | undefined {
  const read = readBigint(value)
  return read !== undefined && read === BigInt.asIntN(64, read) ? read : undefined
}

function readUnsigned(value: unknown): bigint | undefined {
  const read = readBigint(value)
  return read !== undefined && read === BigInt.asUintN(64, read) ? read : undefined
}

/** 64 bits are sent as a string; numbers are taken too. */
function readBigint(value: unknown): bigint | undefined {
  if (Number.isInteger(value) || (typeof value === 'string' && /^-?\d+$/.test(value))) return BigInt(value as number | string)
  return undefined
}
